"""MIMIC-IV's tables to encoded visits, as a good user of each library would write it.

    python benches/rivals.py NAME ROOT SUFFIX [OUT.npz]

NAME is a function below; ROOT holds `hosp/` with files of SUFFIX (csv.gz, csv, parquet). The same
work for all: lab rows with a known visit and a finite number -> mean by visit and lab -> the 50
labs with most visits -> deciles -> bins; diagnoses -> categories; both -> sorted columns of every
visit (indptr, indices), visits by subject and time. With OUT, means and columns are saved, to be
held against others.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

COLUMNS = ("hadm_id", "itemid", "valuenum")
DIAGNOSES = ("hadm_id", "icd_code", "icd_version")
STAYS = ("subject_id", "admittime", "hadm_id")
TENTHS = [tenth / 10 for tenth in range(1, 10)]


def equipoise(root: Path, suffix: str, out: str | None) -> None:
    """Ours, which reads patients too, and ends with groups and labels."""
    import equipoise as eq

    records = eq.read_mimic_iv(root)
    vocabulary = records.fit_vocabulary()
    cohort = records.encode(vocabulary)
    if out:
        import numpy as np
        import polars as pl

        owner = np.repeat(records.visits["visit_id"].to_numpy(), np.diff(records.lab_offsets))
        labs = records.lab_table["lab"].cast(int).to_numpy()[records.labs]
        codes = (vocabulary.columns["kind"] != "lab").sum()
        # Ours leaves out bins that nobody fell into.
        slot = pl.col("code").rank("dense") - 1
        bins = vocabulary.columns[codes:].select(10 * slot + pl.col("bin"))
        known = np.concatenate([np.arange(codes), codes + bins.to_series().to_numpy()])
        means = (owner, labs, records.lab_values)
        _save(out, means, cohort.code_offsets, known[cohort.codes], codes)


def polars(root: Path, suffix: str, out: str | None) -> None:
    """The lazy, streaming engine, which reads the tables side by side."""
    import numpy as np
    import polars as pl

    stays = _polars_scan(root, suffix, "admissions", STAYS)
    labs = _polars_scan(root, suffix, "labevents", COLUMNS).filter(
        pl.col("hadm_id").is_not_null() & pl.col("valuenum").is_finite()
    )
    labs = labs.join(stays.select("hadm_id"), on="hadm_id", how="semi")
    means = labs.group_by("hadm_id", "itemid").agg(pl.col("valuenum").mean())
    injury = (pl.col("icd_version") == 9) & pl.col("icd_code").str.starts_with("E")
    category = pl.col("icd_code").str.slice(0, pl.when(injury).then(4).otherwise(3))
    code = pl.format("ICD{}:{}", "icd_version", category).alias("code")
    codes = _polars_scan(root, suffix, "diagnoses_icd", DIAGNOSES).select("hadm_id", code).unique()
    stays = stays.sort(STAYS).select("hadm_id").with_row_index("row")
    means, codes, stays = pl.collect_all([means, codes, stays], engine="streaming")

    top = means.group_by("itemid").len().sort(["len", "itemid"], descending=[True, False]).head(50)
    kept = means.filter(pl.col("itemid").is_in(top["itemid"].implode()))
    quantiles = [pl.col("valuenum").quantile(q, "linear").alias(str(q)) for q in TENTHS]
    cuts = kept.group_by("itemid").agg(quantiles)
    above = [(pl.col("valuenum") >= pl.col(str(q))).cast(pl.Int8) for q in TENTHS]
    bins = kept.join(cuts, on="itemid").select(
        "hadm_id", "itemid", pl.sum_horizontal(above).alias("bin")
    )
    names = codes.select("code").unique().sort("code").with_row_index("column")
    slots = bins.select("itemid").unique().sort("itemid").with_row_index("slot")
    column = (len(names) + 10 * pl.col("slot") + pl.col("bin")).cast(pl.UInt32).alias("column")
    cells = pl.concat(
        [
            codes.join(names, on="code").select("hadm_id", "column"),
            bins.join(slots, on="itemid").select("hadm_id", column),
        ]
    )
    cells = cells.join(stays, on="hadm_id").sort("row", "column")
    indptr = np.searchsorted(cells["row"].to_numpy(), np.arange(len(stays) + 1))
    indices = cells["column"].to_numpy()
    if out:
        _save(out, means.select(COLUMNS), indptr, indices, len(names))


def polars_decode(root: Path, suffix: str, out: str | None) -> None:
    """Nothing but decoding the three columns, batch by batch: a floor."""
    import polars as pl

    labs = _polars_scan(root, suffix, "labevents", COLUMNS)
    labs.select(pl.all().sum()).collect(engine="streaming")


def _polars_scan(root: Path, suffix: str, table: str, columns: tuple[str, ...]) -> Any:
    import polars as pl

    path = root / "hosp" / f"{table}.{suffix}"
    if suffix == "parquet":
        return pl.scan_parquet(path).select(columns)
    types = {"icd_code": pl.String, "admittime": pl.String, "valuenum": pl.Float64}
    types = {name: types.get(name, pl.Int64) for name in columns} | {"itemid": pl.Int32}
    header = pl.read_csv(path, n_rows=0).columns
    schema = {name: types.get(name, pl.String) for name in header}
    return pl.scan_csv(path, schema=schema).select(columns)


def duckdb(root: Path, suffix: str, out: str | None) -> None:
    """Columns read as text where it must be: DuckDB's own guess of the types stops at odd rows."""
    import duckdb as db
    import numpy as np

    db.sql("set enable_progress_bar = false")

    def table(name: str) -> str:
        path = root / "hosp" / f"{name}.{suffix}"
        return f"read_{'parquet' if suffix == 'parquet' else 'csv'}('{path}'"

    text = ")" if suffix == "parquet" else ", all_varchar = true)"
    db.sql(f"""create table stays as
      select hadm_id::bigint visit,
        row_number() over (order by subject_id, admittime, hadm_id) - 1 r
      from {table("admissions")})""")
    db.sql(f"""create table means as
      select hadm_id::bigint visit, itemid::int lab, avg(valuenum::double) mean
      from {table("labevents")}{text}
      where hadm_id is not null and isfinite(valuenum::double)
        and hadm_id::bigint in (select visit from stays) group by 1, 2""")
    db.sql(f"""create table cuts as
      select lab, quantile_cont(mean, {TENTHS}) q from means
      where lab in (select lab from means group by 1 order by count(*) desc, lab limit 50)
      group by 1""")
    db.sql("""create table bins as
      select visit, lab, len(list_filter(q, lambda x: x <= mean)) bin from means
      join cuts using (lab)""")
    db.sql(f"""create table codes as
      select distinct hadm_id::bigint visit, 'ICD' || icd_version || ':' || left(icd_code,
        case when icd_version::int = 9 and icd_code like 'E%' then 4 else 3 end) code
      from {table("diagnoses_icd")}{text}""")
    db.sql("""create table names as
      select code, row_number() over (order by code) - 1 col
      from (select distinct code from codes)""")
    db.sql("""create table slots as
      select lab, (select count(*) from names) + 10 * (row_number() over (order by lab) - 1) col
      from cuts""")
    cells = db.sql("""select r, col from (select visit, col from codes join names using (code)
      union all select visit, col + bin from bins join slots using (lab)) join stays using (visit)
      order by r, col""").fetchnumpy()
    ((visits,),) = db.sql("select count(*) from stays").fetchall()
    indptr = np.searchsorted(cells["r"], np.arange(visits + 1))
    if out:
        ((codes,),) = db.sql("select count(*) from names").fetchall()
        means = db.sql("select visit, lab, mean from means").fetchnumpy()
        _save(out, means.values(), indptr, cells["col"], codes)


