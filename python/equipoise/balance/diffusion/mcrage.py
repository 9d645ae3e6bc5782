"""The diffusion model itself, in JAX: its network, training and sampling.

Letters: B rows, V columns, D variables (`variables`), of which L labs of at most M bins, K bits of
the condition, H the network's width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isfinite
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx
from scipy import sparse

from equipoise import schema
from equipoise.balance.diffusion.config import DiffusionConfig
from equipoise.balance.diffusion.variables import ABSENT, Variables
from equipoise.errors import DataError
from equipoise.generator.lanes import key_of
from equipoise.generator.network import Graph, Params, named_arrays, taken_apart
from equipoise.generator.optimiser import EVERY, Moments, Optimiser, averaged, share_of

#: Plain Adam; what is looked at and kept is the average of the weights.
_OPTIMISER: Final = Optimiser(clip_norm=0.0, weight_decay=0.0)
#: Rows of each call that samples; the last is filled up, so that all rows are computed alike.
SAMPLED: Final = 256
#: The most tuning rows of a look, and how often each is covered in it.
_LOOKED_AT: Final = 2048
_COVERS: Final = 4
#: Looks have keys beyond those of steps.
_LOOKS: Final = 2**31


class Rows(NamedTuple):
    """Visits and what they are conditioned on: X (n, V) CSR of ones, bits (n, K)."""

    X: sparse.csr_array
    bits: npt.NDArray[np.float32]


class Model(NamedTuple):
    """A trained network, and the bound to the tuning rows' nats per visit at each look."""

    graph: Graph
    params: Params
    variables: Variables
    config: DiffusionConfig
    history: tuple[float, ...]


class Chances(NamedTuple):
    """All that is random in B new rows.

    when: (B, D) the step in which each variable is uncovered. code: (B, C) logistic noise of the
    codes. bin: (B, L, 1 + M) Gumbel noise of a lab's absence and bins.
    """

    when: jax.Array
    code: jax.Array
    bin: jax.Array


class Denoiser(nnx.Module):
    """Each variable's distribution, given the uncovered ones and the condition."""

    def __init__(self, columns: int, variables: int, bits: int, config: DiffusionConfig) -> None:
        width, layers = config.width, config.layers
        self.ones_VH = _zeros(columns, width)
        self.known_DH = _zeros(variables, width)
        self.condition_KH = _zeros(bits, width)
        self.into_LHH = _zeros(layers, width, width)
        self.offset_LH = _zeros(layers, width)
        self.out_LHH = _zeros(layers, width, width)
        self.read_HV = _zeros(width, columns)
        self.bias_V = _zeros(columns)

    def __call__(
        self, x_BV: jax.Array, known_BD: jax.Array, bits_BK: jax.Array, variable_V: jax.Array
    ) -> jax.Array:
        """(B, V) log-odds of each column against its variable having none.

        x: booleans, seen only where `known` says that the variable is uncovered.
        """
        seen_BV = (x_BV & known_BD[:, variable_V]).astype(jnp.float32)
        h_BH = seen_BV @ self.ones_VH[...] + known_BD.astype(jnp.float32) @ self.known_DH[...]
        h_BH += bits_BK @ self.condition_KH[...]
        for layer in range(self.into_LHH[...].shape[0]):
            a_BH = _normal(h_BH) @ self.into_LHH[layer] + self.offset_LH[layer]
            h_BH += jax.nn.relu(a_BH) @ self.out_LHH[layer]
        return _normal(h_BH) @ self.read_HV[...] + self.bias_V[...]


def _zeros(*shape: int) -> nnx.Param[Any]:
    return nnx.Param(jnp.zeros(shape))


def _normal(h_BH: jax.Array) -> jax.Array:
    """Rows of mean square 1."""
    return h_BH * jax.lax.rsqrt((h_BH**2).mean(-1, keepdims=True) + 1e-6)


