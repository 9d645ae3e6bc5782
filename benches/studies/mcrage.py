"""Are the marginals of mcrage's visits right? Against simpler ways to make visits.

    python benches/studies/mcrage.py support2|simulated [--data ../shared/data] [--by race]
        [--seed 0] [--patients 15000] [--steps 1 5 10 50]

Four fifths of the subjects are learned from (a tenth of them tunes) and as many visits are made of
the same cells: by mcrage, by columns that are independent given the cell, and by a plain Gaussian
diffusion whose values above 0.5 are ones. All are held against the last fifth. The tables go into
mcrage.md, in the section of that data set and seed; `--dry` only prints them.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
import polars as pl
from scipy import sparse

import equipoise as eq
from equipoise import schema
from equipoise.balance.diffusion.config import DiffusionConfig
from equipoise.balance.diffusion.mcrage import Rows, draw, fit
from equipoise.balance.diffusion.variables import variables_of
from equipoise.evaluate.fidelity import fidelity, sizes
from equipoise.generator.conditions import Conditions
from generator import markdown, read

HERE: Final = Path(__file__).resolve().parent
#: Steps of the Gaussian diffusion's noise, and of its training, at rows of 256.
NOISE_STEPS: Final = 200
GAUSSIAN_STEPS: Final = 6000
Floats = npt.NDArray[np.float32]
Maker = Callable[[Rows, Rows, eq.Vocabulary, int], Floats]


def main() -> None:
    arguments = parse()
    records = read(arguments.dataset, arguments.data, 0)
    train, tuning, held_out = cohorts(records, arguments.seed)
    by = arguments.by
    conditions = Conditions.of(train.subjects.drop_nulls([schema.LABEL, *by]), by)
    real, train, tuning = (
        part.filter(conditions.known(part.subjects)) for part in (held_out, train, tuning)
    )
    rows, tune = (Rows(part.matrix(), conditions.encode(part.subjects)) for part in (train, tuning))
    makers: dict[str, Maker] = {
        "independent columns by cell": independent,
        "Gaussian diffusion, cut at 0.5": gaussian,
        **{f"mcrage, {steps} steps": partial(diffused, steps=steps) for steps in arguments.steps},
    }
    text = [
        f"`python benches/studies/mcrage.py {' '.join(sys.argv[1:])}`",
        "",
        f"{train!r} to learn from; {tuning!r} tunes; {real!r} held out. "
        f"{asdict(DiffusionConfig.for_rows(*rows.X.shape))}",
        "",
    ]
    judged, by_cell = [ceiling(real, train)], []
    for name, make in makers.items():
        began = time.process_time()
        X = make(rows, tune, train.vocabulary, arguments.seed)
        seconds = time.process_time() - began
        made = visits_of(train, X)
        judged.append(judge(name, real, made, seconds))
        cells = fidelity(real, made, train=train, by=by, fewest=50)
        by_cell.append(cells.filter(what="codes").with_columns(pl.lit(name).alias("method")))
        print(judged[-1], flush=True)
    text += markdown(pl.DataFrame(judged)) + markdown(cell_table(pl.concat(by_cell), by))
    section = "\n".join(text)
    print(section)
    if not arguments.dry:
        write(f"{arguments.dataset}, seed {arguments.seed}", section)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "dataset", choices=["support2"], help="one visit a subject, one row a visit"
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--by", nargs="*", default=["race"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", nargs="*", type=int, default=[1, 5, 10, 50])
    parser.add_argument("--dry", action="store_true", help="leave mcrage.md as it is")
    return parser.parse_args()


def cohorts(records: eq.VisitRecords, seed: int) -> tuple[eq.Cohort, eq.Cohort, eq.Cohort]:
    """To learn from, to tune by and to hold against, by the first one's vocabulary."""
    labelled = np.flatnonzero(records.subjects[schema.LABEL].is_not_null().to_numpy())
    known, held_out = records.take(labelled).split(fraction=0.8, seed=seed)
    train, tuning = known.split(fraction=0.9, seed=seed)
    vocabulary = train.fit_vocabulary()
    return train.encode(vocabulary), tuning.encode(vocabulary), held_out.encode(vocabulary)


def diffused(rows: Rows, tune: Rows, of: eq.Vocabulary, seed: int, steps: int) -> Floats:
    """Rows of mcrage, whose training does not know in how many steps they will be made."""
    config = replace(DiffusionConfig.for_rows(*rows.X.shape), reverse_steps=steps)
    model = fit(rows, tune, variables_of(of, rows.X), config, seed)
    print(f"{len(model.history)} looks, the best {min(model.history):.2f} nats", flush=True)
    return draw(model, rows.bits, seed + 1).toarray()


def independent(rows: Rows, tune: Rows, of: eq.Vocabulary, seed: int) -> Floats:
    """Each column by its share of the cell's own rows, whatever the others are."""
    rng, made = np.random.default_rng(seed), np.zeros(rows.X.shape, np.float32)
    for bits in np.unique(rows.bits, axis=0):
        own = np.flatnonzero((rows.bits == bits).all(1))
        share_V = rows.X[own].toarray().mean(0)
        made[own] = rng.random((len(own), len(share_V))) < share_V
    return made


