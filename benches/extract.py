"""Lab events to encoded visits: equipoise against polars, DuckDB and bare inflating.

    python benches/extract.py [--hospital DIR] [--patients 36463] [--repeat 3] [--format csv]

Every contender is a whole process that starts cold, in turns, and the best of `--repeat` counts;
the rivals' means are held against ours before anything is timed. Quote ratios, not seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMON = """
import sys, json
root, suffix, out = sys.argv[1:4]
path = f"{root}/hosp/labevents.{suffix}"
"""
OURS = (
    COMMON
    + """
import numpy as np
import equipoise as eq
records = eq.read_mimic_iv(root)
cohort = records.encode(records.fit_vocabulary())
if out:
    owner = np.repeat(records.visits["visit_id"].to_numpy(), np.diff(records.lab_offsets))
    labs = records.lab_table["lab"].cast(int).to_numpy()[records.labs]
    np.savez(out, visit=owner, lab=labs, mean=records.lab_values)
"""
)
POLARS = (
    COMMON
    + """
import numpy as np, polars as pl
columns = {"hadm_id": pl.Int64, "itemid": pl.Int32, "valuenum": pl.Float64}
if suffix == "parquet":
    labs = pl.scan_parquet(path)
    ids = pl.scan_parquet(f"{root}/hosp/admissions.parquet")
else:
    header = pl.read_csv(path, n_rows=0).columns
    schema = {name: columns.get(name, pl.String) for name in header}
    labs = pl.scan_csv(path, schema=schema)
    ids = pl.scan_csv(f"{root}/hosp/admissions.{suffix}")
labs = labs.select(list(columns)).filter(
    pl.col("hadm_id").is_not_null() & pl.col("valuenum").is_finite()
)
labs = labs.join(ids.select(pl.col("hadm_id").cast(pl.Int64)), on="hadm_id", how="semi")
means = labs.group_by("hadm_id", "itemid").agg(pl.col("valuenum").mean())
means = means.collect(engine="streaming")
top = means.group_by("itemid").len().sort(["len", "itemid"], descending=[True, False]).head(50)
kept = means.filter(pl.col("itemid").is_in(top["itemid"].implode()))
quantiles = [pl.col("valuenum").quantile(q / 10, "linear").alias(str(q)) for q in range(1, 10)]
cuts = kept.group_by("itemid").agg(quantiles)
at_or_above = [(pl.col("valuenum") >= pl.col(str(q))).cast(pl.Int8) for q in range(1, 10)]
binned = kept.join(cuts, on="itemid").select("hadm_id", "itemid", pl.sum_horizontal(at_or_above))
binned = binned.sort("hadm_id", "itemid")
if out:
    np.savez(out, visit=means["hadm_id"], lab=means["itemid"], mean=means["valuenum"])
"""
)
DUCKDB = (
    COMMON
    + """
import duckdb, numpy as np
duckdb.sql("set enable_progress_bar = false")
read = {"parquet": f"read_parquet('{path}')"}.get(suffix, f"read_csv('{path}', all_varchar=true)")
ids = {"parquet": f"read_parquet('{root}/hosp/admissions.parquet')"}.get(
    suffix, f"read_csv('{root}/hosp/admissions.{suffix}')")
means = duckdb.sql(f'''
  create table means as
  select hadm_id::bigint visit, itemid::int lab, avg(valuenum::double) mean from {read}
  where hadm_id is not null and isfinite(valuenum::double)
    and hadm_id::bigint in (select hadm_id from {ids}) group by 1, 2''')
duckdb.sql('''
  create table cuts as
  select lab, quantile_cont(mean, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]) q from means
  where lab in (select lab from means group by 1 order by count(*) desc, lab limit 50)
  group by 1''')
duckdb.sql('''
  create table binned as
  select visit, lab, len(list_filter(q, lambda x: x <= mean)) bin from means join cuts using (lab)
  order by visit, lab''')
if out:
    np.savez(out, **duckdb.sql("select visit, lab, mean from means").fetchnumpy())