def pandas(root: Path, suffix: str, out: str | None) -> None:
    """Only the columns that are needed, with their types given."""
    import numpy as np
    import pandas as pd

    def read(name: str, columns: tuple[str, ...], types: dict[str, str] | None = None) -> Any:
        path = root / "hosp" / f"{name}.{suffix}"
        if suffix == "parquet":
            return pd.read_parquet(path, columns=list(columns))
        return pd.read_csv(path, usecols=list(columns), dtype=types)

    stays = read("admissions", STAYS).sort_values(list(STAYS))["hadm_id"].to_numpy()
    row = pd.Series(np.arange(len(stays)), stays)
    types = {"hadm_id": "float64", "itemid": "int32", "valuenum": "float64"}
    labs = read("labevents", COLUMNS, types).dropna()
    labs = labs[labs["valuenum"].abs() < float("inf")]
    labs = labs[labs["hadm_id"].isin(stays)]
    means = labs.groupby(["hadm_id", "itemid"], sort=False)["valuenum"].mean().reset_index()
    counts = means["itemid"].value_counts().rename("n").reset_index()
    top = counts.sort_values(["n", "itemid"], ascending=[False, True])["itemid"].head(50)
    kept = means[means["itemid"].isin(top)]
    cuts = kept.groupby("itemid")["valuenum"].quantile(TENTHS).unstack()
    bins = (kept["valuenum"].to_numpy()[:, None] >= cuts.loc[kept["itemid"]].to_numpy()).sum(1)

    codes = read("diagnoses_icd", DIAGNOSES, {"icd_code": "str"})
    injury = (codes["icd_version"] == 9) & codes["icd_code"].str.startswith("E")
    category = codes["icd_code"].str[:4].where(injury, codes["icd_code"].str[:3])
    codes["code"] = "ICD" + codes["icd_version"].astype(str) + ":" + category
    codes = codes[["hadm_id", "code"]].drop_duplicates()
    column, names = pd.factorize(codes["code"], sort=True)
    slot = len(names) + 10 * pd.factorize(kept["itemid"], sort=True)[0] + bins
    rows = row.loc[np.concatenate([codes["hadm_id"], kept["hadm_id"]])].to_numpy()
    columns = np.concatenate([column, slot])
    order = np.lexsort((columns, rows))
    indptr = np.searchsorted(rows[order], np.arange(len(stays) + 1))
    indices = columns[order]
    if out:
        _save(out, (means[name] for name in COLUMNS), indptr, indices, len(names))


def _save(out: str, means: Any, indptr: Any, indices: Any, codes: int) -> None:
    """Means by visit and lab, and the visits' columns, of which the first `codes` are diagnoses."""
    import numpy as np

    visit, lab, mean = (np.asarray(array) for array in means)
    order = np.lexsort((lab, visit))
    np.savez(
        out,
        visit=visit[order].astype(np.int64),
        lab=lab[order].astype(np.int64),
        mean=mean[order],
        indptr=np.asarray(indptr).astype(np.int64),
        indices=np.asarray(indices).astype(np.int64),
        codes=codes,
    )


if __name__ == "__main__":
    name, root, suffix, *out = sys.argv[1:]
    globals()[name](Path(root), suffix, out[0] if out else None)
