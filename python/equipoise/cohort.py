"""Cohort: sparse visits with one row per visit and one row per subject.

Real, synthetic and balanced data are all Cohorts. Letters: S subjects, N visits, K stored ones,
V columns of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import schema, store
from equipoise.errors import DataError, UsageError
from equipoise.ragged import (
    Columns,
    Nested,
    Offsets,
    check_numbers,
    check_offsets,
    joined,
    offsets_of,
    positions,
    read_arrays,
    write_arrays,
)
from equipoise.vocabulary import Vocabulary

if TYPE_CHECKING:
    from scipy import sparse


class VisitMatrix(NamedTuple):
    """What a classifier takes: one row per visit whose label is known."""

    X: sparse.csr_array
    y: npt.NDArray[np.int8]
    groups: pl.DataFrame
    visits: pl.DataFrame


@dataclass(frozen=True, eq=False)
class Cohort:
    """S subjects, their N visits, and each visit's sorted, unique column numbers.

    subjects: S rows, `schema.SUBJECTS` and one String column per group.
    visits: N rows, `schema.VISITS`, ordered by subject and, within it, by time.
    visit_offsets: (S + 1,) int64, subject s has visits `visit_offsets[s]:visit_offsets[s + 1]`.
    code_offsets: (N + 1,) int64, the same from visits to `codes`.
    codes: (K,) int32, each below V, ascending and unique within a visit.
    """

    subjects: pl.DataFrame
    visits: pl.DataFrame
    visit_offsets: Offsets
    code_offsets: Offsets
    codes: Columns
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        schema.check_frame(self.subjects, schema.SUBJECTS, "subjects")
        schema.check_frame(self.visits, schema.VISITS, "visits")
        visits = len(self.visits)
        check_offsets("cohort", "visit_offsets", self.visit_offsets, len(self.subjects), visits)
        check_offsets("cohort", "code_offsets", self.code_offsets, visits, len(self.codes))

    def __len__(self) -> int:
        return len(self.subjects)

    def __repr__(self) -> str:
        return (
            f"Cohort({len(self.subjects)} subjects, {len(self.visits)} visits, "
            f"{len(self.codes)} ones, {len(self.vocabulary)} columns)"
        )

    @property
    def groups(self) -> list[str]:
        """The names of the group columns."""
        return schema.group_names(self.subjects)

    def check_groups(self, by: Sequence[str]) -> list[str]:
        """`by` as a list; raises `DataError` naming the first that is no group column."""
        return check_groups(self.subjects, by)

    def take(self, subjects: npt.NDArray[np.integer]) -> Cohort:
        """The subjects at these places, in this order; a place may be named more than once."""
        subjects = np.asarray(subjects, np.int64)
        visit_offsets, visits = positions(self.visit_offsets, subjects)
        code_offsets, codes = positions(self.code_offsets, visits)
        return replace(
            self,
            subjects=self.subjects[subjects],
            visits=self.visits[visits],
            visit_offsets=visit_offsets,
            code_offsets=code_offsets,
            codes=self.codes[codes],
        )

    def filter(self, keep: npt.NDArray[np.bool_] | pl.Series) -> Cohort:
        """The subjects where `keep` (S booleans) is true."""
        return self.take(np.flatnonzero(np.asarray(keep)))

    def split_named(self, *names: str) -> Cohort:
        """The subjects whose split is one of `names` (see `schema.TRAIN` and its neighbours)."""
        return self.filter(self.subjects[schema.SPLIT].is_in(names).fill_null(False))

    def subject_of_visit(self) -> npt.NDArray[np.int64]:
        """(N,) the place in `subjects` of each visit's subject."""
        return self.nested.subject_of_visit()

    @property
    def nested(self) -> Nested:
        """The codes alone; shares them."""
        return Nested(self.visit_offsets, self.code_offsets, self.codes)

    def matrix(self) -> sparse.csr_array:
        """All visits as a CSR multi-hot matrix (N, V) of float32 ones; shares `codes`.

        Its indices are int32 as long as these reach: trees of scikit-learn take no others.
        """
        # Imported here: extraction does without it, and it takes a quarter of the start.
        from scipy import sparse

        ones = np.ones(len(self.codes), np.float32)
        offsets = self.code_offsets
        if len(self.codes) <= np.iinfo(np.int32).max:
            offsets = offsets.astype(np.int32)
        shape = (len(self.visits), len(self.vocabulary))
        return sparse.csr_array((ones, self.codes, offsets), shape=shape)

    def to_sklearn(self) -> VisitMatrix:
        """X (rows, V), y, groups and ids of every visit whose label is known, in visit order."""
        owner = self.subject_of_visit()
        known = np.flatnonzero(self.visits[schema.LABEL].is_not_null().to_numpy())
        subjects = self.subjects[owner[known]]
        visits = self.visits[known].with_columns(
            subjects[schema.SUBJECT_ID], subjects[schema.SYNTHETIC]
        )
        y = visits[schema.LABEL].cast(pl.Int8).to_numpy()
        return VisitMatrix(self.matrix()[known], y, subjects.select(self.groups), visits)

    def save(self, out: Path | str, **manifest: Any) -> Path:
        """Write the cohort as a folder of Arrow files; `manifest` goes to `store.writing`."""
        import pyarrow as pa

        with store.writing(out, "cohort", **manifest) as folder:
            self.vocabulary.write(folder)
            store.write_frame(self.subjects, folder / "subjects.arrow")
            store.write_frame(self.visits, folder / "visits.arrow")
            lists = pa.LargeListArray.from_arrays(self.code_offsets, pa.array(self.codes))
            lists = pa.LargeListArray.from_arrays(self.visit_offsets, lists)
            write_arrays(folder / "codes.arrow", {"codes": lists})
        return Path(out)

    @staticmethod
    def load(folder: Path | str) -> Cohort:
        """Open a saved cohort; the codes stay on disk, memory-mapped.

        Raises `DataError` if it is damaged, or if its codes are of another vocabulary; where a
        sampling job has sealed it, for any byte that has changed.
        """
        folder = Path(folder)
        if "seal" in store.read_manifest(folder, "cohort"):
            store.check_seal(folder, "cohort")
        path, vocabulary = folder / "codes.arrow", Vocabulary.read(folder)
        lists = read_arrays(path, {"codes": "large_list<item: large_list<item: int32>>"})["codes"]
        codes = lists.values.values.to_numpy()
        check_numbers(path, codes, len(vocabulary), "columns of the vocabulary")
        return Cohort(
            subjects=store.read_frame(folder / "subjects.arrow"),
            visits=store.read_frame(folder / "visits.arrow"),
            visit_offsets=lists.offsets.to_numpy(),
            code_offsets=lists.values.offsets.to_numpy(),
            codes=codes,
            vocabulary=vocabulary,
        )


