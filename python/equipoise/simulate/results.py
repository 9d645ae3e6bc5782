"""Lab results: specimens in and out of hospital, the tests run on them, and what they show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from equipoise.simulate.catalog import load_labs
from equipoise.simulate.conditions import CHRONIC, CONDITIONS, FAILING_LABS
from equipoise.simulate.people import People
from equipoise.simulate.visits import DAY, LAST_MINUTES, Visits

#: Share of lab rows without an admission, and of the rows within a stay that lost theirs.
WITHOUT_HADM: Final = 0.43
LOST_HADM: Final = 0.04
#: Visits per subject after deaths, to know how many rows a visit needs.
VISITS_PER_PATIENT: Final = 1.48
#: What is left of the rows drawn once deaths have cut the record short.
KEPT_IN_STAY, KEPT_OUTSIDE = 0.99, 0.95
#: The mean of (days of stay) ** 0.7, by which the number of specimens grows.
MEAN_GROWTH: Final = 2.7
#: Share of a result's variance that all results of one visit have in common.
OF_VISIT, OF_RESULT = 0.6, 0.7
#: Of 65,536 results, how many have their value blacked out (the number mostly stays) or mistyped.
BLACKED_OUT, NUMBER_LOST, MISTYPED = 3600, 80, 2


@dataclass(frozen=True)
class Specimens:
    """Specimens in the order of subjects, then of time.

    `visit` is the visit whose stay it belongs to, or -1; `recorded_visit` is -1 if that was lost.
    """

    subject: NDArray[np.int64]
    visit: NDArray[np.int64]
    recorded_visit: NDArray[np.int64]
    time: NDArray[np.int64]
    panel: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.subject)

    def __getitem__(self, keep: NDArray[np.generic]) -> Specimens:
        return Specimens(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Results:
    """Results in the order of specimens; `value` and `number` are entries of `Labs.texts`."""

    specimens: Specimens
    specimen: NDArray[np.int64]
    item: NDArray[np.int64]
    value: NDArray[np.int64]
    number: NDArray[np.int64]


def draw_results(
    rng: np.random.Generator, people: People, visits: Visits, rows_per_patient: float
) -> Results:
    """Draw all specimens of these people and every result of theirs."""
    specimens = _draw_specimens(rng, people, visits, rows_per_patient)
    labs = load_labs()
    sizes = np.array([len(panel) for panel in labs.panels])
    items = np.concatenate(labs.panels)
    count = sizes[specimens.panel]
    specimen = np.repeat(np.arange(len(specimens)), count)
    place = np.arange(len(specimen)) - np.repeat(np.cumsum(count) - count, count)
    item = items[(np.cumsum(sizes) - sizes)[specimens.panel[specimen]] + place]
    single = item < 0
    item[single] = rng.choice(len(labs.first), single.sum(), p=labs.single_shares)
    level = _draw_levels(rng, people, visits)
    whose = np.where(specimens.visit >= 0, specimens.visit, len(visits) + specimens.subject)
    known = np.minimum(item, level.shape[1] - 1)
    deviation = level[whose[specimen], known]
    deviation += OF_RESULT * rng.standard_normal(len(item), np.float32)
    entry = _entries(item, deviation)
    value, number = _black_out(rng, entry)
    return Results(specimens, specimen, item, value, number)


def keep_results(results: Results, keep: NDArray[np.bool_]) -> Results:
    """Only the results of the specimens in `keep`."""
    kept = keep[results.specimen]
    renumbered = np.cumsum(keep) - 1
    return replace(
        results,
        specimens=results.specimens[keep],
        specimen=renumbered[results.specimen[kept]],
        item=results.item[kept],
        value=results.value[kept],
        number=results.number[kept],
    )


def _draw_specimens(
    rng: np.random.Generator, people: People, visits: Visits, rows_per_patient: float
) -> Specimens:
    inside = _draw_inside(rng, visits, rows_per_patient)
    outside = _draw_outside(rng, people, visits, rows_per_patient)
    both = Specimens(
        *(
            np.concatenate([getattr(part, name) for part in (inside, outside)])
            for name in Specimens.__dataclass_fields__
        )
    )
    return both[np.lexsort((both.panel, both.time, both.subject))]


def _draw_inside(rng: np.random.Generator, visits: Visits, rows_per_patient: float) -> Specimens:
    """Specimens taken in hospital: a chemistry and a blood count on arrival, then by need."""
    sizes = np.array([len(panel) for panel in load_labs().panels])
    in_stay = (1 - WITHOUT_HADM) / (1 - LOST_HADM)
    wanted = rows_per_patient * in_stay / VISITS_PER_PATIENT / KEPT_IN_STAY
    more = max(wanted - sizes[0] - sizes[1], 0.0) / (load_labs().panel_shares @ sizes)
    stay = visits.discharged - LAST_MINUTES - visits.admitted
    growth = (stay / DAY) ** 0.7 / MEAN_GROWTH * rng.gamma(2.0, 0.5, len(visits))
    count = 2 + rng.poisson(more * growth)
    visit = np.repeat(np.arange(len(visits)), count)
    place = np.arange(len(visit)) - np.repeat(np.cumsum(count) - count, count)
    panel = rng.choice(len(sizes), len(visit), p=load_labs().panel_shares)
    panel = np.where(place < 2, place, panel)
    share = rng.random(len(visit))
    time = visits.admitted[visit] + np.where(
        place < 2, share * np.minimum(stay, 360)[visit], share * stay[visit]
    ).astype(np.int64)
    time = _morning(rng, time, visits.admitted[visit], (visits.admitted + stay)[visit])
    lost = rng.random(len(visit)) < LOST_HADM
    recorded = np.where(lost, -1, visit)
    return Specimens(visits.subject[visit], visit, recorded, time, panel)


def _draw_outside(
    rng: np.random.Generator, people: People, visits: Visits, rows_per_patient: float
) -> Specimens:
    """Specimens of clinics, laboratories, and the emergency room before an admission."""
    sizes = np.array([len(panel) for panel in load_labs().panels])
    lost = LOST_HADM * (1 - WITHOUT_HADM) / (1 - LOST_HADM)
    wanted = rows_per_patient * (WITHOUT_HADM - lost) / KEPT_OUTSIDE
    mean = wanted / (load_labs().panel_shares @ sizes)
    need = np.where(people.admitted, 1.3, 0.525) * rng.gamma(0.8, 1.25, len(people))
    subject = np.repeat(np.arange(len(people)), rng.poisson(mean * need))
    year = (people.anchor_year - 1970).astype("datetime64[Y]").astype("datetime64[m]")
    begin = year.astype(np.int64)
    end = begin + 3 * 365 * DAY
    np.maximum.at(end, visits.subject, visits.discharged + 180 * DAY)
    begin, end = begin[subject], end[subject]
    time = begin + (rng.random(len(subject)) * (end - begin)).astype(np.int64)
    nobody = np.full(len(subject), -1)
    panel = rng.choice(len(sizes), len(subject), p=load_labs().panel_shares)
    return Specimens(subject, nobody, nobody, time, panel)


def _morning(
    rng: np.random.Generator,
    time: NDArray[np.int64],
    admitted: NDArray[np.int64],
    end: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Move half of the times to the morning round, where that is still before `end`."""
    early = time // DAY * DAY + rng.integers(4 * 60 + 30, 7 * 60 + 30, len(time))
    moves = (rng.random(len(time)) < 0.5) & (early > admitted) & (early < end)
    return np.where(moves, early, time)


