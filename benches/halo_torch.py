"""HALO's layers in PyTorch, written from its formulas; weights have the public code's names.

`python benches/halo_torch.py OUT` writes OUT/halo.pt, a checkpoint of random weights as HALO's
training script saves it, and OUT/halo.npz: inputs and the logits they give. It needs PyTorch and
NumPy alone, of any version, and so runs under any interpreter that has them.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn


class Dense(nn.Module):
    """y = x W + b with W stored (in, out), as GPT-2 does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, width: int, rows: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("bias", torch.tril(torch.ones(rows, rows)).view(1, 1, rows, rows))
        self.c_attn = Dense(width, 3 * width)
        self.c_proj = Dense(width, width)

    def forward(self, x):
        B, T, D = x.shape
        query, key, value = (
            part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).split(D, 2)
        )
        score = query @ key.transpose(2, 3) / math.sqrt(D // self.heads)
        seen = self.bias[:, :, :T, :T]
        mixed = torch.softmax(score * seen - 1e10 * (1 - seen), -1) @ value
        return self.c_proj(mixed.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Dense(width, 4 * width)
        self.c_proj = Dense(4 * width, width)

    def forward(self, x):
        x = self.c_fc(x)
        # GELU by tanh, in so many words: older versions of PyTorch have no name for it.
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return self.c_proj(x)


class Block(nn.Module):
    def __init__(self, width: int, rows: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
        self.attn, self.mlp = Attention(width, rows, heads), FeedForward(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Coarse(nn.Module):
    def __init__(self, columns: int, width: int, layers: int, heads: int, rows: int) -> None:
        super().__init__()
        self.vis_embed_mat = nn.Linear(columns, width, bias=False)
        self.pos_embed_mat = nn.Embedding(rows + 8, width)
        self.h = nn.ModuleList([Block(width, rows, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width, 1e-5)

    def forward(self, x):
        x = self.vis_embed_mat(x) + self.pos_embed_mat.weight[: x.shape[1]]
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class Masked(nn.Linear):
    """A linear layer whose output k sees inputs 0..k; the mask is multiplied in at every call."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self.register_buffer("mask", torch.tril(torch.ones(size, size)).int())

    def forward(self, x):
        return nn.functional.linear(x, self.mask * self.weight, self.bias)


class Fine(nn.Module):
    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.auto1, self.auto2 = Masked(width + columns), Masked(width + columns)

    def forward(self, history, visit):
        both = torch.cat((history, visit), -1)
        return self.auto2(torch.relu(self.auto1(both)))[..., self.width - 1 : -1]


class Halo(nn.Module):
    """Logits (B, L - 1, V) of rows 1.. of multi-hot input (B, L, V)."""

    def __init__(self, columns: int, width: int, layers: int, heads: int, rows: int) -> None:
        super().__init__()
        self.transformer = Coarse(columns, width, layers, heads, rows)
        self.ehr_head = Fine(columns, width)

    def forward(self, x):
        return self.ehr_head(self.transformer(x)[:, :-1], x[:, 1:])


@torch.no_grad()
def sample_visit(head: Fine, history, threshold):
    """One visit a row by HALO's loop, (B, V), with given logit(u) in place of fresh draws.

    Every turn runs the head over all rows, draws all codes, and keeps the first one that any row
    drew; with fixed thresholds a code that was passed over cannot be drawn later.
    """
    visit, start, columns = torch.zeros_like(threshold), 0, threshold.shape[1]
    while start < columns:
        drawn = head(history, visit) > threshold
        some = torch.nonzero(drawn[:, start:].any(0))
        if not len(some):
            break
        place = start + int(some[0])
        visit[:, place] = drawn[:, place].to(visit.dtype)
        start = place + 1
    return visit


CODES, BITS, WIDTH, LAYERS, HEADS, ROWS = 21, 5, 12, 2, 3, 6


def main(out: Path) -> None:
    torch.manual_seed(0)
    columns = CODES + BITS + 3
    model = Halo(columns, WIDTH, LAYERS, HEADS, ROWS)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            # Far from where training starts, so that every path carries something.
            centre = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
            weights.copy_(centre + 0.4 * torch.randn(weights.shape))
    x = inputs(columns)
    with torch.no_grad():
        logits = model(torch.from_numpy(x)).numpy()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    model(torch.from_numpy(x)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": 500}
    out.mkdir(parents=True, exist_ok=True)
    torch.save(state, out / "halo.pt")
    np.savez(out / "halo.npz", x=x, logits=logits)


def inputs(columns: int) -> np.ndarray:
    """(B, L, V): start row, label row, visits, of which the last has the end bit; padding."""
    rng = np.random.default_rng(0)
    x = np.zeros((8, ROWS, columns), np.float32)
    start, end, pad = columns - 3, columns - 2, columns - 1
    for record in x:
        visits = rng.integers(1, ROWS - 1)
        record[0, start] = 1
        record[1, CODES] = rng.random() < 0.5
        record[1, CODES + 1 + rng.integers(BITS - 1)] = 1
        record[2 : 2 + visits, :CODES] = rng.random((visits, CODES)) < 0.3
        record[1 + visits, end] = 1
        record[2 + visits :, pad] = 1
    return x


if __name__ == "__main__":
    main(Path(sys.argv[1]))