def gaussian(rows: Rows, tune: Rows, of: eq.Vocabulary, seed: int) -> Floats:
    """DDPM (Ho et al., 2020) of the 0/1 columns as numbers -1 and 1; network as wide as ours."""
    width, columns = 256, rows.X.shape[1]
    kept = jnp.cos(jnp.arange(NOISE_STEPS + 1) / NOISE_STEPS * jnp.pi / 2 * 0.99) ** 2
    shapes = [(columns + rows.bits.shape[1] + 16, width), (width, width), (width, columns)]
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    params = [
        (jax.random.normal(key, shape) / shape[0] ** 0.5, jnp.zeros(shape[1]))
        for key, shape in zip(keys, shapes, strict=True)
    ]

    def noise(params, x, t, bits):
        waves = t[:, None] / NOISE_STEPS * jnp.pi * 2.0 ** jnp.arange(8)
        h = jnp.concatenate([x, bits, jnp.sin(waves), jnp.cos(waves)], -1)
        for place, (weight, bias) in enumerate(params):
            h = h @ weight + bias
            h = jax.nn.gelu(h) if place + 1 < len(params) else h
        return h

    adam = optax.adam(1e-3)

    @jax.jit
    def step(params, state, key, x, bits):
        of_t, of_e = jax.random.split(key)
        t = jax.random.randint(of_t, (len(x),), 1, NOISE_STEPS + 1)
        e, a = jax.random.normal(of_e, x.shape), kept[t][:, None]
        noisy = jnp.sqrt(a) * x + jnp.sqrt(1 - a) * e
        gradient = jax.grad(lambda p: ((noise(p, noisy, t, bits) - e) ** 2).mean())(params)
        change, state = adam.update(gradient, state)
        return optax.apply_updates(params, change), state

    @jax.jit
    def sample(params, key, bits):
        def back(i, x):
            t = NOISE_STEPS - i
            a, before = kept[t], kept[t - 1]
            e = noise(params, x, jnp.full(len(x), t), bits)
            clean = jnp.clip((x - jnp.sqrt(1 - a) * e) / jnp.sqrt(a), -1, 1)
            b = 1 - a / before
            mean = jnp.sqrt(before) * b * clean + jnp.sqrt(1 - b) * (1 - before) * x
            spread = jnp.sqrt(b * (1 - before) / (1 - a))
            return mean / (1 - a) + spread * jax.random.normal(jax.random.fold_in(key, i), x.shape)

        first = jax.random.normal(jax.random.fold_in(key, NOISE_STEPS), (len(bits), columns))
        return jax.lax.fori_loop(0, NOISE_STEPS, back, first)

    state, key, rng = adam.init(params), jax.random.key(seed + 1), np.random.default_rng(seed)
    for number in range(GAUSSIAN_STEPS):
        chosen = rng.integers(0, len(rows.bits), 256)
        x = 2 * rows.X[chosen].toarray() - 1
        params, state = step(params, state, jax.random.fold_in(key, number), x, rows.bits[chosen])
    # Half-way between 0 and 1 is 0 here.
    return np.asarray(sample(params, jax.random.key(seed + 2), rows.bits) > 0, np.float32)


def visits_of(train: eq.Cohort, X: Floats) -> eq.Cohort:
    """These rows as the visits of the subjects of `train`."""
    rows = sparse.csr_array(X)
    offsets, codes = rows.indptr.astype(np.int64), rows.indices.astype(np.int32)
    return replace(train, code_offsets=offsets, codes=codes)


def ceiling(real: eq.Cohort, train: eq.Cohort) -> dict[str, object]:
    return judge("the real training subjects (ceiling)", real, train, None)


def judge(name: str, real: eq.Cohort, made: eq.Cohort, seconds: float | None) -> dict[str, object]:
    r2 = dict(fidelity(real, made).select("what", "r2").iter_rows())
    error = sizes(real, made).filter(what="codes per visit")["relative_error"].to_list()
    return {
        "visits": name,
        "R2 codes": r2["codes"],
        "R2 pairs": r2["pairs"],
        "codes a visit, %": 100 * error[0],
        "their sd, %": 100 * error[1],
        "two bins of a lab, % of visits": 100 * clashing(made),
        "CPU s": None if seconds is None else round(seconds),
    }


def clashing(cohort: eq.Cohort) -> float:
    """The share of visits that have two bins of one lab, which no stay can have."""
    named = cohort.vocabulary.columns.with_row_index("column").filter(kind="lab")
    X, clash = cohort.matrix(), np.zeros(len(cohort.visits), bool)
    for columns in named.group_by("code").agg("column")["column"]:
        clash |= X[:, columns.to_numpy()].sum(axis=1) > 1
    return float(clash.mean())


def cell_table(cells: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """R2 of codes by cell, one column a method."""
    enough = cells.filter(status="ok")
    keys = [schema.LABEL, *by, "real_visits", "synthetic_visits", "ceiling"]
    return enough.pivot("method", index=keys, values="r2").sort(keys)


def write(name: str, section: str) -> None:
    """Put the section between its markers in mcrage.md, at the end if there are none yet."""
    path = HERE / "mcrage.md"
    text = path.read_text() if path.exists() else "# mcrage, measured\n"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = f"{begin}\n## {name}\n{section}\n{end}"
    found = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    path.write_text(
        found.sub(lambda _: block, text) if found.search(text) else f"{text}\n{block}\n"
    )


if __name__ == "__main__":
    main()
