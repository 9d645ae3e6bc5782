"""The life of the simulated hospital, a few thousand subjects at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from equipoise.simulate import orders, tables
from equipoise.simulate.people import draw_people, patients_frame, sigmoid
from equipoise.simulate.results import draw_results, keep_results
from equipoise.simulate.truth import score, solve_intercept
from equipoise.simulate.visits import DAY, LAST_MINUTES, Stays, Visits, draw_visits, starts_of

#: Subjects per chunk. Part of what a seed means: another size draws another hospital.
CHUNK: Final = 2000
#: The subjects on whom the death rate is set; the same for every seed, so that risk means the same.
PILOT_SEED, PILOT_SUBJECTS, PILOT_ROWS = 20_250_208, 5000, 500.0
FIRST_HADM_ID, HADM_IDS = 20_000_000, 10_000_000
#: Deaths within a year of discharge: base chance, and times the chance of death in hospital.
LATER_DEATH, LATER_DEATH_PER_RISK = 0.05, 2.5
FOREVER: Final = int(np.iinfo(np.int64).max)


@dataclass
class Counters:
    """How much has been written, from which ids follow."""

    admissions: int = 0
    rows: int = 0
    specimens: int = 0


@cache
def pilot_intercept(death_rate: float, rows_per_patient: float) -> float:
    """The constant of the death odds that gives `death_rate` among admitted subjects."""
    rng = np.random.default_rng(PILOT_SEED)
    people = draw_people(rng, 0, PILOT_SUBJECTS)
    visits = draw_visits(rng, people)
    results = draw_results(rng, people, visits, min(rows_per_patient, PILOT_ROWS))
    return solve_intercept(score(people, visits, results), visits.subject, death_rate)


def chunks(patients: int, seed: int) -> Iterator[tuple[np.random.Generator, int, int]]:
    """The generator, the first subject and the number of subjects of every chunk."""
    for number, first in enumerate(range(0, patients, CHUNK)):
        yield np.random.default_rng([seed, number]), first, min(CHUNK, patients - first)


def live(
    rng: np.random.Generator,
    first: int,
    count: int,
    intercept: float,
    rows_per_patient: float,
    counters: Counters,
) -> dict[str, pl.DataFrame]:
    """Let `count` subjects be ill, come, be measured, leave or die; return the tables of it all."""
    people = draw_people(rng, first, count)
    visits = draw_visits(rng, people)
    results = draw_results(rng, people, visits, rows_per_patient)
    chance = sigmoid(score(people, visits, results) + intercept)
    dies = rng.random(len(visits)) < chance
    happens = ~_after_death(visits, dies)
    hadm_id = _new_ids(happens, counters)
    died = visits.discharged - rng.integers(0, LAST_MINUTES, len(visits))
    stays = Stays(visits[happens], hadm_id[happens], chance[happens], dies[happens], died[happens])
    last_minute = _last_minutes(rng, count, stays)
    dod = tables.times_where(last_minute < FOREVER, last_minute).cast(pl.Date)
    specimens = results.specimens
    alive = specimens.time <= last_minute[specimens.subject]
    # Visit -1 is the last entry: specimens from outside are taken whatever happens.
    results = keep_results(results, alive & np.append(happens, True)[specimens.visit])
    labevents = tables.labevents_frame(
        rng, people, hadm_id, results, counters.rows + 1, counters.specimens
    )
    counters.rows += len(labevents)
    counters.specimens += len(results.specimens)
    by_visit = ["subject_id", "hadm_id"]
    diagnoses = tables.diagnoses_frame(rng, people, stays)
    return {
        "patients": patients_frame(people, dod),
        "admissions": tables.admissions_frame(rng, people, stays).sort(by_visit),
        "diagnoses_icd": diagnoses.sort([*by_visit, "seq_num"]),
        "procedures_icd": orders.procedures_frame(rng, people, stays),
        "prescriptions": orders.prescriptions_frame(rng, people, stays),
        "labevents": labevents,
        "truth": tables.truth_frame(people, stays).sort(by_visit),
    }


def dictionaries() -> dict[str, pl.DataFrame]:
    """The tables that say what the ids and codes mean."""
    return {
        "d_labitems": tables.d_labitems_frame(),
        "d_icd_diagnoses": tables.d_icd_diagnoses_frame(),
        "d_icd_procedures": orders.d_icd_procedures_frame(),
    }


def _after_death(visits: Visits, dies: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which visits come after one that the subject did not survive."""
    deaths: NDArray[np.int64] = np.cumsum(dies) - dies
    before = np.where(starts_of(visits.subject), deaths, 0)
    return np.asarray(deaths > np.maximum.accumulate(before))


def _new_ids(happens: NDArray[np.bool_], counters: Counters) -> NDArray[np.int64]:
    """An id for each visit that happens, without an order, as in MIMIC-IV."""
    ids = np.zeros(len(happens), np.int64)
    numbers = counters.admissions + np.arange(happens.sum())
    # The factor shares no divisor with HADM_IDS, so that no id comes twice.
    ids[happens] = FIRST_HADM_ID + (numbers * 6_180_339 + 7) % HADM_IDS
    counters.admissions += len(numbers)
    return ids


def _last_minutes(rng: np.random.Generator, count: int, stays: Stays) -> NDArray[np.int64]:
    """The minute in which each subject dies, in hospital or within a year of it, or FOREVER."""
    visits = stays.visits
    minute = np.full(count, FOREVER)
    minute[visits.subject[stays.dies]] = stays.died[stays.dies]
    last = np.diff(visits.subject, append=-1) != 0
    risk = LATER_DEATH + LATER_DEATH_PER_RISK * stays.chance
    later = last & ~stays.dies & (rng.random(len(visits)) < risk)
    wait = rng.integers(2, 360, len(visits)) * DAY
    minute[visits.subject[later]] = (visits.discharged + wait)[later]
    return minute
