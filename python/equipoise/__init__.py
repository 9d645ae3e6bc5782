"""Balance EHR training sets with realistic synthetic patients, and see what that bought."""

from typing import TYPE_CHECKING, Any

from equipoise.cohort import Cohort, concat
from equipoise.errors import DataError, EquipoiseError, LeakageError, UsageError
from equipoise.records import (
    VisitRecords,
    read_eicu,
    read_meds,
    read_mimic_iii,
    read_mimic_iv,
    read_source,
    read_tables,
)
from equipoise.sources.streams import EventColumns
from equipoise.stream_reading import read_events
from equipoise.vocabulary import Vocabulary, VocabularySettings

__all__ = [
    "Cohort",
    "DataError",
    "EquipoiseError",
    "EventColumns",
    "FairPlaySampler",
    "LeakageError",
    "UsageError",
    "VisitRecords",
    "Vocabulary",
    "VocabularySettings",
    "concat",
    "plan_balance",
    "read_eicu",
    "read_events",
    "read_meds",
    "read_mimic_iii",
    "read_mimic_iv",
    "read_source",
    "read_tables",
]

if TYPE_CHECKING:
    from equipoise.balance import plan_balance
    from equipoise.sampler import FairPlaySampler


def __getattr__(name: str) -> Any:
    """What is imported when it is asked for: it brings scikit-learn, and the sampler JAX."""
    if name == "FairPlaySampler":
        from equipoise.sampler import FairPlaySampler

        return FairPlaySampler
    if name == "plan_balance":
        from equipoise.balance import plan_balance

        return plan_balance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