def concat(cohorts: Sequence[Cohort]) -> Cohort:
    """One cohort after the other; all must have the same vocabulary.

    Group columns that a cohort lacks are null there. Raises `DataError` for another vocabulary.
    """
    if not cohorts:
        raise DataError("concat wants at least one cohort, got none")
    first = cohorts[0]
    for other in cohorts[1:]:
        if not first.vocabulary.equals(other.vocabulary):
            raise DataError(
                table="cohorts",
                want="one vocabulary for all",
                got=f"two, of {len(first.vocabulary)} and {len(other.vocabulary)} columns",
                hint="Encode all of them with the same Vocabulary",
            )
    return Cohort(
        subjects=pl.concat([cohort.subjects for cohort in cohorts], how="diagonal"),
        visits=pl.concat([cohort.visits for cohort in cohorts], how="diagonal"),
        visit_offsets=joined([cohort.visit_offsets for cohort in cohorts]),
        code_offsets=joined([cohort.code_offsets for cohort in cohorts]),
        codes=np.concatenate([cohort.codes for cohort in cohorts]),
        vocabulary=first.vocabulary,
    )


def check_groups(subjects: pl.DataFrame, by: Sequence[str]) -> list[str]:
    """`by` as a list.

    Raises `DataError` naming the first that is no group column, `UsageError` one that is there
    twice.
    """
    names = schema.group_names(subjects)
    for place, name in enumerate(by):
        if name in by[:place]:
            raise UsageError(f"by: want each group once, got {name} twice")
        if name not in names:
            raise DataError(
                table="subjects",
                column=name,
                want="a group column, one of " + (", ".join(names) or "(there is none)"),
                got="no such column",
            )
    return list(by)


def last_visit_labels(visit_offsets: Offsets, labels: pl.Series) -> pl.Series:
    """Visit labels (N) from subject labels (S): the label on the last visit, false before it.

    An unknown subject label leaves the last visit unknown.
    """
    owner = np.repeat(np.arange(len(labels)), np.diff(visit_offsets))
    spread = labels.gather(owner)
    frame = pl.DataFrame({"label": spread, "earlier": is_earlier(visit_offsets)})
    return frame.select(
        pl.when("earlier").then(pl.lit(value=False)).otherwise("label").alias(schema.LABEL)
    ).to_series()


def is_earlier(visit_offsets: Offsets) -> npt.NDArray[np.bool_]:
    """(N,) Whether a visit is not its subject's last."""
    earlier = np.ones(visit_offsets[-1], bool)
    earlier[visit_offsets[1:][np.diff(visit_offsets) > 0] - 1] = False
    return earlier


def cohort_from_lists(
    records: Sequence[Sequence[Sequence[int]]], subjects: pl.DataFrame, vocabulary: Vocabulary
) -> Cohort:
    """A cohort from nested lists (subjects -> visits -> columns), for small data and tests.

    `subjects` needs only the label and group columns; ids are 0..S-1, visit labels follow
    `last_visit_labels`.
    """
    visits = [sorted(set(visit)) for record in records for visit in record]
    visit_offsets = offsets_of(np.array([len(record) for record in records], np.int64))
    filled = subjects.with_columns(
        subjects[name] if name in subjects.columns else pl.lit(value, dtype).alias(name)
        for name, dtype, value in (
            (schema.LABEL, pl.Boolean, None),
            (schema.SPLIT, pl.String, schema.TRAIN),
            (schema.SYNTHETIC, pl.Boolean, False),
        )
    )
    if schema.SUBJECT_ID not in filled.columns:
        filled = filled.with_columns(
            pl.Series(schema.SUBJECT_ID, np.arange(len(filled), dtype=np.int64))
        )
    return Cohort(
        subjects=filled,
        visits=pl.DataFrame(
            {
                schema.VISIT_ID: np.arange(len(visits), dtype=np.int64),
                schema.LABEL: last_visit_labels(visit_offsets, filled[schema.LABEL]),
            }
        ),
        visit_offsets=visit_offsets,
        code_offsets=offsets_of(np.array([len(visit) for visit in visits], np.int64)),
        codes=np.array([code for visit in visits for code in visit], np.int32),
        vocabulary=vocabulary,
    )