def initialise(
    train: Rows, variables: Variables, config: DiffusionConfig, seed: int
) -> tuple[Graph, Params]:
    """A network with random weights that starts at the columns' own log-odds."""
    columns, bits = train.X.shape[1], train.bits.shape[1]
    shapes = nnx.eval_shape(lambda: Denoiser(columns, variables.number, bits, config))
    graph, params = taken_apart(shapes)
    rng, leaves = np.random.default_rng(seed), []
    for name, leaf in named_arrays(params).items():
        drawn = rng.standard_normal(leaf.shape, np.float32) * np.float32(
            _spread(name, config.width)
        )
        leaves.append(jnp.asarray(_log_odds(train.X, variables) if name == "bias_V" else drawn))
    start: Params = jax.tree.unflatten(jax.tree.structure(params), leaves)
    return graph, start


def _spread(name: str, width: int) -> float:
    """The standard deviation of these weights when training starts."""
    match name:
        case "offset_LH":
            return 0.0
        case "condition_KH":
            return 1.0
        case "ones_VH":
            return 0.5
        case "known_DH":
            return 0.1
        case "into_LHH":
            return float(width**-0.5)
        case _:
            return float(0.3 * width**-0.5)


def _log_odds(X: sparse.csr_array, variables: Variables) -> npt.NDArray[np.float32]:
    """(V,) of each column against its variable having none."""
    ones_V = np.asarray(X.sum(axis=0), np.float64)
    some_D = np.bincount(variables.variable, ones_V, minlength=variables.number)
    none_V = X.shape[0] - some_D[variables.variable]
    return np.asarray(np.log((ones_V + 0.5) / (none_V + 0.5)), np.float32)


def _of_bins(values_BV: jax.Array, variables: Variables, missing: float) -> jax.Array:
    """(B, L, M) the values of each lab's bins."""
    filled_BV = jnp.pad(values_BV, ((0, 0), (0, 1)), constant_values=missing)
    return filled_BV[:, variables.bins]


def _with_absence(logits_BV: jax.Array, variables: Variables) -> jax.Array:
    """(B, L, 1 + M) the logits of a lab's absence, which is 0, and of its bins."""
    bins_BLM = _of_bins(logits_BV, variables, -jnp.inf)
    return jnp.pad(bins_BLM, ((0, 0), (0, 0), (1, 0)))


def nats(logits_BV: jax.Array, x_BV: jax.Array, variables: Variables) -> jax.Array:
    """(B, D) minus the log-probability of what each variable is."""
    all_BC = jax.nn.softplus(logits_BV[:, variables.codes])
    all_BL = jax.nn.logsumexp(_with_absence(logits_BV, variables), -1)
    hit_BV = jnp.where(x_BV, logits_BV, 0.0)
    lost_BC = all_BC - hit_BV[:, variables.codes]
    lost_BL = all_BL - _of_bins(hit_BV, variables, 0.0).sum(-1)
    return jnp.concatenate([lost_BC, lost_BL], -1)


def bound_covered(
    denoiser: Denoiser,
    x_BV: jax.Array,
    bits_BK: jax.Array,
    variables: Variables,
    covered_BD: jax.Array,
) -> jax.Array:
    """(B,) what these covers say of the bound to minus the rows' log-likelihood, in nats.

    Where k of D are covered, k being even over 0..D and all such covers alike likely, this is the
    bound on average: that of Hoogeboom et al. (2022, equation 3), or of D3PM in the limit.
    """
    logits_BV = denoiser(x_BV, ~covered_BD, bits_BK, jnp.asarray(variables.variable))
    lost_B = jnp.where(covered_BD, nats(logits_BV, x_BV, variables), 0.0).sum(-1)
    return lost_B * (variables.number + 1) / jnp.maximum(covered_BD.sum(-1), 1)


def cover(key: jax.Array, rows: int, number: int) -> jax.Array:
    """(B, D) what is covered in each row, as `bound_covered` wants it.

    The share covered rises from row to row, evenly from 0 to 1, so that a batch (whose rows are in
    random order) has all shares: that is less noise than to draw each.
    """
    of_share, of_variables = jax.random.split(key)
    share_B = (jnp.arange(rows) + jax.random.uniform(of_share)) / rows
    return jax.random.uniform(of_variables, (rows, number)) < share_B[:, None]


