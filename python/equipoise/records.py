"""VisitRecords: what one pass over the raw tables leaves, with nothing learned from it yet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from equipoise import _core, schema, store
from equipoise.cohort import Cohort
from equipoise.errors import DataError
from equipoise.ragged import (
    Columns,
    Offsets,
    offsets_of,
    positions,
    read_arrays,
    write_arrays,
)
from equipoise.sources.declaration import (
    CodeEvents,
    ColumnKind,
    Dictionary,
    Source,
    Stays,
    ValueEvents,
)
from equipoise.sources.files import check_root, find_table
from equipoise.tasks import label_visits, task_named
from equipoise.vocabulary import Vocabulary, VocabularySettings

SEPARATOR = "\x1f"


@dataclass(frozen=True, eq=False)
class VisitRecords:
    """S subjects, their N visits, and each visit's raw codes and lab means.

    subjects: S rows of `schema.SUBJECTS` and one String column per group.
    visits: N rows of `schema.VISITS` and start, end; ordered by subject, then by time.
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
        """Two disjoint sets of subjects, the first with this fraction of them, drawn by `seed`."""
        if by != "subject" or not 0 < fraction < 1:
            raise DataError(
                want="by='subject' and a fraction between 0 and 1", got=f"{by!r} and {fraction}"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        first = round(fraction * len(self))
        return self.take(np.sort(order[:first])), self.take(np.sort(order[first:]))

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
        manifest.setdefault("config", self.config)
        with store.writing(out, "records", **manifest) as folder:
            for name in ("subjects", "visits", "code_table", "lab_table", "ledger"):
                getattr(self, name).write_ipc(folder / f"{name}.arrow")
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
        """Open saved records; codes and labs stay on disk, memory-mapped."""
        folder = Path(folder)
        manifest = store.read_manifest(folder, "records")
        events = read_arrays(folder / "events.arrow")
        frames = {
            name: store.read_frame(folder / f"{name}.arrow")
            for name in ("subjects", "visits", "code_table", "lab_table", "ledger")
        }
        return VisitRecords(
            **frames,
            visit_offsets=events["visits"].offsets.to_numpy(),
            code_offsets=events["codes"].offsets.to_numpy(),
            codes=events["codes"].values.to_numpy(),
            lab_offsets=events["labs"].offsets.to_numpy(),
            labs=events["labs"].values.to_numpy(),
            lab_values=events["lab_values"].to_numpy(),
            oddities=store.read_json(folder / "oddities.json"),
            config=manifest["config"],
        )


def read_mimic_iv(
    root: Path | str, task: str = "in_hospital_mortality", **options: Any
) -> VisitRecords:
    """Read MIMIC-IV's `hosp` tables below `root`; `options` are those of `read_source`."""
    from equipoise.sources.mimic_iv import MIMIC_IV

    return read_source(MIMIC_IV, root, task, **options)


def read_source(
    source: Source,
    root: Path | str,
    task: str = "in_hospital_mortality",
    *,
    threads: int | None = None,
    progress: schema.Progress = schema.no_progress,
) -> VisitRecords:
    """One pass over a source's tables.

    Raises `DataError` for files, columns or cells that are not as they should be, `UsageError` for
    an unknown task.
    """
    reading = _Reading(source, Path(root), threads or os.cpu_count() or 1, progress)
    return reading.records(task)


@dataclass(frozen=True)
class _Reading:
    """One reading of a source."""

    source: Source
    root: Path
    threads: int
    progress: schema.Progress

    def records(self, task_name: str) -> VisitRecords:
        task = task_named(task_name)
        check_root(self.root, self.source.folders, self.source.tables)
        stays = self.source.read_stays(self.table)
        visits = label_visits(task, stays.visits)
        subjects, visit_offsets = _subjects(stays, visits)
        ids = visits[schema.VISIT_ID].to_numpy()
        codes = [self.codes(table, ids) for table in self.source.codes]
        labs = [self.values(table, ids) for table in self.source.values]
        code_offsets, code_numbers, code_table = _joined_codes(codes, len(ids))
        lab_offsets, lab_numbers, values, lab_table, lab_ledger = _only(labs, len(ids))
        ledger = pl.concat([stays.ledger, *(part[3] for part in codes), *lab_ledger])
        return VisitRecords(
            subjects=subjects,
            visits=visits.select(schema.VISIT_ID, schema.LABEL, "start", "end"),
            visit_offsets=visit_offsets,
            code_offsets=code_offsets,
            codes=code_numbers,
            lab_offsets=lab_offsets,
            labs=lab_numbers,
            lab_values=values,
            code_table=code_table,
            lab_table=lab_table,
            ledger=ledger,
            oddities=stays.oddities,
            config={"source": self.source.name, "task": task.name},
        )

    def files(self, table: str) -> list[Path]:
        return find_table(self.root, self.source.folders, table)

    def table(self, table: str, columns: Mapping[str, ColumnKind]) -> pl.DataFrame:
        """A small table as a frame (a `Reader`); an empty one is an error."""
        files = self.files(table)
        batch = _core.read_table(files, list(columns.items()), threads=self.threads)
        frame = pl.DataFrame(pa.record_batch(batch))
        _check_rows(files, len(frame))
        return frame

    def codes(self, events: CodeEvents, visits: Offsets) -> _CodesRead:
        files = self.files(events.table)
        columns = [events.visit, events.code, *([events.system] if events.system else [])]
        offsets, codes, (names, ledger) = _core.read_codes(
            files, columns, visits, threads=self.threads, progress=self.tell(events.table)
        )
        _check_rows(files, sum(rows for _, rows in ledger))
        parts = _parts(names, ["code", "system"][: len(columns) - 1])
        titles = self.titles(events.dictionary, parts)
        if events.system:
            system = pl.col("system").replace(dict(events.systems))
        else:
            system = pl.lit(events.kind)
        table = parts.select(
            pl.lit(events.kind).alias("kind"), system.alias("system"), "code", titles
        )
        return offsets, codes, table, _ledger(events.table, ledger)

    def values(self, events: ValueEvents, visits: Offsets) -> _ValuesRead:
        files = self.files(events.table)
        known = None
        if events.integer_labs and events.dictionary:
            dictionary = self.table(events.dictionary.table, {events.dictionary.key[0]: "integer"})
            known = dictionary.to_series().drop_nulls().unique().sort().to_numpy()
        offsets, labs, values, (names, ledger) = _core.read_values(
            files,
            [events.visit, *events.lab, events.value],
            visits,
            known=known,
            threads=self.threads,
            progress=self.tell(events.table),
        )
        _check_rows(files, sum(rows for _, rows in ledger))
        parts = _parts(names, events.lab)
        table = parts.select(
            pl.concat_str(list(events.lab), separator=", ").alias("lab"),
            self.titles(events.dictionary, parts),
        )
        return offsets, labs, values, table, _ledger(events.table, ledger)

    def titles(self, dictionary: Dictionary | None, parts: pl.DataFrame) -> pl.Series:
        """A title for each row of `parts`: the dictionary's, else the name itself."""
        name = parts.select(pl.concat_str(pl.all(), separator=", ")).to_series()
        if dictionary is None:
            return name.alias("title")
        columns: dict[str, ColumnKind] = dict.fromkeys((*dictionary.key, *dictionary.title), "text")
        entries = self.table(dictionary.table, columns).unique(dictionary.key, keep="first")
        title = pl.concat_str(list(dictionary.title), separator=", ", ignore_nulls=True)
        entries = entries.select(*dictionary.key, title.alias("title"))
        keys = parts.rename(dict(zip(parts.columns, dictionary.key, strict=True)))
        joined = keys.join(entries, on=list(dictionary.key), how="left", maintain_order="left")
        return joined["title"].fill_null(name)

    def tell(self, stage: str) -> partial[None]:
        return partial(self.progress, stage)


_CodesRead = tuple[Offsets, Columns, pl.DataFrame, pl.DataFrame]
_ValuesRead = tuple[Offsets, Columns, npt.NDArray[np.float64], pl.DataFrame, pl.DataFrame]


def _subjects(stays: Stays, visits: pl.DataFrame) -> tuple[pl.DataFrame, Offsets]:
    """Subjects in the order of their visits, with the last one's label, and the visits' offsets."""
    grouped = visits.group_by(schema.SUBJECT_ID, maintain_order=True).agg(
        pl.len(), pl.col(schema.LABEL).last()
    )
    subjects = grouped.join(stays.subjects, on=schema.SUBJECT_ID, how="left", maintain_order="left")
    subjects = subjects.with_columns(
        pl.lit(None, pl.String).alias(schema.SPLIT), pl.lit(value=False).alias(schema.SYNTHETIC)
    )
    groups = [name for name in stays.subjects.columns if name != schema.SUBJECT_ID]
    return subjects.select(*schema.SUBJECTS, *groups), offsets_of(grouped["len"].to_numpy())


def _parts(names: Iterable[str], columns: Sequence[str]) -> pl.DataFrame:
    """Names whose parts the core joined, as columns."""
    split = [name.split(SEPARATOR) for name in names]
    return pl.DataFrame(split, schema=dict.fromkeys(columns, pl.String), orient="row")


def _ledger(table: str, counts: Sequence[tuple[str, int]]) -> pl.DataFrame:
    rows = [(table, outcome, n) for outcome, n in counts if n or outcome == schema.USED]
    return pl.DataFrame(rows, schema=dict(schema.LEDGER), orient="row")


def _check_rows(files: Sequence[Path], rows: int) -> None:
    if rows == 0:
        names = ", ".join(file.name for file in files)
        raise DataError(table=names, want="at least one row", got="a header and nothing below it")


def _joined_codes(
    tables: Sequence[_CodesRead], visits: int
) -> tuple[Offsets, Columns, pl.DataFrame]:
    """The codes of several tables in one list per visit, ascending."""
    if len(tables) == 1:
        offsets, codes, table, _ = tables[0]
        return offsets, codes, table
    names = pl.concat([table for _, _, table, _ in tables])
    shifts = np.cumsum([0, *(len(table) for _, _, table, _ in tables)])
    owner = [np.repeat(np.arange(visits), np.diff(offsets)) for offsets, *_ in tables]
    owners = np.concatenate(owner)
    numbers = np.concatenate(
        [codes + np.int32(shift) for (_, codes, *_), shift in zip(tables, shifts, strict=False)]
    )
    order = np.argsort(owners, kind="stable")
    return offsets_of(np.bincount(owners, minlength=visits)), numbers[order], names


def _only(
    tables: Sequence[_ValuesRead], visits: int
) -> tuple[Offsets, Columns, npt.NDArray[np.float64], pl.DataFrame, list[pl.DataFrame]]:
    if not tables:
        empty = pl.DataFrame(schema={"lab": pl.String, "title": pl.String})
        return np.zeros(visits + 1, np.int64), np.empty(0, np.int32), np.empty(0), empty, []
    (offsets, labs, values, table, ledger), *more = tables
    if more:
        raise DataError("one table of values is supported; put several files into one folder")
    return offsets, labs, values, table, [ledger]