"""
)


def main() -> None:
    arguments = parse()
    root = hospital(arguments)
    suffix = arguments.format
    file = root / "hosp" / f"labevents.{suffix}"
    contenders: dict[str, list[str]] = {"equipoise": [sys.executable, "-c", OURS]}
    contenders["polars"] = [sys.executable, "-c", POLARS]
    if has("duckdb"):
        contenders["DuckDB"] = [sys.executable, "-c", DUCKDB]
    if arguments.check:
        check(contenders, root, suffix)
        return
    # In a process of its own, for a child's peak memory counts its parent's from before the exec.
    subprocess.run([sys.executable, __file__, "--check", *sys.argv[1:]], check=True)
    commands = {name: [*c, str(root), suffix, ""] for name, c in contenders.items()}
    for name, tool in floors(suffix).items():
        if shutil.which(tool[0]):
            commands[name] = [*tool, str(file)]
    best: dict[str, tuple[float, float]] = {}
    for _ in range(arguments.repeat):
        for name, command in commands.items():
            wall, peak = measure(command)
            best[name] = min(best.get(name, (wall, peak)), (wall, peak))
    show(best, file)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hospital", type=Path)
    parser.add_argument("--patients", type=int, default=36_463, help="a tenth of MIMIC-IV")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--format", default="csv.gz", choices=["csv.gz", "csv", "parquet"])
    parser.add_argument("--check", action="store_true", help="only compare the results")
    return parser.parse_args()


def hospital(arguments: argparse.Namespace) -> Path:
    from equipoise.simulate import simulate

    if arguments.hospital:
        return arguments.hospital
    out = HERE / "data" / f"{arguments.patients}-{arguments.format}"
    if not out.is_dir():
        print(f"simulating {arguments.patients:,} patients into {out.relative_to(HERE.parent)}")
        simulate(out, patients=arguments.patients, file_format=arguments.format)
    return out


def floors(suffix: str) -> dict[str, list[str]]:
    """What nothing that reads the file can beat."""
    if suffix == "csv.gz":
        return {"igzip -dc": ["igzip", "-dc"], "gzip -dc": ["gzip", "-dc"]}
    return {"wc -l": ["wc", "-l"]} if suffix == "csv" else {}


def has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def check(contenders: dict[str, list[str]], root: Path, suffix: str) -> None:
    """All must find the same (visit, lab) pairs and, but for rounding, the same means."""
    import numpy as np

    found = {}
    for name, command in contenders.items():
        out = HERE / "data" / f"check-{name}.npz"
        out.parent.mkdir(exist_ok=True)
        subprocess.run([*command, str(root), suffix, str(out)], check=True)
        with np.load(out) as arrays:
            order = np.lexsort((arrays["lab"], arrays["visit"]))
            found[name] = {key: np.asarray(arrays[key])[order] for key in arrays.files}
        out.unlink()
    ours = found.pop("equipoise")
    for name, theirs in found.items():
        assert np.array_equal(ours["visit"], theirs["visit"]), name
        assert np.array_equal(ours["lab"], theirs["lab"]), name
        assert np.allclose(ours["mean"], theirs["mean"], rtol=1e-12, atol=1e-12), name
        off = float((ours["mean"] != theirs["mean"]).mean())
        print(f"{name}: the same {len(ours['mean']):,} means, {off:.2%} of them rounded otherwise")


def measure(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident megabytes of a whole process."""
    start = time.perf_counter()
    with Path(os.devnull).open("w") as nowhere:
        child = subprocess.Popen(command, stdout=nowhere)
        _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, command[:2]
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def show(best: dict[str, tuple[float, float]], file: Path) -> None:
    ours = best["equipoise"][0]
    size = file.stat().st_size / 1e6
    print(f"\n{file.name}, {size:,.0f} MB; {platform.machine()}, {os.cpu_count()} cores")
    print(f"{'contender':<12}{'wall s':>9}{'x ours':>9}{'peak MB':>9}")
    for name, (wall, peak) in sorted(best.items(), key=lambda entry: entry[1]):
        print(f"{name:<12}{wall:>9.2f}{wall / ours:>9.2f}{peak:>9.0f}")
    print(json.dumps({name: round(wall / ours, 3) for name, (wall, _) in best.items()}))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
