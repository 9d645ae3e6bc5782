"""Lab events to encoded visits: equipoise against polars, DuckDB, pandas and bare reading.

    python benches/extract.py [--patients 36463] [--formats csv.gz,csv,parquet] [--repeat 3]
                              [--rivals polars,duckdb,pandas] [--hospital DIR] [--no-check]

Every contender is a whole process that starts cold, in turns, and the best of `--repeat` counts;
the rivals' means are held against ours before anything is timed. Quote ratios, not seconds. All of
MIMIC-IV is `--patients 364627`.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
FORMATS = ("csv.gz", "csv", "parquet")
RIVALS = ("polars", "duckdb", "pandas")


class Cost(NamedTuple):
    """Wall and processor seconds of a whole process, and its peak resident megabytes."""

    wall: float
    cpu: float
    peak: float


def main() -> None:
    arguments = parse()
    for suffix in arguments.formats.split(","):
        root = arguments.hospital or hospital_made_apart(arguments.patients, suffix)
        rivals = names_in(arguments.rivals)
        if not arguments.no_check:
            # In a process of its own: see `hospital_made_apart`.
            check = ["--check", "--formats", suffix, "--hospital", str(root)]
            command = [sys.executable, __file__, *check, "--rivals", ",".join(rivals)]
            subprocess.run(command, check=True)
        if not arguments.check:
            file = root / "hosp" / f"labevents.{suffix}"
            commands = {name: contender(name, root, suffix) for name in ["equipoise", *rivals]}
            show(best_of(arguments.repeat, commands | floors(root, suffix)), file)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hospital", type=Path)
    parser.add_argument("--patients", type=int, default=36_463, help="a tenth of MIMIC-IV")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--rivals", default=",".join(RIVALS))
    parser.add_argument("--check", action="store_true", help="only compare the results")
    parser.add_argument("--no-check", action="store_true", help="only measure")
    parser.add_argument("--make", action="store_true", help="only simulate the hospital")
    arguments = parser.parse_args()
    if arguments.make:
        for suffix in arguments.formats.split(","):
            hospital(arguments.patients, suffix)
        sys.exit()
    if arguments.check:
        check(arguments.hospital, arguments.formats, names_in(arguments.rivals))
        sys.exit()
    return arguments


def names_in(text: str) -> list[str]:
    """`a,b` as a list; nothing is an empty one."""
    return [name for name in text.split(",") if name]


def contender(name: str, root: Path, suffix: str) -> list[str]:
    return [sys.executable, str(HERE / "rivals.py"), name, str(root), suffix]


def floors(root: Path, suffix: str) -> dict[str, list[str]]:
    """What nothing that reads the file can beat."""
    file = str(root / "hosp" / f"labevents.{suffix}")
    if suffix == "parquet":
        return {"bare decode": contender("polars_decode", root, suffix)}
    tools = {"csv.gz": (["igzip", "-dc"], ["gzip", "-dc"]), "csv": (["wc", "-l"],)}[suffix]
    return {" ".join(tool): [*tool, file] for tool in tools if shutil.which(tool[0])}


def hospital_made_apart(patients: int, suffix: str) -> Path:
    """In a process of its own: a child's peak memory counts its parent's before the exec."""
    made = [sys.executable, __file__, "--patients", str(patients), "--formats", suffix, "--make"]
    subprocess.run(made, check=True)
    return DATA / f"{patients}-{suffix}"


def hospital(patients: int, suffix: str) -> Path:
    """A simulated hospital; the other formats are made from its csv.gz."""
    from equipoise.simulate import simulate

    out = DATA / f"{patients}-{suffix}"
    if out.is_dir():
        return out
    print(f"making {patients:,} patients as {suffix}", flush=True)
    if suffix == "csv.gz":
        return simulate(out, patients=patients, file_format="csv.gz")
    source = hospital(patients, "csv.gz")
    draft = DATA / f".{out.name}"
    (draft / "hosp").mkdir(parents=True, exist_ok=True)
    for path in sorted((source / "hosp").iterdir()):
        convert(path, draft / "hosp" / f"{path.name.removesuffix('.csv.gz')}.{suffix}")
    return draft.rename(out)


def convert(source: Path, target: Path) -> None:
    if target.suffix == ".csv":
        unzip = "igzip" if shutil.which("igzip") else "gzip"
        with target.open("wb") as file:
            subprocess.run([unzip, "-dc", str(source)], stdout=file, check=True)
        return
    import polars as pl

    types: dict[str, type[pl.DataType]] = {
        "charttime": pl.Datetime, "storetime": pl.Datetime, "value": pl.String,
        "comments": pl.String, "order_provider_id": pl.String, "valuenum": pl.Float64,
        "ref_range_lower": pl.Float64, "ref_range_upper": pl.Float64, "icd_code": pl.String,
        "hadm_id": pl.Int64, "subject_id": pl.Int64, "itemid": pl.Int64, "flag": pl.String,
    }  # fmt: skip
    frame = pl.scan_csv(source, schema_overrides=types, try_parse_dates=True)
    frame.sink_parquet(target)


def check(root: Path, suffix: str, rivals: Sequence[str]) -> None:
    """All must find the same means and, but for bins at the wrong side of a cut, visits."""
    import numpy as np

    found = {}
    for name in ["equipoise", *rivals]:
        out = DATA / f"check-{name}.npz"
        subprocess.run([*contender(name, root, suffix), str(out)], check=True)
        with np.load(out) as arrays:
            found[name] = dict(arrays)
        out.unlink()
    ours = found.pop("equipoise")
    for name, theirs in found.items():
        for key in ("visit", "lab", "indptr", "codes"):
            assert np.array_equal(ours[key], theirs[key]), (name, key)
        assert np.allclose(ours["mean"], theirs["mean"], rtol=1e-12, atol=1e-12), name
        means = float((ours["mean"] != theirs["mean"]).mean())
        one, two = ours["indices"], theirs["indices"]
        code = one < ours["codes"]
        assert np.array_equal(one[code], two[code]), name
        bin_, other = one[~code] - ours["codes"], two[~code] - ours["codes"]
        assert np.array_equal(bin_ // 10, other // 10), name
        wrong = bin_ != other
        same = f"the same {len(ours['mean']):,} pairs and {code.sum():,} codes"
        off = f"{means:.2%} of its means are off by rounding, {wrong.mean():.3%} of its bins"
        print(f"{suffix}, {name}: {same}; {off} are wrong", flush=True)


def best_of(repeat: int, commands: Mapping[str, Sequence[str]]) -> dict[str, Cost]:
    """The quickest of some runs of each command, taken in turns."""
    best: dict[str, Cost] = {}
    for _ in range(repeat):
        for name, command in commands.items():
            best[name] = min(best.get(name, Cost(float("inf"), 0, 0)), measure(command))
    return best


def measure(command: Sequence[str]) -> Cost:
    # An editable install keeps its compiled modules beside its source, as pip does for the rivals.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    with Path(os.devnull).open("w") as nowhere:
        child = subprocess.Popen(command, stdout=nowhere, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, command
    wall = time.perf_counter() - start
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def show(best: Mapping[str, Cost], file: Path) -> None:
    ours = best["equipoise"].wall
    print(f"\n{file.name}, {file.stat().st_size / 1e6:,.0f} MB; {processor()}")
    print("| | wall s | times ours | CPU s | peak MB |\n|---|---|---|---|---|")
    for name, cost in sorted(best.items(), key=lambda entry: entry[1]):
        shown = f"**{name}**" if name == "equipoise" else name
        ratio, peak = cost.wall / ours, f"{cost.peak:.0f}"
        print(f"| {shown} | {cost.wall:.2f} | {ratio:.2f} | {cost.cpu:.2f} | {peak} |")
    print(flush=True)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
