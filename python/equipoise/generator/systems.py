"""Which systems a visit's codes are of, told before the codes.

A visit is coded in ICD-9 or in ICD-10. What codes say of later ones is a sum, or passes through
hidden units that have seen a code or two, and so a visit which is drawn code by code now and then
changes sides half-way, or comes to nothing. Told first, the codes of a system that a visit is not
of are never drawn (what it gives: benches/studies/generator.md).

Tokens of their own for it stand before the end's. Codes follow from the tokens drawn, not the
other way round: the likelihood is that of both, and of the codes alone hardly less.

Letters: N visits, V tokens, S systems, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import polars as pl
from flax import nnx
from scipy.special import logit

from equipoise.cohort import Cohort
from equipoise.vocabulary import Vocabulary

#: How a column's code says its system.
_SYSTEM: Final = r"^(ICD9|ICD10):"


class Given(nnx.Variable[Any]):
    """What is kept with the weights and not learned."""


class Systems(nnx.Module):
    """Log-odds of the systems, and what the codes are told of them."""

    def __init__(self, systems: int, tokens: int, width: int) -> None:
        self.member_VS = Given(jnp.zeros((tokens, systems)))
        self.read_DS = nnx.Param(jnp.zeros((width, systems)))
        self.bias_S = nnx.Param(jnp.zeros(systems))
        self.direct_SS = nnx.Param(jnp.zeros((systems, systems)))
        self.tell_SD = nnx.Param(jnp.zeros((systems, width)))

    def of(self, x_NV: jax.Array) -> jax.Array:
        """(N, S) booleans: the systems that the codes of visits are of."""
        return x_NV.astype(jnp.float32) @ self.member_VS[...].astype(jnp.float32) > 0.5

    def log_odds(self, h_ND: jax.Array, s_NS: jax.Array) -> jax.Array:
        """(N, S) of every system given h and the systems before it."""
        before_SS = jnp.triu(self.direct_SS[...], 1)
        return h_ND @ self.read_DS[...] + self.bias_S[...] + s_NS.astype(h_ND.dtype) @ before_SS

    def draw(self, h_ND: jax.Array, threshold_NS: jax.Array) -> jax.Array:
        """(N, S) booleans: each on iff its log-odds, given those before it, are above threshold."""
        s_NS = jnp.zeros(threshold_NS.shape, bool)
        for place in range(threshold_NS.shape[1]):
            on_NS = self.log_odds(h_ND, s_NS) > threshold_NS
            s_NS = s_NS.at[:, place].set(on_NS[:, place])
        return s_NS

    def tell(self, h_ND: jax.Array, s_NS: jax.Array) -> jax.Array:
        """(N, D) what is known once the systems are."""
        return h_ND + s_NS.astype(h_ND.dtype) @ self.tell_SD[...]

    def closed(self, s_NS: jax.Array) -> jax.Array:
        """(N, V) booleans: the codes that a visit of these systems cannot have."""
        return (~s_NS).astype(jnp.float32) @ self.member_VS[...].astype(jnp.float32).T > 0.5


def systems_of(vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """(V,) the system of each column, numbered from 0; -1 for none, or the only one of its kind."""
    system = pl.concat_str("kind", pl.col("code").str.extract(_SYSTEM), separator=" ")
    columns = vocabulary.columns.select("kind", system=system)
    several = pl.col("system").drop_nulls().n_unique().over("kind") > 1
    number = pl.when(several).then("system").rank("dense").cast(pl.Int64) - 1
    return columns.select(number.fill_null(-1)).to_series().to_numpy()


class Seen(NamedTuple):
    """Of which systems columns and visits are: what training starts from.

    member_VS: whether a column is of a system, V being the vocabulary's. there_NS: whether a visit
    has codes of it.
    """

    member_VS: npt.NDArray[np.float32]  # noqa: N815
    there_NS: npt.NDArray[np.bool_]  # noqa: N815

    @staticmethod
    def of(cohort: Cohort, systems: int) -> Seen:
        """Those of a cohort's vocabulary and visits."""
        member_VS = systems_of(cohort.vocabulary)[:, None] == np.arange(systems)
        as_floats = member_VS.astype(np.float32)
        return Seen(as_floats, np.asarray(cohort.matrix() @ as_floats > 0))

    def visits(self) -> npt.NDArray[np.float64]:
        """(V,) how many visits are of each column's system, or all if it has none."""
        free_V = self.member_VS.sum(axis=1) == 0
        visits_S = self.there_NS.sum(axis=0)
        counts_V: npt.NDArray[np.float64] = free_V * len(self.there_NS) + self.member_VS @ visits_S
        return counts_V

    def weights(self, tokens: int) -> Mapping[str, npt.NDArray[np.float32]]:
        """What `Systems` starts from, by name: its columns, and log-odds as they are in visits.

        Those of a system given the ones before it are right for two, and for any that exclude each
        other.
        """
        there_NS, systems = self.there_NS, self.there_NS.shape[1]
        bias_S, direct_SS = np.zeros(systems), np.zeros((systems, systems))
        for later in range(systems):
            bias_S[later] = _log_odds(there_NS[~there_NS[:, :later].any(axis=1), later])
            for earlier in range(later):
                given = there_NS[there_NS[:, earlier], later]
                direct_SS[earlier, later] = _log_odds(given) - bias_S[later]
        return {
            "systems.member_VS": np.pad(
                self.member_VS, ((0, tokens - len(self.member_VS)), (0, 0))
            ),
            "systems.bias_S": bias_S.astype(np.float32),
            "systems.direct_SS": direct_SS.astype(np.float32),
        }


def _log_odds(seen_N: npt.NDArray[np.bool_]) -> float:
    return float(logit((seen_N.sum() + 0.5) / (len(seen_N) + 1)))
