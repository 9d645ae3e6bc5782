"""The command line: the verbs, and the only place that prints or exits."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from equipoise import schema, store
from equipoise.errors import DataError, EquipoiseError, StoppedError, UsageError
from equipoise.options import (
    METHODS,
    MODELS,
    AgeCuts,
    Batch,
    By,
    ByTime,
    Codes,
    FileFormat,
    Folds,
    Force,
    Labels,
    LabKey,
    Labs,
    Methods,
    MinShare,
    Model,
    Models,
    Out,
    Races,
    Resume,
    Root,
    Seed,
    Settings,
    Shard,
    ShardParams,
    ShardSubjects,
    SourceArgument,
    Spec,
    Strict,
    Task,
    Threads,
    Until,
    comparison_of,
    names_in,
    part_of,
    reading_options,
    settings_in,
    source_options,
)
from equipoise.pipeline import Comparison, Job, Request, run_all
from equipoise.pipeline import report as render_report
from equipoise.terminal import (
    NOTHING_LEFT,
    err_console,
    flat,
    kept_in,
    means_of,
    out_console,
    progress_bars,
    table_of,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def _about(
    asked: Annotated[bool, typer.Option("--version", help="Say the version")] = False,
) -> None:
    """Balance EHR training sets with realistic synthetic patients, and see what that bought."""
    if asked:
        _say(f"equipoise {version('equipoise')}")
        raise typer.Exit


@app.command()
def demo(
    out: Out = Path("demo"), seed: Seed = 0, threads: Threads = None, force: Force = False
) -> None:
    """Everything on a simulated hospital; ends with the path of report.html."""
    from equipoise.simulate import simulate

    hospital = out / "hospital"
    store.check_free(out / "run", force)
    with progress_bars() as progress:
        simulate(
            hospital,
            patients=3400,
            seed=seed,
            lab_rows_per_patient=100,
            death_rate=0.15,
            force=force,
            progress=progress,
        )
    request = Request("mimic-iv", hospital, threads=threads)
    asked = Comparison(["race"], names_in(METHODS), folds=3, seed=seed)
    _run(request, asked, out / "run", False, force)


@app.command()
def simulate(
    patients: Annotated[int, typer.Option("--patients", min=1)],
    out: Out,
    seed: Seed = 0,
    format: Annotated[FileFormat, typer.Option("--format")] = FileFormat.csv_gz,
    force: Force = False,
) -> None:
    """Write a hospital with a known truth in MIMIC-IV's own file layout."""
    from equipoise.simulate import simulate as run

    with progress_bars() as progress:
        path = run(
            out,
            patients=patients,
            seed=seed,
            file_format=format.value,
            force=force,
            progress=progress,
        )
    _say(f"a hospital of {patients:,} patients is in {path}")


@app.command()
def extract(
    source: SourceArgument,
    root: Root,
    out: Out,
    task: Task = None,
    spec: Spec = None,
    codes: Codes = None,
    labels: Labels = None,
    until: Until = None,
    attach_by_time: ByTime = False,
    age_cuts: AgeCuts = "18,74",
    race_table: Races = None,
    lab_key: LabKey = None,
    strict: Strict = False,
    threads: Threads = None,
    force: Force = False,
) -> None:
    """Read a source's tables in one pass into visit records."""
    store.check_free(out, force)
    reading = reading_options(labels, until, attach_by_time, age_cuts, race_table, strict)
    request = Request(
        source.value, root, task, threads, source_options(spec, codes, lab_key), reading
    )
    with progress_bars() as progress:
        records = request.records(progress)
    records.save(out, force=force, inputs=request.digests())
    inspect(out)


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="Records, a cohort, a model, results or a run")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
) -> None:
    """Say what is in a folder."""
    from equipoise.inspection import inspect as look

    found = look(folder)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False, default=str))
        return
    table = Table(title=escape(f"{found['kind']} in {folder}"), show_header=False)
    for name, value in flat(found):
        table.add_row(escape(name), escape(value))
    out_console.print(table)


