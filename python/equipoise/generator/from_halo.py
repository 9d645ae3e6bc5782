"""Weights of the public PyTorch HALO as a generator.

HALO's columns are codes, label bits, start, end, pad (HALO_Inpatient; FairPlay's label bits are the
outcome, then each group's levels). Bits of labels, start and pad are never set in a visit; they are
blocked here: the distribution is HALO's with those bits held at 0. As a column's hidden unit feeds
all later logits, the columns of labels and start keep their places, as spare tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import polars as pl

from equipoise.errors import DataError
from equipoise.generator.checkpoint import HISTORY, Generator, check_numbers
from equipoise.generator.conditions import Conditions
from equipoise.generator.config import GeneratorConfig
from equipoise.generator.network import end_token, named_arrays, outline
from equipoise.generator.sizes import usual_block
from equipoise.generator.torch_state import read_state
from equipoise.vocabulary import Vocabulary

_Floats = npt.NDArray[np.float32]
_State = Mapping[str, npt.NDArray[Any]]
_EMBEDDING: Final = "transformer.vis_embed_mat.weight"
_POSITIONS: Final = "transformer.pos_embed_mat.weight"
#: Ours and HALO's names of what both store alike.
_BLOCK: Final = {
    "norm_attention.scale": "ln_1.weight",
    "norm_attention.bias": "ln_1.bias",
    "attention.project.kernel": "attn.c_attn.weight",
    "attention.project.bias": "attn.c_attn.bias",
    "attention.out.kernel": "attn.c_proj.weight",
    "attention.out.bias": "attn.c_proj.bias",
    "norm_feed.scale": "ln_2.weight",
    "norm_feed.bias": "ln_2.bias",
    "widen.kernel": "mlp.c_fc.weight",
    "widen.bias": "mlp.c_fc.bias",
    "narrow.kernel": "mlp.c_proj.weight",
    "narrow.bias": "mlp.c_proj.bias",
}


def from_halo_checkpoint(
    path: Path | str, vocabulary: Vocabulary, conditions: Conditions, *, heads: int = 12
) -> Generator:
    """The generator that a HALO checkpoint holds, with logits equal to those of HALO.

    vocabulary: the meaning of HALO's code columns, in its order. conditions: the cells it may be
    asked for; their bits (label, then each group's levels, sorted) must be HALO's label bits in
    this order. heads: of attention, which the weights do not tell. No code of the file is run.

    Raises `DataError` for a file that is no state dict of HALO or that does not fit the vocabulary
    and the conditions.
    """
    state = read_state(path)
    try:
        config = _config(state, len(vocabulary), conditions, heads)
        arrays = _coarse(state, len(vocabulary), conditions, config)
        arrays |= head_arrays(state, len(vocabulary), config)
    except DataError:
        raise
    except KeyError as error:
        raise DataError(table=str(path), want=f"HALO's weights {error}", got="none") from None
    except (IndexError, TypeError, ValueError) as error:
        want = "weights of HALO's shapes"
        raise DataError(table=str(path), want=want, got=str(error)) from None
    shapes = outline(len(vocabulary), len(conditions), config)[1]
    leaves = []
    for name, leaf in named_arrays(shapes).items():
        if arrays[name].shape != leaf.shape:
            raise DataError(
                table=str(path), column=name, want=str(leaf.shape), got=str(arrays[name].shape)
            )
        with np.errstate(over="ignore"):
            narrow = arrays[name].astype(np.float32, copy=False)
        check_numbers(path, name, narrow)
        leaves.append(jnp.asarray(narrow))
    params = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    history = pl.DataFrame(schema=dict(HISTORY))
    return Generator(params, vocabulary, conditions, config, history, {})


def _config(state: _State, codes: int, conditions: Conditions, heads: int) -> GeneratorConfig:
    width, columns = state[_EMBEDDING].shape
    bits = conditions.bits
    if columns != codes + bits + 3:
        raise DataError(
            table="checkpoint",
            column=_EMBEDDING,
            want=f"columns for {codes} codes, {bits} label bits, start, end and pad",
            got=f"{columns}",
            hint="Give the vocabulary and the conditions that HALO was trained with",
        )
    # The mask of attention, (1, 1, rows, rows), tells how long records may be; else the positions.
    mask = state.get("transformer.h.0.attn.bias")
    rows = len(state[_POSITIONS]) if mask is None else mask.shape[-1]
    return GeneratorConfig(
        width=width,
        layers=sum(name.endswith("attn.c_attn.weight") for name in state),
        heads=heads,
        condition_every_visit=False,
        head="halo",
        block=usual_block(codes),
        spare_tokens=bits + 1,
        end_first=False,
        max_visits=rows - 2,
    )


def _coarse(
    state: _State, codes: int, conditions: Conditions, config: GeneratorConfig
) -> dict[str, _Floats]:
    table_CD = state[_EMBEDDING].T
    bits = conditions.bits
    codes_VD = np.zeros((end_token(codes, config), config.width), np.float32)
    codes_VD[:codes] = table_CD[:codes]
    condition_KD = np.zeros((len(conditions), config.width), np.float32)
    condition_KD[:bits] = table_CD[codes : codes + bits]
    arrays = {
        "coarse.codes_VD": codes_VD,
        "coarse.condition_KD": condition_KD,
        "coarse.start_1D": table_CD[codes + bits][None],
        "coarse.position_TD": state[_POSITIONS][: config.max_visits + 1],
        "coarse.norm.scale": state["transformer.ln_f.weight"],
        "coarse.norm.bias": state["transformer.ln_f.bias"],
    }
    for layer in range(config.layers):
        for ours, theirs in _BLOCK.items():
            arrays[f"coarse.blocks.{layer}.{ours}"] = state[f"transformer.h.{layer}.{theirs}"]
    return arrays


def head_arrays(state: _State, codes: int, config: GeneratorConfig) -> dict[str, _Floats]:
    """The weights of `triangle.HaloHead` by name: HALO's unit D - 1 + c is unit c there."""
    free = config.width - 1
    units = config.width + codes + config.spare_tokens + 2
    for name in ("auto1", "auto2"):
        for part, want in (("weight", (units, units)), ("bias", (units,))):
            got = state[f"ehr_head.{name}.{part}"].shape
            if got != want:
                raise ValueError(f"ehr_head.{name}.{part} of shape {got}, not {want}")
    blocks, size = config.blocks(codes)
    column_V = _columns(codes, config)
    used_V = column_V >= 0

    def taken(array: npt.NDArray[Any]) -> _Floats:
        """Rows of the tokens (first axis); 0 for those that HALO does not have."""
        rows = array[free:][column_V].astype(np.float32)
        rows[~used_V] = 0
        return rows

    arrays: dict[str, _Floats] = {}
    bias_V = taken(state["ehr_head.auto2.bias"])
    bias_V[codes:-1] = -np.inf
    arrays["head.bias_GB"] = bias_V.reshape(blocks, size)
    arrays["head.offset_V"] = taken(state["ehr_head.auto1.bias"])
    arrays["head.offset_free_Q"] = state["ehr_head.auto1.bias"][:free]
    one, two = state["ehr_head.auto1.weight"], state["ehr_head.auto2.weight"]
    arrays["head.read_free_DQ"] = np.tril(one[:free, : free + 1]).T
    arrays["head.read_DV"] = taken(one[:, : free + 1]).T
    arrays["head.write_free_QV"] = taken(two[:, :free]).T
    for name, weights in (("code", one[:, free + 1 :]), ("write", two[:, free:])):
        # (out, in) by HALO's columns; (in, out) by tokens.
        square_VV = np.where(used_V[:, None], taken(weights)[:, column_V].T, 0)
        arrays |= _cut(name, square_VV, blocks, size)
    return arrays


def _columns(codes: int, config: GeneratorConfig) -> npt.NDArray[np.int64]:
    """(V,) HALO's column of every token: codes, label bits and start, end; -1 for unused ones."""
    kept = codes + config.spare_tokens
    column_V = np.full(end_token(codes, config) + 1, -1)
    column_V[:kept] = np.arange(kept)
    column_V[-1] = kept
    return column_V


def _cut(name: str, square_VV: _Floats, blocks: int, size: int) -> dict[str, _Floats]:
    """Panels and squares of an upper triangle."""
    stops = [(g * size, (g + 1) * size) for g in range(blocks)]
    squares = np.stack([square_VV[start:stop, start:stop] for start, stop in stops])
    cut = {f"head.{name}_GBB": np.triu(squares, 1 if name == "code" else 0)}
    for g, (start, stop) in enumerate(stops[1:]):
        cut[f"head.{name}_panels.{g}"] = square_VV[:start, start:stop]
    return cut
