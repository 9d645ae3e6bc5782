"""What the simulated hospital writes down: MIMIC-IV 3.1's tables as frames."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from equipoise.simulate.catalog import load_diagnoses, load_labs
from equipoise.simulate.conditions import CONDITIONS, RACES
from equipoise.simulate.people import INSURANCES, RACE_VALUES, People
from equipoise.simulate.results import Results
from equipoise.simulate.visits import Stays, starts_of

#: Share of admissions after the first that write down another race for the same person.
OTHER_RACE: Final = 0.02
PROVIDERS: Final = 3000
WEIGHTS = tuple[tuple[str | None, float], ...]
LANGUAGES: Final[WEIGHTS] = (
    ("English", 0.90),
    ("Spanish", 0.04),
    ("Russian", 0.015),
    ("Chinese", 0.015),
    ("Kabuverdianu", 0.01),
    ("Other", 0.018),
    (None, 0.002),
)
MARITAL: Final[WEIGHTS] = (
    ("MARRIED", 0.45),
    ("SINGLE", 0.36),
    ("WIDOWED", 0.10),
    ("DIVORCED", 0.07),
    (None, 0.02),
)
ADMISSION_TYPES: Final[WEIGHTS] = (
    ("EW EMER.", 0.33),
    ("EU OBSERVATION", 0.22),
    ("OBSERVATION ADMIT", 0.15),
    ("URGENT", 0.10),
    ("SURGICAL SAME DAY ADMISSION", 0.08),
    ("DIRECT OBSERVATION", 0.05),
    ("DIRECT EMER.", 0.04),
    ("ELECTIVE", 0.03),
)
ADMITTED_FROM: Final[WEIGHTS] = (
    ("EMERGENCY ROOM", 0.45),
    ("PHYSICIAN REFERRAL", 0.27),
    ("WALK-IN/SELF REFERRAL", 0.12),
    ("TRANSFER FROM HOSPITAL", 0.08),
    ("CLINIC REFERRAL", 0.05),
    ("TRANSFER FROM SKILLED NURSING FACILITY", 0.03),
)
DISCHARGED_TO: Final[WEIGHTS] = (
    ("HOME", 0.38),
    ("HOME HEALTH CARE", 0.20),
    ("SKILLED NURSING FACILITY", 0.11),
    ("REHAB", 0.03),
    ("CHRONIC/LONG TERM ACUTE CARE", 0.02),
    ("HOSPICE", 0.01),
    ("AGAINST ADVICE", 0.01),
    (None, 0.24),
)
#: What stands in `labevents.comments`, and in how many of 65,536 rows.
COMMENTS: Final = (
    ("___", 2400),
    ("NEG.", 1400),
    ("NORMAL.", 1000),
    ("New reference range as of ___.", 600),
    ("VERIFIED.", 500),
    ("VERIFIED.  PROVIDER NOTIFIED PER CURRENT LAB POLICY.", 300),
    ("Hemolysis falsely elevates this test, if present.", 300),
    ('VERIFIED, "1 NRBC"/100 WBCS SEEN.', 60),
    ('REPORTED AS "MODERATE", SEE NOTE; CALLED TO DR. ___.', 30),
    ("SPECIMEN CLOTTED,\nNEW SPECIMEN REQUESTED.", 6),
)
GLUCOSE_COMMENT: Final = "IF FASTING, 70-100 NORMAL, >125 PROVISIONAL DIABETES."
LABEVENTS: Final = (
    "labevent_id",
    "subject_id",
    "hadm_id",
    "specimen_id",
    "itemid",
    "order_provider_id",
    "charttime",
    "storetime",
    "value",
    "valuenum",
    "valueuom",
    "ref_range_lower",
    "ref_range_upper",
    "flag",
    "priority",
    "comments",
)


def times(minutes: NDArray[np.int64]) -> pl.Series:
    """Minutes since 1970 as a column of times."""
    return pl.Series(minutes * 60_000_000).cast(pl.Datetime("us"))


def times_where(known: NDArray[np.bool_], minutes: NDArray[np.int64]) -> pl.Series:
    """As `times`, null where not `known`."""
    return where_known(known, times(np.where(known, minutes, 0)))


def where_known(known: NDArray[np.bool_], values: pl.Series) -> pl.Series:
    """`values`, null where not `known`."""
    return values.zip_with(pl.Series(known), pl.Series([None], dtype=values.dtype))


def admissions_frame(
    rng: np.random.Generator,
    people: People,
    stays: Stays,
) -> pl.DataFrame:
    """The table `admissions`."""
    visits = stays.visits
    count = len(visits)
    who = visits.subject
    first = np.flatnonzero(starts_of(who))[np.cumsum(starts_of(who)) - 1]
    values = np.array([value for value, _, _ in RACE_VALUES])
    changes = (rng.random(count) < OTHER_RACE) & ~starts_of(who)
    race = np.where(changes, rng.integers(0, 8, count), people.race_value[who])
    emergency = rng.random(count) < 0.65
    arrived = visits.admitted - rng.integers(60, 600, count)
    left = visits.admitted + rng.integers(5, 120, count)
    return pl.DataFrame(
        {
            "subject_id": people.subject_id[who],
            "hadm_id": stays.hadm_id,
            "admittime": times(visits.admitted),
            "dischtime": times(visits.discharged),
            "deathtime": times_where(stays.dies, stays.died),
            "admission_type": _pick(rng, ADMISSION_TYPES, count),
            "admit_provider_id": _providers().gather(rng.integers(0, PROVIDERS, count)),
            "admission_location": _pick(rng, ADMITTED_FROM, count),
            "discharge_location": _pick(rng, DISCHARGED_TO, count),
            "insurance": np.array(INSURANCES)[people.insurance[who]],
            "language": _pick(rng, LANGUAGES, count).gather(first),
            "marital_status": _pick(rng, MARITAL, count).gather(first),
            "race": values[race],
            "edregtime": times_where(emergency, arrived),
            "edouttime": times_where(emergency, left),
            "hospital_expire_flag": stays.dies.astype(np.int64),
        }
    ).with_columns(
        discharge_location=pl.when(pl.col("hospital_expire_flag") == 1)
        .then(pl.lit("DIED"))
        .otherwise("discharge_location")
    )


def diagnoses_frame(rng: np.random.Generator, people: People, stays: Stays) -> pl.DataFrame:
    """The table `diagnoses_icd`; what brought the patient in stands first more often."""
    visits = stays.visits
    visit, slot = np.nonzero(visits.codes)
    catalog = load_diagnoses()
    priority = rng.random(len(visit)) + (catalog.condition[slot] < 0)
    order = np.lexsort((priority, visit))
    visit, slot = visit[order], slot[order]
    first = starts_of(visit)
    place = np.arange(len(visit))
    nine, ten = (catalog.frame[f"icd{version}_code"].gather(slot) for version in (9, 10))
    is_ten = visits.is_icd10[visit]
    return pl.DataFrame(
        {
            "subject_id": people.subject_id[visits.subject[visit]],
            "hadm_id": stays.hadm_id[visit],
            "seq_num": place - np.maximum.accumulate(np.where(first, place, 0)) + 1,
            "icd_code": ten.zip_with(pl.Series(is_ten), nine),
            "icd_version": np.where(is_ten, 10, 9),
        }
    )


def labevents_frame(
    rng: np.random.Generator,
    people: People,
    hadm_id: NDArray[np.int64],
    results: Results,
    first_row: int,
    first_specimen: int,
) -> pl.DataFrame:
    """The table `labevents`; `hadm_id` is that of each visit, before any was cut off by death."""
    labs, specimens = load_labs(), results.specimens
    count = len(specimens)
    inside = specimens.recorded_visit >= 0
    provider = np.where(rng.random(count) < 0.6, PROVIDERS, rng.integers(0, PROVIDERS, count))
    # The factor shares no divisor with the modulus, so that no number comes twice.
    sample = (np.arange(first_specimen, first_specimen + count) * 61_803_399 + 7) % 10**8
    of_specimen = pl.DataFrame(
        {
            "subject_id": people.subject_id[specimens.subject],
            "hadm_id": where_known(
                inside, pl.Series(np.append(hadm_id, 0)[specimens.recorded_visit])
            ),
            "specimen_id": sample,
            "order_provider_id": _providers().gather(provider),
            "charttime": times(specimens.time),
            "storetime": times(specimens.time + rng.integers(25, 160, count)),
            "priority": _pick(rng, (("STAT", 0.52), ("ROUTINE", 0.40), (None, 0.08)), count),
        }
    )
    value = labs.numbers[results.number]
    of_item = _items().drop("label", "fluid", "category")
    frame = pl.concat(
        [of_specimen[results.specimen], of_item[results.item]], how="horizontal"
    ).with_columns(
        labs.texts.gather(results.value).alias("value"),
        pl.Series("valuenum", value, nan_to_null=True),
        _comments(rng, results.item).alias("comments"),
        labevent_id=pl.int_range(first_row, first_row + len(value), dtype=pl.Int64),
    )
    abnormal = ~pl.col("valuenum").is_between("ref_range_lower", "ref_range_upper")
    return frame.with_columns(flag=pl.when(abnormal).then(pl.lit("abnormal"))).select(LABEVENTS)


def truth_frame(people: People, stays: Stays) -> pl.DataFrame:
    """The truth of every admission; see `equipoise.simulate` for its columns."""
    visits, chance = stays.visits, stays.chance
    last = chance / (chance + (1 - chance) * (1 - visits.returns))
    frame = pl.DataFrame(
        {
            "subject_id": people.subject_id[visits.subject],
            "hadm_id": stays.hadm_id,
            "group": np.array(RACES)[people.race[visits.subject]],
            "death_probability": chance,
            "death_probability_if_last": last,
            "failing": visits.failing,
        }
    )
    names = [condition.name.replace(" ", "_") for condition in CONDITIONS]
    return frame.hstack(pl.DataFrame(visits.has, schema=names))


def d_labitems_frame() -> pl.DataFrame:
    """The dictionary of lab items."""
    return _items().select("itemid", "label", "fluid", "category").sort("itemid")


def d_icd_diagnoses_frame() -> pl.DataFrame:
    """The dictionary of diagnosis codes."""
    frame = load_diagnoses().frame
    parts = [
        frame.select(
            icd_code=f"icd{version}_code",
            icd_version=pl.lit(version, pl.Int64),
            long_title=f"icd{version}_title",
        )
        for version in (9, 10)
    ]
    return pl.concat(parts).unique().sort("icd_code", "icd_version")


@cache
def _items() -> pl.DataFrame:
    return load_labs().frame.select(
        "itemid",
        "label",
        "fluid",
        "category",
        valueuom="unit",
        ref_range_lower="ref_low",
        ref_range_upper="ref_high",
    )


@cache
def _providers() -> pl.Series:
    """Names such as P03YMR, and none at the end."""
    names = [np.base_repr(n * 7_368_787 % 36**5, 36).zfill(5) for n in range(PROVIDERS)]
    return pl.Series([f"P{name}" for name in names] + [None])


def _comments(rng: np.random.Generator, item: NDArray[np.int64]) -> pl.Series:
    texts = pl.Series([None, GLUCOSE_COMMENT, *(text for text, _ in COMMENTS)])
    which = np.zeros(1 << 16, np.int64)
    drawn = np.repeat(np.arange(len(COMMENTS)) + 2, [share for _, share in COMMENTS])
    which[: len(drawn)] = drawn
    chosen = which[rng.integers(0, 1 << 16, len(item), np.uint16)]
    return texts.gather(np.where(item == load_labs().index("Glucose"), 1, chosen))


def _pick(rng: np.random.Generator, weights: WEIGHTS, count: int) -> pl.Series:
    values, shares = zip(*weights, strict=True)
    return pl.Series(values, dtype=pl.String).gather(rng.choice(len(values), count, p=shares))