@app.command()
def train(
    records: Annotated[Path, typer.Argument(help="Records that `extract` wrote")],
    out: Out,
    by: By,
    split: Annotated[str | None, typer.Option("--split", help="Of train, tuning, held_out")] = None,
    labs: Labs = 50,
    set_: Settings = None,
    shard_params: ShardParams = False,
    resume: Resume = False,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Train the generator of patient records."""
    from equipoise.pipeline import Training, parts_to_learn, train_model
    from equipoise.records import VisitRecords
    from equipoise.vocabulary import VocabularySettings

    training = Training(names_in(by), settings_in(set_ or []), seed, resume, split, shard_params)
    store.check_free(out, force)
    loaded = VisitRecords.load(records)
    if split is None and loaded.subjects[schema.SPLIT].count():
        _say("all splits of the source are learned from; --split train keeps to one of them")
    cohort, tuning = parts_to_learn(loaded, split, VocabularySettings(labs=labs))
    with progress_bars() as bars, kept_in(store.work_of(out)):
        leads = train_model(
            cohort,
            out,
            training,
            tuning=tuning,
            force=force,
            inputs=_manifest_digest(records),
            progress=bars,
            watch=bars.watch_training,
        )
    if leads:
        inspect(out)


@app.command()
def sample(
    model: Annotated[Path, typer.Argument(help="A model that `train` wrote")],
    out: Out,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="CSV: label, groups, synthetic")
    ] = None,
    balance: Annotated[bool, typer.Option("--balance", help="Fill every cell up")] = False,
    ratio: Annotated[float, typer.Option("--ratio", help="How far to fill the cells up")] = 1.0,
    seed: Seed = 0,
    resume: Resume = False,
    shard: Shard = None,
    shard_subjects: ShardSubjects = 10_000,
    batch: Batch = None,
    force: Force = False,
) -> None:
    """Draw synthetic patients from a model, shard by shard."""
    from equipoise.balance.plan import BalancePlan, plan_cells
    from equipoise.generator import load_generator
    from equipoise.generator.jobs import account, job_folder, run_job

    if (plan is None) == (not balance):
        raise UsageError("either --plan PLAN.csv or --balance is wanted")
    if plan is not None and ratio != 1:
        raise UsageError("--ratio is for --balance: a plan says how many are wanted")
    store.check_free(out, force)
    generator = load_generator(model)
    if plan is not None:
        wanted = BalancePlan.from_csv(plan)
    else:
        cells = generator.conditions.cells.rename({"subjects": "real"})
        wanted = plan_cells(cells, generator.by, ratio=ratio)
    with progress_bars() as progress, kept_in(job_folder(out)):
        done = run_job(
            generator,
            wanted,
            out,
            seed,
            batch=batch,
            shard_subjects=shard_subjects,
            part=part_of(shard),
            resume=resume,
            force=force,
            inputs=_manifest_digest(model),
            config={"cells": wanted.cells.to_dicts()},
            progress=progress,
        )
    _say(account(done))
    if done.joined:
        inspect(out)


@app.command()
def evaluate(
    records: Annotated[Path, typer.Argument(help="Records that `extract` wrote")],
    out: Out,
    by: By,
    methods: Methods = METHODS,
    models: Models = MODELS,
    model: Model = None,
    folds: Folds = 5,
    labs: Labs = 50,
    min_share: MinShare = 0.0,
    resume: Resume = False,
    seed: Seed = 0,
    threads: Threads = None,
    force: Force = False,
) -> None:
    """Compare balancing methods in cross-validation."""
    from equipoise.pipeline import evaluate as run
    from equipoise.records import VisitRecords

    store.check_free(out, force)
    asked = comparison_of(by, methods, models, model, folds, seed, labs, min_share)
    loaded = VisitRecords.load(records)
    with progress_bars() as progress, kept_in(store.work_of(out)):
        job = Job(out, _manifest_digest(records), threads, resume, force, progress)
        results = run(loaded, asked, job)
    _show_summary(results)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="Results that `evaluate` wrote")],
    out: Out = Path("report.html"),
    force: Force = False,
) -> None:
    """Render results as one self-contained HTML file."""
    if out.exists() and not force:
        raise UsageError(f"{out} exists already; choose another name or pass --force to replace it")
    _say(f"the report is in {render_report(results, out)}")


@app.command()
def run(
    source: SourceArgument,
    root: Root,
    by: By,
    out: Out,
    task: Task = None,
    spec: Spec = None,
    codes: Codes = None,
    labels: Labels = None,
    until: Until = None,
    attach_by_time: ByTime = False,
    age_cuts: AgeCuts = "18,74",
    race_table: Races = None,
    lab_key: LabKey = None,
    strict: Strict = False,
    methods: Methods = METHODS,
    models: Models = MODELS,
    model: Model = None,
    folds: Folds = 5,
    labs: Labs = 50,
    min_share: MinShare = 0.0,
    resume: Resume = False,
    seed: Seed = 0,
    threads: Threads = None,
    force: Force = False,
) -> None:
    """Extract, evaluate, train the final generator, balance, report."""
    reading = reading_options(labels, until, attach_by_time, age_cuts, race_table, strict)
    request = Request(
        source.value, root, task, threads, source_options(spec, codes, lab_key), reading
    )
    asked = comparison_of(by, methods, models, model, folds, seed, labs, min_share)
    _run(request, asked, out, resume, force)


def _run(request: Request, asked: Comparison, out: Path, resume: bool, force: bool) -> None:
    store.check_free(out, force)
    with progress_bars() as progress, kept_in(store.work_of(out)):
        records = request.records(progress)
        job = Job(out, request.digests(), request.threads, resume, force, progress)
        results = run_all(records, asked, job)
    _show_summary(results)
    _say(f"report: {out / 'report.html'}")


def _manifest_digest(folder: Path) -> dict[str, str]:
    return store.digest([folder / store.MANIFEST])


def _show_summary(results: Any) -> None:
    from equipoise.evaluate.results import summary

    out_console.print(
        table_of("What balancing bought: means over folds", means_of(summary(results)))
    )
    _say(
        "F1 at 0.5; tuned: F1 at the tuned threshold, as is the worst group's; DI: disparate "
        "impact of F1, target 1; Theil: target 0; n/e: not estimable. Intervals are in the report."
    )


def _say(text: str) -> None:
    out_console.print(escape(text), highlight=False)


def main() -> None:
    """Run a verb: exit 0 done, 1 bad data, 2 bad usage, 130 stopped by Ctrl-C."""
    stopped = f"stopped; {NOTHING_LEFT}"
    try:
        status = app(standalone_mode=False)
    except (typer.TyperException, UsageError) as error:
        # Without a verb there is help, and nothing to say.
        if said := str(error) if isinstance(error, UsageError) else error.format_message():
            _complain(said)
        status = 2
    except StoppedError as error:
        stopped, status = str(error), 130
    except (EquipoiseError, OSError, MemoryError) as error:
        _complain(error)
        status = 1
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    if status == 130:  # Typer itself turns Ctrl-C into this status, without a word.
        _complain(stopped)
    sys.exit(status if isinstance(status, int) else 0)


def _complain(error: BaseException | str) -> None:
    kind = "" if isinstance(error, DataError | UsageError | str) else f"{type(error).__name__}: "
    err_console.print(f"[bold red]error:[/] {escape(kind + str(error))}", highlight=False)
