"""VisitRecords: what one pass over the raw tables leaves, with nothing learned from it yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema, store
from equipoise.cohort import Cohort
from equipoise.cores import cores
from equipoise.errors import DataError, UsageError
from equipoise.events import (
    codes_of_rows,
    count_cells,
    join_codes,
    join_values,
    ledger_of,
    values_of_rows,
)
from equipoise.mixed_reading import read_mixed
from equipoise.ragged import (
    Columns,
    Offsets,
    check_numbers,
    check_offsets,
    positions,
    read_arrays,
    write_arrays,
)
from equipoise.reading import Reading, read_side_by_side
from equipoise.sources.declaration import ID_WORDS, Source, odd_splits, odd_systems
from equipoise.sources.files import check_root
from equipoise.sources.labels import GIVEN, join_labels
from equipoise.sources.placing import known_in_time, words_of
from equipoise.strict import refuse
from equipoise.tasks import (
    AGE_CUTS,
    GroupSettings,
    Task,
    label_subjects,
    label_visits,
    task_named,
    window_of,
)
from equipoise.vocabulary import Vocabulary, VocabularySettings

if TYPE_CHECKING:
    from equipoise.sources.meds_codes import MedsSettings

#: The arrays of `events.arrow` and their Arrow types.
_EVENTS: Final = {
    "visits": "large_list<item: null>",
    "codes": "large_list<item: int32>",
    "labs": "large_list<item: int32>",
    "lab_values": "double",
}


@dataclass(frozen=True, eq=False)
class VisitRecords:
    """S subjects, their N visits, and each visit's raw codes and lab means.

    subjects: S rows of `schema.SUBJECTS` and one String column per group.
    visits: N rows of `schema.VISITS` and start, end; ordered by subject, then by time. Where the
    tables' ids are words, so are `sources.declaration.ID_WORDS`: what the numbers stand for.
    codes: numbers of rows of `code_table` (kind, system, code, title), ascending in a visit.
    labs, lab_values: numbers of rows of `lab_table` (lab, title), ascending in a visit, and the
    exact mean over the visit of each.
    ledger: what became of every row read. oddities: what else was noticed, and how often.
    """

    subjects: pl.DataFrame
    visits: pl.DataFrame
    visit_offsets: Offsets
    code_offsets: Offsets
    codes: Columns
    lab_offsets: Offsets
    labs: Columns
    lab_values: npt.NDArray[np.float64]
    code_table: pl.DataFrame
    lab_table: pl.DataFrame
    ledger: pl.DataFrame
    oddities: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        subjects, visits = len(self.subjects), len(self.visits)
        check_offsets("records", "visits", self.visit_offsets, subjects, visits)
        check_offsets("records", "codes", self.code_offsets, visits, len(self.codes))
        check_offsets("records", "labs", self.lab_offsets, visits, len(self.labs))

    def __len__(self) -> int:
        return len(self.subjects)

    def __repr__(self) -> str:
        return (
            f"VisitRecords({len(self.subjects)} subjects, {len(self.visits)} visits, "
            f"{len(self.codes)} codes, {len(self.labs)} labs)"
        )

    def take(self, subjects: npt.NDArray[np.integer]) -> VisitRecords:
        """The subjects at these places, in this order."""
        visit_offsets, visits = positions(self.visit_offsets, np.asarray(subjects, np.int64))
        code_offsets, codes = positions(self.code_offsets, visits)
        lab_offsets, labs = positions(self.lab_offsets, visits)
        return replace(
            self,
            subjects=self.subjects[subjects],
            visits=self.visits[visits],
            visit_offsets=visit_offsets,
            code_offsets=code_offsets,
            codes=self.codes[codes],
            lab_offsets=lab_offsets,
            labs=self.labs[labs],
            lab_values=self.lab_values[labs],
        )

    def of_split(self, name: str) -> VisitRecords:
        """The subjects of a split that the source declares; raises `DataError` if there is none."""
        splits = self.subjects[schema.SPLIT]
        places = np.flatnonzero((splits == name).fill_null(value=False).to_numpy())
        if not len(places):
            got = ", ".join(splits.drop_nulls().unique().sort()) or "no splits"
            raise DataError(table="subjects", column=schema.SPLIT, want=name, got=got)
        return self.take(places)

    def split(
        self, *, by: Literal["subject"] = "subject", fraction: float = 0.8, seed: int = 0
    ) -> tuple[VisitRecords, VisitRecords]:
        """Two disjoint sets of subjects, the first with this fraction of them, drawn by `seed`.

        Subjects of one person (`schema.PERSON_ID`) stay together; the fraction is then of persons.
        """
        if by != "subject" or not 0 < fraction < 1:
            raise DataError(
                want="by='subject' and a fraction between 0 and 1", got=f"{by!r} and {fraction}"
            )
        if schema.PERSON_ID in self.subjects.columns:
            persons = self.subjects[schema.PERSON_ID].rank("dense").to_numpy().astype(np.int64) - 1
        else:
            persons = np.arange(len(self))
        count = int(persons.max(initial=-1)) + 1
        order = np.random.default_rng(seed).permutation(count)
        chosen = np.zeros(count, bool)
        chosen[order[: round(fraction * count)]] = True
        return self.take(np.flatnonzero(chosen[persons])), self.take(
            np.flatnonzero(~chosen[persons])
        )

    def fit_vocabulary(self, settings: VocabularySettings | None = None) -> Vocabulary:
        """A vocabulary learned from all these subjects."""
        return Vocabulary.fit(self, settings)

    def encode(self, vocabulary: Vocabulary) -> Cohort:
        """The same visits as sorted columns of `vocabulary`; what it lacks is left out."""
        code_offsets, columns = vocabulary.encode(self)
        return Cohort(
            subjects=self.subjects,
            visits=self.visits.select(list(schema.VISITS)),
            visit_offsets=self.visit_offsets,
            code_offsets=code_offsets,
            codes=columns,
            vocabulary=vocabulary,
        )

    def save(self, out: Path | str, **manifest: Any) -> Path:
        """Write a folder of Arrow files; `manifest` goes to `store.writing`."""
        import pyarrow as pa

        manifest.setdefault("config", self.config)
        with store.writing(out, "records", **manifest) as folder:
            for name in ("subjects", "visits", "code_table", "lab_table", "ledger"):
                store.write_frame(getattr(self, name), folder / f"{name}.arrow")
            lists = pa.LargeListArray.from_arrays
            write_arrays(
                folder / "events.arrow",
                {
                    "visits": lists(self.visit_offsets, pa.nulls(len(self.visits))),
                    "codes": lists(self.code_offsets, pa.array(self.codes)),
                    "labs": lists(self.lab_offsets, pa.array(self.labs)),
                    "lab_values": pa.array(self.lab_values),
                },
            )
            store.write_json(folder / "oddities.json", dict(self.oddities))
        return Path(out)

    @staticmethod
    def load(folder: Path | str) -> VisitRecords:
        """Open saved records; codes and labs stay on disk, memory-mapped.

        Raises `DataError` if they are damaged.
        """
        folder = Path(folder)
        manifest = store.read_manifest(folder, "records")
        events = read_arrays(path := folder / "events.arrow", _EVENTS)
        frames = {
            name: store.read_frame(folder / f"{name}.arrow")
            for name in ("subjects", "visits", "code_table", "lab_table", "ledger")
        }
        codes, labs = (events[name].values.to_numpy() for name in ("codes", "labs"))
        check_numbers(path, codes, len(frames["code_table"]), "rows of the table of codes")
        check_numbers(path, labs, len(frames["lab_table"]), "rows of the table of labs")
        return VisitRecords(
            **frames,
            visit_offsets=events["visits"].offsets.to_numpy(),
            code_offsets=events["codes"].offsets.to_numpy(),
            codes=codes,
            lab_offsets=events["labs"].offsets.to_numpy(),
            labs=labs,
            lab_values=events["lab_values"].to_numpy(),
            oddities=store.read_json(folder / "oddities.json"),
            config=manifest["config"],
        )


def read_mimic_iv(
    root: Path | str,
    task: str = "in_hospital_mortality",
    *,
    codes: Sequence[str] = ("diagnosis",),
    lab_key: Sequence[str] = ("item",),
    **options: Any,
) -> VisitRecords:
    """Read MIMIC-IV's `hosp` tables below `root`. `codes`: diagnosis, procedure, medication.

    lab_key: `("item",)`, or `("item", "unit")`: the same item in two units is two labs then.
    `options` are those of `read_source`.
    """
    from equipoise.sources.mimic_iv import mimic_iv_source

    return read_source(mimic_iv_source(codes, lab_key), root, task, **options)


def read_mimic_iii(
    root: Path | str,
    task: str = "in_hospital_mortality",
    *,
    codes: Sequence[str] = ("diagnosis",),
    lab_key: Sequence[str] = ("item",),
    **options: Any,
) -> VisitRecords:
    """Read MIMIC-III's tables in `root`. `codes` and `lab_key`: see `read_mimic_iv`.

    `options` are those of `read_source`.
    """
    from equipoise.sources.mimic_iii import mimic_iii_source

    return read_source(mimic_iii_source(codes, lab_key), root, task, **options)


def read_eicu(
    root: Path | str,
    task: str = "in_hospital_mortality",
    *,
    codes: Sequence[str] = ("diagnosis",),
    **options: Any,
) -> VisitRecords:
    """Read eICU's tables in `root`. `codes`: some of diagnosis, medication, treatment.

    `options` are those of `read_source`.
    """
    from equipoise.sources.eicu import eicu_source

    return read_source(eicu_source(codes), root, task, **options)


def read_meds(
    root: Path | str,
    task: str = "in_hospital_mortality",
    *,
    settings: MedsSettings | None = None,
    **options: Any,
) -> VisitRecords:
    """Read the MEDS dataset in `root`. `options` are those of `read_source`."""
    from equipoise.sources.meds import meds_source

    return read_source(meds_source(settings), root, task, **options)


def read_tables(
    root: Path | str, spec: Path | str, task: str | None = None, **options: Any
) -> VisitRecords:
    """Read anyone's own tables in `root`, as the TOML file `spec` says (see `sources.spec`).

    Without `task` it is the spec's first. `options` are those of `read_source`.
    """
    from equipoise.sources.tables import tables_source

    source = tables_source(spec)
    return read_source(source, root, task or next(iter(source.tasks)), **options)


def read_source(
    source: Source,
    root: Path | str,
    task: str = "in_hospital_mortality",
    *,
    labels: Path | str | None = None,
    until: str | None = None,
    attach_by_time: bool = False,
    age_cuts: tuple[int, ...] = AGE_CUTS,
    race_table: Path | str | None = None,
    threads: int | None = None,
    strict: bool = False,
    progress: schema.Progress = schema.no_progress,
) -> VisitRecords:
    """One pass over a source's tables.

    labels: a table of labels (see `sources.labels`) instead of a task.
    until: a window such as `admission+24h` (see `tasks.window_of`): later events of a visit are
    left out and counted, as are those without a time; a code without a time of its own counts as
    known when its visit ends, and never within a window from admission.
    attach_by_time: events without a visit id go to the visit of their subject that encloses their
    time (by default they are dropped and counted).
    age_cuts, race_table: see `tasks.GroupSettings`.
    strict: raise `DataError` for rows and oddities that speak of bad data (see `strict`).

    Raises `DataError` for files, columns or cells that are not as they should be, `UsageError` for
    an unknown task or one that the source cannot label, and for a window that makes no sense.
    """
    groups = GroupSettings(tuple(age_cuts), Path(race_table) if race_table else None)
    chosen = GIVEN if labels else task_named(task, source.tasks)
    if attach_by_time and not any(events.subject for events in source.events):
        raise UsageError(f"attach by time: {source.name} has no events to which that applies")
    check_root(Path(root), source.folders, source.tables)
    with TemporaryDirectory(prefix="equipoise-") as scratch:
        reading = Reading(
            source=source,
            root=Path(root),
            threads=threads or cores(),
            progress=progress,
            groups=groups,
            window=window_of(until) if until else None,
            scratch=Path(scratch),
            by_time=attach_by_time,
            strict=strict,
        )
        records = read_records(reading, chosen, Path(labels) if labels else None)
    asked: dict[str, Any] = {"labels": labels, "until": until, "strict": strict}
    asked |= {"attach_by_time": attach_by_time, "age_cuts": age_cuts, "race_table": race_table}
    return replace(records, config=source.config(chosen, asked))


def read_records(reading: Reading, task: Task, labels: Path | None = None) -> VisitRecords:
    """The one pass of `reading`, labelled by `task`; raises what `read_source` does."""
    source = reading.source
    stays = source.read_stays(reading)
    visits, more = (stays.visits, {}) if labels is None else join_labels(labels, stays.visits)
    more |= odd_splits(stays)
    if reading.strict:
        refuse(reading, visits, stays.ledger, {**stays.oddities, **more})
    labelled, fates = label_visits(task, visits, source.name)
    judged = visits if fates else visits.clear()
    left_out = judged.join(labelled, on=schema.VISIT_ID, how="anti")
    reading = replace(reading, left_out=left_out, words=words_of(stays.visits))
    visits = labelled
    subjects, visit_offsets = label_subjects(stays.subjects, visits)
    if reading.window is not None:
        stays = known_in_time(stays, visits, reading.window)
    codes, values = read_side_by_side(reading, visits)
    if stays.codes is not None:
        codes.append(codes_of_rows(stays.codes, visits))
    if stays.values is not None:
        values.append(values_of_rows(stays.values, visits))
    if source.mixed is not None:
        labs, rest = read_mixed(reading, source.mixed(reading), visits)
        values.append(labs)
        codes.append(rest)
    cells = count_cells(stays.cells, left_out[schema.VISIT_ID])
    coded, measured = join_codes(codes, len(visits)), join_values(values, len(visits))
    more = {**more, **odd_systems(source, coded.table, coded.codes)}
    if reading.strict:
        refuse(reading, visits, pl.concat([cells, coded.ledger, measured.ledger]), more)
    of_stays = stays.ledger.select(list(schema.LEDGER))
    of_visits = ledger_of("visits", fates.items())
    ledger = pl.concat([of_stays, of_visits, cells, coded.ledger, measured.ledger])
    words = [word for word in ID_WORDS if word in visits.columns and visits[word].count()]
    return VisitRecords(
        subjects=subjects,
        visits=visits.select(schema.VISIT_ID, schema.LABEL, "start", "end", *words),
        visit_offsets=visit_offsets,
        code_offsets=coded.offsets,
        codes=coded.codes,
        lab_offsets=measured.offsets,
        labs=measured.labs,
        lab_values=measured.values,
        code_table=coded.table,
        lab_table=measured.table,
        ledger=ledger,
        oddities={**stays.oddities, **more},
    )