def fit(
    train: Rows,
    tune: Rows,
    variables: Variables,
    config: DiffusionConfig,
    seed: int,
    progress: schema.Progress = schema.no_progress,
) -> Model:
    """The weights that were best for the tuning rows.

    Raises `DataError` if the bound was not finite at a look.
    """
    graph, params = initialise(train, variables, config, seed)
    moments, key = _OPTIMISER.start(params), key_of(seed)
    tune = _some(tune, np.random.default_rng([seed, 1]))
    batches = _batches(train, config.batch_rows, np.random.default_rng([seed, 0]))
    at, best, history = 0, params, [np.inf]
    for step in range(1, config.max_steps + 1):
        key_of_step = jax.random.fold_in(key, step)
        rate = config.learning_rate
        params, moments = train_step(
            graph, rate, params, moments, variables, key_of_step, *next(batches)
        )
        progress("train", step, config.max_steps)
        looks = step % config.evaluate_every == 0 or step == config.max_steps
        if looks or step % EVERY == 0:
            moments = _remember(moments, params, share_of(step, step - at))
            at = step
        if not looks:
            continue
        history.append(_look(graph, moments.average, variables, tune, config.batch_rows, key))
        if not isfinite(history[-1]):
            raise _trouble(history[-1], step, config)
        first_best = int(np.argmin(history))
        if first_best == len(history) - 1:
            best = jax.tree.map(np.array, moments.average)
        elif len(history) - 1 - first_best >= config.patience:
            break
    return Model(graph, best, variables, config, tuple(history[1:]))


def _trouble(value: float, step: int, config: DiffusionConfig) -> DataError:
    return DataError(
        table="mcrage",
        want="a finite likelihood of the tuning rows",
        got=f"{value} nats at step {step}, with learning rate {config.learning_rate:.3g}",
        hint="Lower DiffusionConfig.learning_rate",
    )


def _some(rows: Rows, rng: np.random.Generator) -> Rows:
    """At most `_LOOKED_AT` of the rows, in random order."""
    chosen = rng.permutation(rows.X.shape[0])[:_LOOKED_AT]
    return Rows(rows.X[chosen], rows.bits[chosen])


def _batches(
    rows: Rows, size: int, rng: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]]:
    """x (B, V) and bits (B, K) for ever; each pass leaves out what fills no batch."""
    number = rows.X.shape[0]
    size = min(size, number)
    while True:
        order = rng.permutation(number)
        for start in range(0, number - size + 1, size):
            chosen = order[start : start + size]
            yield _dense(rows.X[chosen]), rows.bits[chosen]


def _dense(X: sparse.csr_array) -> npt.NDArray[np.bool_]:
    return np.asarray(X.toarray() > 0)


@partial(jax.jit, static_argnames="graph", donate_argnames=("params", "moments"))
def train_step(
    graph: Graph,
    rate: float,
    params: Params,
    moments: Moments,
    variables: Variables,
    key: jax.Array,
    x_BV: jax.Array,
    bits_BK: jax.Array,
) -> tuple[Params, Moments]:
    """Weights and moments after one step."""
    covered_BD = cover(key, len(x_BV), variables.number)

    def loss(weights: Params) -> jax.Array:
        denoiser: Denoiser = graph.with_weights(weights)
        return bound_covered(denoiser, x_BV, bits_BK, variables, covered_BD).mean()

    return _OPTIMISER.step(params, moments, jax.grad(loss)(params), jnp.asarray(rate))


@partial(jax.jit, donate_argnums=0)
def _remember(moments: Moments, params: Params, share: jax.Array) -> Moments:
    return moments._replace(average=averaged(moments.average, params, share))


def _look(
    graph: Graph, params: Params, variables: Variables, tune: Rows, size: int, key: jax.Array
) -> float:
    """The bound, nats per visit; the covers are the same at each look."""
    total, rows = 0.0, len(tune.bits)
    for start in range(0, rows, size):
        part = slice(start, start + size)
        key_of_part = jax.random.fold_in(key, _LOOKS + start)
        x_BV, bits_BK = _dense(tune.X[part]), tune.bits[part]
        total += float(_bounds(graph, params, variables, key_of_part, x_BV, bits_BK))
    return total / rows


