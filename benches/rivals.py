"""Lab events to decile bins, as a good user of each library would write it.

    python benches/rivals.py NAME ROOT SUFFIX [OUT.npz]

NAME is a function below; ROOT holds `hosp/` with files of SUFFIX (csv.gz, csv, parquet). The same
work for all: rows with a known visit and a finite number -> mean by visit and lab -> the 50 labs
with most visits -> deciles -> bins. With OUT, means and bins are saved, to be held against others.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

COLUMNS = ("hadm_id", "itemid", "valuenum")
TENTHS = [tenth / 10 for tenth in range(1, 10)]


def equipoise(root: Path, suffix: str, out: str | None) -> None:
    """Ours, which reads admissions, patients and diagnoses too, and ends with encoded visits."""
    import equipoise as eq

    records = eq.read_mimic_iv(root)
    vocabulary = records.fit_vocabulary()
    records.encode(vocabulary)
    if out:
        import numpy as np

        owner = np.repeat(records.visits["visit_id"].to_numpy(), np.diff(records.lab_offsets))
        labs = records.lab_table["lab"].cast(int).to_numpy()[records.labs]
        _save(out, owner, labs, records.lab_values, *_exact_bins(owner, labs, records, vocabulary))


def _exact_bins(owner: Any, labs: Any, records: Any, vocabulary: Any) -> tuple[Any, Any, Any]:
    import numpy as np

    kept = np.array([int(lab) for lab in vocabulary.labs])
    at = np.flatnonzero(np.isin(labs, kept))
    cuts = vocabulary.cuts[np.searchsorted(kept, labs[at])]
    return owner[at], labs[at], (records.lab_values[at, None] >= cuts).sum(1)


def polars(root: Path, suffix: str, out: str | None) -> None:
    """The lazy, streaming engine."""
    import polars as pl

    labs = _polars_scan(root, suffix).filter(
        pl.col("hadm_id").is_not_null() & pl.col("valuenum").is_finite()
    )
    admissions = root / "hosp" / f"admissions.{suffix}"
    ids = pl.scan_parquet(admissions) if suffix == "parquet" else pl.scan_csv(admissions)
    labs = labs.join(ids.select(pl.col("hadm_id").cast(pl.Int64)), on="hadm_id", how="semi")
    means = labs.group_by("hadm_id", "itemid").agg(pl.col("valuenum").mean())
    means = means.collect(engine="streaming")
    top = means.group_by("itemid").len().sort(["len", "itemid"], descending=[True, False]).head(50)
    kept = means.filter(pl.col("itemid").is_in(top["itemid"].implode()))
    quantiles = [pl.col("valuenum").quantile(q, "linear").alias(str(q)) for q in TENTHS]
    cuts = kept.group_by("itemid").agg(quantiles)
    above = [(pl.col("valuenum") >= pl.col(str(q))).cast(pl.Int8) for q in TENTHS]
    bins = kept.join(cuts, on="itemid").select(
        "hadm_id", "itemid", pl.sum_horizontal(above).alias("bin")
    )
    bins = bins.sort("hadm_id", "itemid")
    if out:
        _save(out, *means.select(COLUMNS), *bins.select("hadm_id", "itemid", "bin"))


def polars_decode(root: Path, suffix: str, out: str | None) -> None:
    """Nothing but decoding the three columns, batch by batch: a floor."""
    import polars as pl

    _polars_scan(root, suffix).select(pl.all().sum()).collect(engine="streaming")


def _polars_scan(root: Path, suffix: str) -> Any:
    import polars as pl

    path = root / "hosp" / f"labevents.{suffix}"
    if suffix == "parquet":
        return pl.scan_parquet(path).select(COLUMNS)
    types = {"hadm_id": pl.Int64, "itemid": pl.Int32, "valuenum": pl.Float64}
    header = pl.read_csv(path, n_rows=0).columns
    schema = {name: types.get(name, pl.String) for name in header}
    return pl.scan_csv(path, schema=schema).select(COLUMNS)


def duckdb(root: Path, suffix: str, out: str | None) -> None:
    """Columns read as text where it must be: DuckDB's own guess of the types stops at odd rows."""
    import duckdb as db

    db.sql("set enable_progress_bar = false")
    labs, ids = (str(root / "hosp" / f"{name}.{suffix}") for name in ("labevents", "admissions"))
    parquet = suffix == "parquet"
    read = f"read_parquet('{labs}')" if parquet else f"read_csv('{labs}', all_varchar=true)"
    known = f"read_parquet('{ids}')" if parquet else f"read_csv('{ids}')"
    db.sql(f"""create table means as
      select hadm_id::bigint visit, itemid::int lab, avg(valuenum::double) mean from {read}
      where hadm_id is not null and isfinite(valuenum::double)
        and hadm_id::bigint in (select hadm_id from {known}) group by 1, 2""")
    db.sql(f"""create table cuts as
      select lab, quantile_cont(mean, {TENTHS}) q from means
      where lab in (select lab from means group by 1 order by count(*) desc, lab limit 50)
      group by 1""")
    db.sql("""create table bins as
      select visit, lab, len(list_filter(q, lambda x: x <= mean)) bin from means
      join cuts using (lab) order by visit, lab""")
    if out:
        means = db.sql("select visit, lab, mean from means").fetchnumpy()
        bins = db.sql("select visit, lab, bin from bins").fetchnumpy()
        _save(out, *means.values(), *bins.values())


def pandas(root: Path, suffix: str, out: str | None) -> None:
    """Only the columns that are needed, with their types given."""
    import pandas as pd

    def read(name: str, columns: list[str], types: dict[str, str] | None = None) -> Any:
        path = root / "hosp" / f"{name}.{suffix}"
        if suffix == "parquet":
            return pd.read_parquet(path, columns=columns)
        return pd.read_csv(path, usecols=columns, dtype=types)

    types = {"hadm_id": "float64", "itemid": "int32", "valuenum": "float64"}
    labs = read("labevents", list(COLUMNS), types).dropna()
    labs = labs[labs["valuenum"].abs() < float("inf")]
    labs = labs[labs["hadm_id"].isin(read("admissions", ["hadm_id"])["hadm_id"])]
    means = labs.groupby(["hadm_id", "itemid"], sort=False)["valuenum"].mean().reset_index()
    counts = means["itemid"].value_counts().rename("n").reset_index()
    top = counts.sort_values(["n", "itemid"], ascending=[False, True])["itemid"].head(50)
    kept = means[means["itemid"].isin(top)].sort_values(["hadm_id", "itemid"])
    cuts = kept.groupby("itemid")["valuenum"].quantile(TENTHS).unstack()
    rows = cuts.loc[kept["itemid"]].to_numpy()
    bins = (kept["valuenum"].to_numpy()[:, None] >= rows).sum(1)
    if out:
        _save(out, *(means[name] for name in COLUMNS), kept["hadm_id"], kept["itemid"], bins)


def _save(out: str, *arrays: Any) -> None:
    import numpy as np

    visit, lab, mean, of_visit, of_lab, bins = (np.asarray(array) for array in arrays)
    order, by = np.lexsort((lab, visit)), np.lexsort((of_lab, of_visit))
    np.savez(
        out,
        visit=visit[order].astype(np.int64),
        lab=lab[order].astype(np.int64),
        mean=mean[order],
        bin_visit=of_visit[by].astype(np.int64),
        bin_lab=of_lab[by].astype(np.int64),
        bin=bins[by].astype(np.int8),
    )


if __name__ == "__main__":
    name, root, suffix, *out = sys.argv[1:]
    globals()[name](Path(root), suffix, out[0] if out else None)
