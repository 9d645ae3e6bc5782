"""Balancing methods, all behind one contract (`BalancingMethod`), and the plan they follow."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from equipoise.balance.class_weight import class_weight
from equipoise.balance.diffusion.method import mcrage
from equipoise.balance.generative import fairplay
from equipoise.balance.methods import BalancingMethod
from equipoise.balance.oracle import oracle_from
from equipoise.balance.plan import BalancePlan, plan_balance
from equipoise.balance.resample import downsample, original, upsample
from equipoise.balance.separate import separate
from equipoise.balance.sma import sma
from equipoise.balance.smote import smote
from equipoise.errors import UsageError

__all__ = [
    "METHODS",
    "BalancePlan",
    "BalancingMethod",
    "class_weight",
    "downsample",
    "fairplay",
    "mcrage",
    "method_named",
    "oracle_from",
    "original",
    "plan_balance",
    "separate",
    "sma",
    "smote",
    "upsample",
]

METHODS: Final[Mapping[str, BalancingMethod]] = MappingProxyType(
    {
        "original": original,
        "class_weight": class_weight,
        "upsample": upsample,
        "downsample": downsample,
        "separate": separate,
        "smote": smote,
        "sma": sma,
        "mcrage": mcrage,
        "fairplay": fairplay,
    }
)


def method_named(name: str) -> BalancingMethod:
    """The balancing method of this name; raises `UsageError` that lists the names."""
    if name not in METHODS:
        raise UsageError(f"{name} is no balancing method; want one of {', '.join(METHODS)}")
    return METHODS[name]
