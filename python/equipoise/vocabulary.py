"""Vocabulary: which codes and labs are kept, the labs' deciles, and what every column means.

Learned from the training subjects only. Columns are ordered: code kinds by name, codes by name,
then labs by name and bin.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise import _core, schema, store
from equipoise.cores import cores
from equipoise.errors import DataError
from equipoise.ragged import Columns, Offsets

if TYPE_CHECKING:
    from equipoise.records import VisitRecords

LAB: Final = "lab"
BINS: Final = 10


@dataclass(frozen=True)
class VocabularySettings:
    """What a vocabulary keeps: the `labs` commonest labs, and codes.

    icd_level: "category" cuts ICD's diagnoses (I5023 to I50), as HALO does; "full" keeps them.
    """

    icd_level: Literal["category", "full"] = "category"
    labs: int = 50


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """V columns and what they mean.

    columns: V rows of `schema.COLUMNS`.
    cuts: (labs, 9) float64, each kept lab's inner cut points, ascending, ties allowed.
    fitted_on: ids of the subjects it was learned from; only in memory, None once loaded from disk.
    """

    columns: pl.DataFrame
    cuts: npt.NDArray[np.float64] = field(
        default_factory=lambda: np.empty((0, BINS - 1), np.float64)
    )
    settings: VocabularySettings = field(default_factory=VocabularySettings)
    fitted_on: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        schema.check_frame(self.columns, schema.COLUMNS, "vocabulary")

    def __len__(self) -> int:
        return len(self.columns)

    def __repr__(self) -> str:
        kinds = self.columns["kind"].value_counts(sort=True).iter_rows()
        return f"Vocabulary({', '.join(f'{n} {kind} columns' for kind, n in kinds) or 'empty'})"

    def equals(self, other: Vocabulary) -> bool:
        """Whether every column means the same in both."""
        return self is other or (
            self.columns.equals(other.columns) and np.array_equal(self.cuts, other.cuts)
        )

    @staticmethod
    def fit(records: VisitRecords, settings: VocabularySettings | None = None) -> Vocabulary:
        """Learn from all visits of `records`, which must hold training subjects only."""
        settings = settings or VocabularySettings()
        codes = _code_columns(records, settings)
        labs, cuts = _lab_columns(records, settings)
        return Vocabulary(
            columns=pl.concat([codes, labs]),
            cuts=cuts,
            settings=settings,
            fitted_on=records.subjects[schema.SUBJECT_ID].to_numpy(),
        )

    @property
    def labs(self) -> list[str]:
        """Names of the kept labs, in the order of `cuts`."""
        of_labs = self.columns.filter(pl.col("kind") == LAB)
        return of_labs["code"].unique(maintain_order=True).to_list()

    @property
    def empty_bins(self) -> pl.DataFrame:
        """The bins that got no column (lab, bin), because no training visit fell into them."""
        all_bins = pl.DataFrame({"code": self.labs}, schema={"code": pl.String}).join(
            pl.DataFrame({"bin": np.arange(BINS, dtype=np.int8)}), how="cross"
        )
        return all_bins.join(self.columns, on=["code", "bin"], how="anti").rename({"code": "lab"})

    def encode(self, records: VisitRecords) -> tuple[Offsets, Columns]:
        """Offsets (N + 1) and sorted, unique columns of every visit of `records`."""
        keys = _code_keys(records.code_table, self.settings)
        numbered = self.columns.with_row_index("column").with_columns(
            pl.col("column").cast(pl.Int32)
        )
        of_code = _lookup(keys, numbered.filter(pl.col("kind") != LAB), ["kind", "code"], "column")
        slots = pl.DataFrame(
            {"lab": self.labs, "slot": np.arange(len(self.labs), dtype=np.int32)},
            schema={"lab": pl.String, "slot": pl.Int32},
        )
        of_lab = _lookup(records.lab_table, slots, ["lab"], "slot")
        bins = np.full((len(self.labs), BINS), -1, np.int32)
        binned = numbered.filter(pl.col("kind") == LAB).join(
            slots.rename({"lab": "code"}), on="code", maintain_order="left"
        )
        bins[binned["slot"].to_numpy(), binned["bin"].to_numpy()] = binned["column"].to_numpy()
        codes = (records.code_offsets, records.codes, of_code)
        labs = (records.lab_offsets, records.labs, records.lab_values, of_lab)
        return _core.encode(codes, labs, self.cuts, bins, threads=cores())

    @staticmethod
    def of_codes(codes: list[str], kind: str = "diagnosis") -> Vocabulary:
        """A vocabulary of plain codes, in the given order, for small data and tests."""
        nothing = pl.Series([None] * len(codes), dtype=pl.Float64)
        return Vocabulary(
            pl.DataFrame(
                {
                    "kind": [kind] * len(codes),
                    "code": codes,
                    "bin": nothing.cast(pl.Int8),
                    "low": nothing,
                    "high": nothing,
                    "title": codes,
                },
                schema=dict(schema.COLUMNS),
            )
        )

    def write(self, folder: Path) -> None:
        """Write into a folder that is being written (a cohort's, a model's)."""
        store.write_frame(self.columns, folder / "vocabulary.arrow")
        np.save(folder / "cuts.npy", self.cuts, allow_pickle=False)
        store.write_json(folder / "vocabulary.json", asdict(self.settings))

    @staticmethod
    def read(folder: Path) -> Vocabulary:
        """Read what `write` wrote; raises `DataError` if it is missing or damaged."""
        file = folder / "vocabulary.json"
        try:
            settings = VocabularySettings(**store.read_json(file))
        except TypeError as error:
            want = "the settings of a vocabulary"
            raise DataError(table=str(file), want=want, got=str(error)) from None
        return Vocabulary(
            columns=store.read_frame(folder / "vocabulary.arrow"),
            cuts=store.read_array(folder / "cuts.npy"),
            settings=settings,
        )


def _code_keys(code_table: pl.DataFrame, settings: VocabularySettings) -> pl.DataFrame:
    """The (kind, code) under which each raw code is kept: `ICD10:I50` for ICD-10's I5023."""
    code = pl.col("code")
    if settings.icd_level == "category":
        is_e_code = (pl.col("system") == "ICD9") & code.str.starts_with("E")
        length = pl.when(is_e_code).then(4).otherwise(3)
        is_icd = pl.col("system").is_in(["ICD9", "ICD10"]) & (pl.col("kind") == "diagnosis")
        code = pl.when(is_icd).then(code.str.slice(0, length)).otherwise(code)
    return code_table.select(
        "kind", pl.concat_str("system", code, separator=":").alias("code"), "title"
    )


