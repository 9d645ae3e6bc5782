"""A hospital with a known truth, written in MIMIC-IV 3.1's own file layout.

Latent conditions drive the diagnoses, the lab values and how often people come. Death then depends
on what was recorded: each code, the mean of a few labs over the stay, race and sex; a failing body
shows itself by symptom codes that are each group's own. So the probability of death given a
visit's codes, labs and groups is exact, and any model that sees no more can be held against it.
(When people come back is no part of it: frequent visitors come at shorter intervals, so that a
short one tells something of how many visits are still to come.)

`truth.parquet` has a row per admission: `subject_id`, `hadm_id`, `group` (the race as the risk
knows it), `death_probability` (given this visit's record, and that the subject got so far),
`death_probability_if_last` (given also that no later visit is in the tables: the oracle of a task
that looks at last visits), `failing`, and one column per latent condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, get_args

import polars as pl

from equipoise import schema, store
from equipoise.errors import UsageError
from equipoise.simulate.files import FileFormat, TableFile, open_table
from equipoise.simulate.hospital import Counters, chunks, dictionaries, live, pilot_intercept

__all__ = ["simulate"]

#: MIMIC-IV 3.1: 158,374,764 lab rows of 364,627 subjects.
MIMIC_LAB_ROWS: Final = 434.35
#: Share of admitted subjects who die in hospital, as in MIMIC-IV.
MIMIC_DEATH_RATE: Final = 0.055
MOST_PATIENTS: Final = 1_000_000
TRUTH: Final = "truth"


def simulate(
    out: Path | str,
    *,
    patients: int,
    seed: int = 0,
    file_format: FileFormat = "csv.gz",
    force: bool = False,
    progress: schema.Progress = schema.no_progress,
    lab_rows_per_patient: float = MIMIC_LAB_ROWS,
    death_rate: float = MIMIC_DEATH_RATE,
) -> Path:
    """Write `hosp/` and `truth.parquet` into the folder `out` and return it.

    `patients` counts the rows of `patients`; about six in ten of them are ever admitted. The same
    arguments give the same bytes on the same kind of processor. `lab_rows_per_patient` is an
    average; each stay has at least a chemistry and a blood count. `death_rate` is the share of
    admitted subjects who die in hospital.
    """
    _check(patients, seed, lab_rows_per_patient, death_rate)
    if file_format not in (formats := get_args(FileFormat)):
        raise UsageError(f"file_format: want one of {', '.join(formats)}, got {file_format}")
    config = {
        "patients": patients,
        "file_format": file_format,
        "lab_rows_per_patient": lab_rows_per_patient,
        "death_rate": death_rate,
    }
    with store.writing(out, "simulated-hospital", force=force, seed=seed, config=config) as draft:
        intercept = pilot_intercept(death_rate, lab_rows_per_patient)
        counters = Counters()
        with ExitStack() as files:
            write = _writer(draft, file_format, files)
            write(dictionaries())
            for rng, first, count in chunks(patients, seed):
                write(live(rng, first, count, intercept, lab_rows_per_patient, counters))
                progress("simulate", first + count, patients)
    return Path(out)


def _check(patients: int, seed: int, lab_rows_per_patient: float, death_rate: float) -> None:
    if not 1 <= patients <= MOST_PATIENTS:
        raise UsageError(f"patients must be between 1 and {MOST_PATIENTS:,}, got {patients:,}")
    if seed < 0:
        raise UsageError(f"seed must not be negative, got {seed}")
    if not lab_rows_per_patient >= 0:
        raise UsageError(f"lab_rows_per_patient must not be negative, got {lab_rows_per_patient}")
    if not 0 < death_rate < 1:
        raise UsageError(f"death_rate must be between 0 and 1, got {death_rate}")


def _writer(
    folder: Path, file_format: FileFormat, stack: ExitStack
) -> Callable[[Mapping[str, pl.DataFrame]], None]:
    """A function that appends frames to their tables; `stack` closes the files."""
    hosp = folder / "hosp"
    hosp.mkdir()
    files: dict[str, TableFile] = {}

    def write(frames: Mapping[str, pl.DataFrame]) -> None:
        for name, frame in frames.items():
            if name not in files:
                if name == TRUTH:
                    files[name] = open_table(folder, name, "parquet")
                else:
                    files[name] = open_table(hosp, name, file_format)
                stack.callback(files[name].close)
            files[name].write(frame)

    return write
