"""Balance EHR training sets with realistic synthetic patients, and see what that bought."""

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
    "LeakageError",
    "UsageError",
    "VisitRecords",
    "Vocabulary",
    "VocabularySettings",
    "concat",
    "read_eicu",
    "read_events",
    "read_meds",
    "read_mimic_iii",
    "read_mimic_iv",
    "read_source",
    "read_tables",
]