def _code_columns(records: VisitRecords, settings: VocabularySettings) -> pl.DataFrame:
    keys = _code_keys(records.code_table, settings)
    seen = _core.counts(records.codes, len(keys)) > 0
    kept = keys.filter(pl.Series(seen)).sort("kind", "code", maintain_order=True)
    kept = kept.unique(["kind", "code"], keep="first", maintain_order=True)
    nothing = {name: pl.lit(None, schema.COLUMNS[name]) for name in ("bin", "low", "high")}
    return kept.with_columns(**nothing).select(list(schema.COLUMNS))


def _lab_columns(
    records: VisitRecords, settings: VocabularySettings
) -> tuple[pl.DataFrame, npt.NDArray[np.float64]]:
    """The columns of the most frequent labs' bins, and those labs' cut points.

    Rank by number of visits, ties by name. A bin that no visit falls into gets no column.
    """
    known = len(records.lab_table)
    visits = _core.counts(records.labs, known)
    order = np.lexsort((np.arange(known), -visits.astype(np.int64)))
    kept = np.sort(order[: settings.labs][visits[order[: settings.labs]] > 0])
    slots = np.full(known, -1, np.int32)
    slots[kept] = np.arange(len(kept), dtype=np.int32)
    threads = cores()
    sizes = visits[kept]
    cuts, bins = _core.deciles(records.labs, records.lab_values, slots, sizes, threads=threads)
    filled = np.flatnonzero(bins)
    lab, bin_ = np.divmod(filled, BINS)
    edges = np.pad(cuts, ((0, 0), (1, 1)), constant_values=np.nan)
    table = records.lab_table[kept[lab]]
    frame = pl.DataFrame(
        {
            "kind": pl.repeat(LAB, len(filled), eager=True, dtype=pl.String),
            "code": table["lab"],
            "bin": bin_.astype(np.int8),
            "low": edges[lab, bin_],
            "high": edges[lab, bin_ + 1],
            "title": table["title"],
        },
        schema=dict(schema.COLUMNS),
        nan_to_null=True,
    )
    return frame, cuts


def _lookup(
    rows: pl.DataFrame, table: pl.DataFrame, on: list[str], value: str
) -> npt.NDArray[np.int32]:
    """For each row the table's value (int32), or -1."""
    found = rows.select(on).join(table.select(*on, value), on=on, how="left", maintain_order="left")
    return found[value].fill_null(-1).cast(pl.Int32).to_numpy()