def _draw_levels(rng: np.random.Generator, people: People, visits: Visits) -> NDArray[np.float32]:
    """How far each lab is from its center in each visit, and outside for each subject.

    Rows: visits, then subjects. Columns: the items of `labs.csv`, then one for all rare tests.
    """
    shifts = _shifts()
    outside = np.zeros((len(people), len(shifts)), bool)
    outside[:, : len(CHRONIC)] = people.has
    inside = np.column_stack([visits.has, visits.failing])
    level = np.vstack([inside, outside]).astype(np.float32) @ shifts
    level += OF_VISIT * rng.standard_normal(level.shape, np.float32)
    return level


@cache
def _shifts() -> NDArray[np.float32]:
    labs = load_labs()
    sources = [condition.labs for condition in CONDITIONS] + [FAILING_LABS]
    shifts = np.zeros((len(sources), 1 + int((labs.frame["itemid"] < 60000).sum())), np.float32)
    for row, shift in enumerate(sources):
        for label, size in shift.items():
            shifts[row, labs.index(label)] = size
    # One measurement under three names.
    for name in ("Hematocrit", "Red Blood Cells"):
        shifts[:, labs.index(name)] = shifts[:, labs.index("Hemoglobin")]
    return shifts


def _entries(item: NDArray[np.int64], deviation: NDArray[np.float32]) -> NDArray[np.int64]:
    """The entry of `Labs.texts` that reports each deviation, rounded as the item is."""
    labs = load_labs()
    change = labs.spread[item] * deviation
    is_log = labs.is_log[item]
    value = np.where(is_log, np.exp(np.where(is_log, change, 0.0)), change)
    value = np.where(is_log, labs.center[item] * value, labs.center[item] + value)
    step = np.rint(value * labs.scale[item])
    step = np.where(labs.is_text[item], np.floor(np.abs(deviation) * 1.1), step)
    low, high = labs.low[item], labs.high[item]
    step = np.clip(step, low - 1, high + 1).astype(np.int64)
    return np.asarray(labs.first[item] + step - low + 1)


def _black_out(
    rng: np.random.Generator, entry: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Entries of the value as written and of its number, after redaction and typing errors."""
    hidden, odd = len(load_labs().texts) - 1, len(load_labs().texts) - 2
    lot = rng.integers(0, 1 << 16, len(entry), np.uint16)
    lost, mistyped = lot < NUMBER_LOST, lot >= (1 << 16) - MISTYPED
    number = np.where(lost, hidden, np.where(mistyped, odd, entry))
    value = np.where(lot < BLACKED_OUT, hidden, number)
    return value, number
