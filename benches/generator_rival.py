"""PyTorch's side of benches/generator.py: HALO's own head, loop and training step.

Needs PyTorch and NumPy alone. Prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import numpy as np
import torch

import generator_inputs as inputs
from halo_torch import Fine, Halo, sample_visit


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind, columns, width, rows = sys.argv[1], *map(int, sys.argv[2:5])
    result = head(columns, width, rows) if kind == "head" else step(columns, width)
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result))


def seconds(work, repeat: int = 3, least: float = 2.0) -> float:
    """Least processor seconds of so many calls, and of more until `least` seconds have passed."""
    taken = []
    while len(taken) < repeat or sum(taken) < least:
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


@torch.no_grad()
def head(columns: int, width: int, visits: int) -> dict:
    """One visit of so many patients; sys.argv[5] holds ours, [6] says whether to run the loop."""
    fine = Fine(columns, width)
    fine.load_state_dict(
        {
            name.removeprefix("ehr_head."): torch.from_numpy(array)
            for name, array in inputs.head_state(columns, width).items()
        },
        strict=False,
    )
    h = torch.from_numpy(inputs.history(visits, width))
    threshold = torch.from_numpy(inputs.thresholds(visits, columns))
    ours = torch.from_numpy(np.load(sys.argv[5]))

    # A visit x with x = [logits(x) > threshold] is the one the loop gives, and the only such.
    wrong = int(((fine(h, ours) > threshold) != (ours > 0)).any(1).sum())
    if sys.argv[6] == "loop":
        by_loop = sample_visit(fine, h, threshold)
        wrong += int((by_loop != ours).any(1).sum())

    def reference_pass() -> None:
        drawn = torch.bernoulli(torch.sigmoid(fine(h, ours)))
        torch.nonzero(drawn)

    each = seconds(reference_pass)
    for layer in (fine.auto1, fine.auto2):
        layer.weight.mul_(layer.mask)
        layer.forward = lambda x, layer=layer: torch.nn.functional.linear(
            x, layer.weight, layer.bias
        )
    return {
        "mismatching_visits": wrong,
        "passes": int((ours > 0).any(0).sum()) + 1,
        "codes": float(ours.sum(1).mean()),
        "pass": each,
        "pass_masked_once": seconds(reference_pass),
    }


def step(columns: int, width: int) -> dict:
    """8 patients of 16 visits, 2 layers: forward, backward, Adam."""
    codes = columns - inputs.SPECIALS
    model = Halo(columns, width, layers=2, heads=4, rows=18)
    adam = torch.optim.Adam(model.parameters(), lr=1e-4)
    x = torch.zeros(8, 18, columns)
    for place, record in enumerate(inputs.records(8, 16, codes)):
        x[place, 0, -3] = x[place, 1, codes] = x[place, 17, -2] = 1
        for visit, listed in enumerate(record):
            x[place, 2 + visit, listed] = 1

    def once() -> None:
        adam.zero_grad()
        loss = torch.nn.BCELoss()(torch.sigmoid(model(x)), x[:, 1:])
        loss.backward()
        adam.step()

    once()
    return {"step": seconds(once)}


main()