@partial(jax.jit, static_argnames="graph")
def _bounds(
    graph: Graph,
    params: Params,
    variables: Variables,
    key: jax.Array,
    x_BV: jax.Array,
    bits_BK: jax.Array,
) -> jax.Array:
    x_BV, bits_BK = (jnp.tile(array, (_COVERS, 1)) for array in (x_BV, bits_BK))
    denoiser: Denoiser = graph.with_weights(params)
    covered_BD = cover(key, len(x_BV), variables.number)
    return bound_covered(denoiser, x_BV, bits_BK, variables, covered_BD).sum() / _COVERS


def draw(
    model: Model,
    bits_nK: npt.NDArray[np.float32],
    seed: int,
    progress: schema.Progress = schema.no_progress,
) -> sparse.csr_array:
    """(n, V) float32: a new row for each row of bits.

    A row depends on the model, the seed, its bits and its number, not on the other rows.
    """
    rows, columns = len(bits_nK), len(model.variables.variable)
    steps = min(model.config.reverse_steps, model.variables.number)
    made = [sparse.csr_array((0, columns), dtype=np.float32)]
    for start in range(0, rows, SAMPLED):
        numbers = np.arange(start, start + SAMPLED)
        bits_BK = bits_nK[np.minimum(numbers, rows - 1)]
        of_model = (model.graph, model.params, model.variables, steps)
        x_BV = _draw(*of_model, key_of(seed), numbers.astype(np.uint32), bits_BK)
        made.append(sparse.csr_array(np.asarray(x_BV)[: rows - start], dtype=np.float32))
        progress("sample", min(start + SAMPLED, rows), rows)
    return sparse.csr_array(sparse.vstack(made, format="csr"))


@partial(jax.jit, static_argnames=("graph", "steps"))
def _draw(
    graph: Graph,
    params: Params,
    variables: Variables,
    steps: int,
    key: jax.Array,
    number_B: jax.Array,
    bits_BK: jax.Array,
) -> jax.Array:
    keys = jax.vmap(partial(jax.random.fold_in, key))(number_B)
    drawn = jax.vmap(lambda key: chances(key, variables, steps))(keys)
    return uncover(graph.with_weights(params), bits_BK, variables, steps, drawn)


def chances(key: jax.Array, variables: Variables, steps: int) -> Chances:
    """Those of one row, without the axis B: its variables in random order, cut into the steps.

    Noise is drawn once for every variable, for it is looked at in one step only.
    """
    of_order, of_codes, of_labs = jax.random.split(key, 3)
    number, (labs, most) = variables.number, variables.bins.shape
    rank_D = jax.random.permutation(of_order, number)
    return Chances(
        rank_D * steps // number,
        jax.random.logistic(of_codes, variables.codes.shape),
        jax.random.gumbel(of_labs, (labs, 1 + most)),
    )


def uncover(
    denoiser: Denoiser, bits_BK: jax.Array, variables: Variables, steps: int, drawn: Chances
) -> jax.Array:
    """(B, V) booleans: rows made in so many steps, starting with everything covered."""
    variable_V = jnp.asarray(variables.variable)

    def uncover_some(step: jax.Array, x_BV: jax.Array) -> jax.Array:
        logits_BV = denoiser(x_BV, drawn.when < step, bits_BK, variable_V)
        present_BC = logits_BV[:, variables.codes] + drawn.code > 0
        code_BC = jnp.where(present_BC, 0, ABSENT)
        bin_BL = (_with_absence(logits_BV, variables) + drawn.bin).argmax(-1) - 1
        value_BD = jnp.concatenate([code_BC, bin_BL], -1)
        now_BV = (drawn.when == step)[:, variable_V]
        return jnp.where(now_BV, value_BD[:, variable_V] == variables.value, x_BV)

    start_BV = jnp.zeros((len(bits_BK), len(variable_V)), bool)
    rows_BV: jax.Array = jax.lax.fori_loop(0, steps, uncover_some, start_BV)
    return rows_BV
