"""Training of the generator: who is learned from, who tells when to stop, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from equipoise import schema
from equipoise.cohort import Cohort, is_earlier
from equipoise.errors import DataError, UsageError
from equipoise.generator.batches import last_visits
from equipoise.generator.checkpoint import EARLIER_KNOWN, HISTORY, Generator
from equipoise.generator.conditions import Conditions
from equipoise.generator.config import GeneratorConfig
from equipoise.generator.fitting import Course, Task, Watch, fit_weights
from equipoise.generator.network import computing_dtype
from equipoise.generator.parallel import Layout


def train_generator(
    cohort: Cohort,
    by: Sequence[str] = ("race", "sex"),
    seed: int = 0,
    *,
    config: GeneratorConfig | None = None,
    tuning: Cohort | None = None,
    snapshots: Path | str | None = None,
    devices: Sequence[jax.Device] | None = None,
    shard_params: bool = False,
    progress: schema.Progress = schema.no_progress,
    watch: Watch | None = None,
) -> Generator:
    """Fit the distribution of records given the label and the groups in `by`.

    The weights kept are the best for `tuning`, whose subjects must not be in `cohort`; without it a
    tenth of the subjects, drawn by `seed` with all of a person, is held out. `config` defaults to
    `GeneratorConfig.for_cohort`. Left out, and counted in `Generator.report`: subjects without
    visits, with an unknown label or with an unknown group.

    `snapshots` is a folder to save to at looks; if a killed run of the same training left some
    there, it goes on from them, and on a CPU of the same kind ends with the same bits as if it had
    not been killed, whatever the number of cores (`threads`). Each step is shared out to
    `devices` (default: all), which changes rounding only; `shard_params` cuts the weights too.
    `watch` is told how training goes at each look.

    Raises `DataError` if fewer than two subjects are left, if they have no codes, for another
    vocabulary of `tuning`, if a column of `by` is missing, if the likelihood is never finite, or if
    memory runs out; `UsageError` if `snapshots` are another training's, or for a negative `seed`.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed: want a whole number from 0, below 2^63, got {seed}")
    names = cohort.check_groups(by)
    fit, report = _usable(cohort, names)
    config = config or GeneratorConfig.for_cohort(fit)
    known = fit.visits[schema.LABEL].is_not_null().to_numpy()[is_earlier(fit.visit_offsets)]
    conditions = Conditions.of(fit.subjects, names, config.condition_dropout > 0)
    fit, tune = _parts(fit, tuning, conditions, seed)
    cut = int((np.diff(fit.visit_offsets) > config.max_visits).sum())
    fit, tune = last_visits(fit, config.max_visits), last_visits(tune, config.max_visits)
    layout = Layout.of(devices, config.accumulate, shard_params)
    task = Task(fit, tune, conditions, config, seed, layout)
    course = _fit(task, snapshots, progress, watch)
    report["cut_to_last_visits"] = cut
    report |= _told(task, course)
    report[EARLIER_KNOWN] = round(float(known.mean()), 4) if len(known) else 1.0
    params = jax.tree.map(jnp.asarray, course.best.params)
    history = pl.DataFrame(course.history, schema=dict(HISTORY), orient="row")
    return Generator(params, cohort.vocabulary, conditions, config, history, report)


def _told(task: Task, course: Course) -> dict[str, int | float | str]:
    shares = task.shares()
    return {
        "subjects_trained": len(task.fit),
        "subjects_tuning": len(task.tune),
        "best_step": course.best.step,
        "ended": course.over(task.config),
        "dtype": computing_dtype(task.config).name,
        "real_share_visits": round(shares.visits, 4),
        "real_share_attention": round(shares.attention, 4),
    }


def _parts(
    usable: Cohort, tuning: Cohort | None, conditions: Conditions, seed: int
) -> tuple[Cohort, Cohort]:
    """The subjects that are fitted to and those that are looked at; raises `DataError`."""
    if tuning is None:
        fit, tune = _hold_out(usable, list(conditions.by), seed)
    else:
        keep = conditions.known(tuning.subjects) & (np.diff(tuning.visit_offsets) > 0)
        fit, tune = usable, tuning.filter(keep)
    of = len(usable if tuning is None else tuning)
    for part, what, among in ((fit, "to train on", len(usable)), (tune, "for tuning", of)):
        if not len(part):
            raise DataError(
                table="subjects",
                want=f"some with visits, label and groups {what}",
                got=f"none of {among} that can be used",
            )
    if not fit.vocabulary.equals(tune.vocabulary):
        raise DataError(table="tuning", want="the cohort's vocabulary", got="another")
    if not len(fit.codes):
        raise DataError(
            table="cohort",
            want="at least one code in a visit that is trained on",
            got=f"none in {len(fit.visits)} visits",
        )
    return fit, tune


def _fit(
    task: Task, folder: Path | str | None, progress: schema.Progress, watch: Watch | None
) -> Course:
    if folder is None:
        return fit_weights(task, None, progress, watch)
    # Imported here: it brings Orbax, which takes as long as JAX to import.
    from equipoise.generator.snapshots import Snapshots

    keeper = Snapshots(folder, task)
    try:
        return fit_weights(task, keeper, progress, watch)
    finally:
        keeper.close()


def _usable(cohort: Cohort, by: list[str]) -> tuple[Cohort, dict[str, int | float | str]]:
    """The subjects that can be learned from, and how many of the others there are, by reason."""
    left = np.ones(len(cohort), bool)
    report: dict[str, int | float | str] = {}
    for reason, keep in (
        ("without_visits", np.diff(cohort.visit_offsets) > 0),
        ("label_unknown", cohort.subjects[schema.LABEL].is_not_null().to_numpy()),
        (
            "group_unknown",
            ~cohort.subjects.select(by)
            .select(pl.any_horizontal(pl.all().is_null()))
            .to_series()
            .to_numpy(),
        ),
    ):
        report[reason] = int((left & ~keep).sum())
        left &= keep
    return cohort.filter(left), report


def _hold_out(cohort: Cohort, by: list[str], seed: int) -> tuple[Cohort, Cohort]:
    """Nine tenths and one tenth of the subjects, those of one person in one of the two.

    Every cell keeps one subject in the first part.
    """
    person = pl.col(schema.PERSON_ID) if schema.PERSON_ID in cohort.subjects.columns else None
    own = -1 - pl.int_range(pl.len())
    shuffled = cohort.subjects.select(
        schema.LABEL, *by, __person=own if person is None else pl.coalesce(person, own)
    )
    shuffled = shuffled.with_row_index("__place").sample(fraction=1, shuffle=True, seed=seed)
    kept = pl.struct(schema.LABEL, *by).is_first_distinct()
    spare = shuffled.with_columns(__kept=kept).filter(~pl.col("__kept").any().over("__person"))
    persons = spare.group_by("__person", maintain_order=True).agg("__place")
    size = pl.col("__place").list.len()
    before = size.cum_sum() - size
    drawn = persons.filter(before < -(-len(cohort) // 10))["__place"].explode(empty_as_null=False)
    held = np.zeros(len(cohort), bool)
    held[drawn.to_numpy()] = True
    return cohort.filter(~held), cohort.filter(held)
