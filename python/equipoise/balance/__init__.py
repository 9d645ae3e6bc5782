"""Balancing methods, all behind one contract (`BalancingMethod`), and the plan they follow."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from equipoise.balance.generative import fairplay
from equipoise.balance.methods import BalancingMethod
from equipoise.balance.plan import BalancePlan, plan_balance
from equipoise.balance.resample import downsample, original, upsample
from equipoise.errors import UsageError

__all__ = [
    "METHODS",
    "BalancePlan",
    "BalancingMethod",
    "downsample",
    "fairplay",
    "method_named",
    "original",
    "plan_balance",
    "upsample",
]

METHODS: Final[Mapping[str, BalancingMethod]] = MappingProxyType(
    {
        "original": original,
        "upsample": upsample,
        "downsample": downsample,
        "fairplay": fairplay,
    }
)


def method_named(name: str) -> BalancingMethod:
    """The balancing method of this name; raises `UsageError` that lists the names."""
    if name not in METHODS:
        raise UsageError(f"{name} is no balancing method; want one of {', '.join(METHODS)}")
    return METHODS[name]
