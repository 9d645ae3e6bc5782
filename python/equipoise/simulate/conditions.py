"""What people in the simulated hospital suffer from, and what it does to them.

Shares and weights are of the size that the literature and MIMIC-IV suggest; they are made to be
plausible, not to be estimates. Codes and how often each is recorded stand in `diagnoses.csv`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: Races as the risk knows them; `admissions.race` says the same in more words.
RACES: Final = ("white", "black", "hispanic", "asian", "other")


@dataclass(frozen=True)
class Condition:
    """A latent condition; all weights are log-odds, lab shifts are in that lab's own spread.

    `share` is how common it is in white men of 60; `death` counts for every recorded code of it,
    `returns` for every code recorded at the first visit, `failing` for having it.
    """

    name: str
    share: float
    per_decade: float = 0.0
    female: float = 0.0
    races: Mapping[str, float] = field(default_factory=dict)
    death: float = 0.0
    returns: float = 0.0
    failing: float = 0.0
    labs: Mapping[str, float] = field(default_factory=dict)


#: Had at every visit of a person who has it.
CHRONIC: Final = (
    Condition("hypertension", 0.48, 0.40, races={"black": 0.4}, death=-0.15),
    Condition(
        "diabetes",
        0.25,
        0.20,
        races={"black": 0.4, "hispanic": 0.5, "asian": 0.2},
        returns=0.10,
        labs={"Glucose": 1.2, "% Hemoglobin A1c": 1.2, "Triglycerides": 0.4},
    ),
    Condition(
        "heart failure",
        0.14,
        0.50,
        death=0.30,
        returns=0.35,
        failing=0.5,
        labs={"NTproBNP": 1.5, "Sodium": -0.3, "Urea Nitrogen": 0.5, "RDW": 0.5},
    ),
    Condition("coronary disease", 0.20, 0.45, -0.6, labs={"Troponin T": 0.4}, returns=0.05),
    Condition("atrial fibrillation", 0.14, 0.60, -0.2, labs={"INR(PT)": 1.0, "PT": 1.0}),
    Condition(
        "kidney disease",
        0.14,
        0.40,
        races={"black": 0.5, "hispanic": 0.2},
        death=0.15,
        returns=0.30,
        failing=0.3,
        labs={"Creatinine": 1.4, "Urea Nitrogen": 1.1, "Hemoglobin": -0.6, "Phosphate": 0.5},
    ),
    Condition(
        "lung disease",
        0.13,
        0.30,
        returns=0.25,
        failing=0.3,
        labs={"Bicarbonate": 0.5, "pCO2": 0.8},
    ),
    Condition(
        "cirrhosis",
        0.05,
        -0.10,
        -0.4,
        races={"hispanic": 0.5},
        death=0.35,
        returns=0.40,
        failing=0.6,
        labs={"Bilirubin, Total": 1.5, "Albumin": -0.9, "Platelet Count": -1.0, "INR(PT)": 0.8},
    ),
    Condition(
        "cancer",
        0.08,
        0.20,
        races={"black": 0.1},
        death=0.55,
        returns=0.45,
        failing=0.6,
        labs={"Albumin": -0.6, "Hemoglobin": -0.6, "Lactate Dehydrogenase (LD)": 0.8},
    ),
    Condition("depression", 0.22, -0.10, 0.5, returns=0.10),
    Condition("dementia", 0.04, 1.00, death=0.20, failing=0.3),
    Condition("obesity", 0.16, -0.20, 0.2, races={"asian": -0.7}),
    Condition(
        "alcohol use",
        0.08,
        -0.30,
        -0.9,
        returns=0.20,
        labs={"Asparate Aminotransferase (AST)": 0.8, "Magnesium": -0.4, "MCV": 0.5},
    ),
    Condition(
        "hypothyroidism", 0.06, 0.20, 1.2, labs={"Thyroid Stimulating Hormone": 0.8}, returns=0.02
    ),
)

#: Had at one visit.
ACUTE: Final = (
    Condition(
        "sepsis",
        0.06,
        0.20,
        death=0.65,
        failing=1.3,
        labs={
            "Lactate": 1.2,
            "White Blood Cells": 0.9,
            "Bicarbonate": -0.7,
            "Platelet Count": -0.4,
            "Neutrophils": 0.8,
        },
    ),
    Condition("pneumonia", 0.07, 0.20, death=0.25, failing=0.6, labs={"White Blood Cells": 0.6}),
    Condition(
        "respiratory failure",
        0.06,
        0.15,
        death=0.85,
        failing=1.3,
        labs={"pCO2": 0.7, "pO2": -0.5, "Lactate": 0.5, "pH": -0.6},
    ),
    Condition(
        "kidney injury",
        0.12,
        0.30,
        death=0.35,
        failing=0.6,
        labs={"Creatinine": 1.4, "Urea Nitrogen": 1.0, "Potassium": 0.6, "Bicarbonate": -0.5},
    ),
    Condition(
        "infarction",
        0.04,
        0.35,
        -0.4,
        death=0.30,
        failing=0.4,
        labs={"Troponin T": 2.2, "Creatine Kinase, MB Isoenzyme": 1.5, "Creatine Kinase (CK)": 0.8},
    ),
    Condition("stroke", 0.03, 0.30, death=0.50, failing=0.7, races={"black": 0.3}),
    Condition("bleeding", 0.05, 0.20, failing=0.3, labs={"Hemoglobin": -1.2, "Urea Nitrogen": 0.5}),
    Condition("electrolyte disorder", 0.15, 0.15, labs={"Sodium": -0.7, "Potassium": -0.6}),
    Condition("anemia", 0.20, 0.20, 0.2, labs={"Hemoglobin": -0.9, "RDW": 0.6, "Iron": -0.5}),
    Condition("delirium", 0.05, 0.60, death=0.10, failing=0.5),
    Condition("urinary infection", 0.06, 0.30, 0.9, labs={"White Blood Cells": 0.3}),
    Condition("fracture", 0.05, 0.40, 0.2, labs={"Hemoglobin": -0.4}),
    Condition("delivery", 0.0006, -1.90, 0.0),
    Condition(
        "shock",
        0.02,
        0.10,
        death=0.90,
        failing=1.8,
        labs={"Lactate": 1.5, "pH": -1.0, "Anion Gap": 0.8, "INR(PT)": 0.5},
    ),
)
CONDITIONS: Final = CHRONIC + ACUTE
DELIVERY: Final = [condition.name for condition in CONDITIONS].index("delivery")

#: A failing body shows it in its labs, in every group alike ...
FAILING_LABS: Final[Mapping[str, float]] = {
    "Lactate": 0.9,
    "Albumin": -0.6,
    "RDW": 0.6,
    "Bicarbonate": -0.5,
    "Urea Nitrogen": 0.5,
    "Platelet Count": -0.3,
    "White Blood Cells": 0.4,
    "Bilirubin, Total": 0.3,
    "Anion Gap": 0.4,
}
#: ... and in symptoms that are each group's own: codes of the condition "sign of <group>".
SIGN_GROUPS: Final = (*RACES, "women", "men")
SIGN_OF: Final = "sign of "
SIGN_DEATH: Final[Mapping[str, float]] = {
    "white": 1.2,
    "black": 1.3,
    "hispanic": 1.4,
    "asian": 1.4,
    "other": 1.3,
    "women": 0.7,
    "men": 0.7,
}

#: Log-odds of death for one spread of a lab's mean over the stay, everywhere ...
LAB_DEATH: Final[Mapping[str, float]] = {
    "Lactate": 0.30,
    "RDW": 0.20,
    "Albumin": -0.30,
    "Urea Nitrogen": 0.30,
    "Bicarbonate": -0.20,
}
#: ... and in one race only: the same lab does not mean the same in every group.
RACE_LAB_DEATH: Final[Mapping[str, Mapping[str, float]]] = {
    "white": {"Platelet Count": -0.30, "Anion Gap": 0.30},
    "black": {"Creatinine": 0.45, "Hemoglobin": -0.30},
    "hispanic": {"Bilirubin, Total": 0.50, "Glucose": 0.30},
    "asian": {"INR(PT)": 0.50, "Sodium": -0.40},
    "other": {"White Blood Cells": 0.40, "Potassium": 0.30},
}
