"""Log-likelihood of records under a generator."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from equipoise.cohort import Cohort
from equipoise.generator.batches import batches, last_visits
from equipoise.generator.checkpoint import Generator
from equipoise.generator.conditions import Conditions
from equipoise.generator.config import GeneratorConfig
from equipoise.generator.network import (
    Graph,
    Params,
    end_token,
    visit_nats,
)


def log_likelihood(generator: Generator, cohort: Cohort) -> npt.NDArray[np.float64]:
    """(S,) nats of each subject's visits given label and groups, log P(visits | condition).

    With `GeneratorConfig.systems` it is that of the visits and the systems told to each of them.
    A subject with more visits than the generator can make is judged on the last of them, as in
    training. NaN where nothing can be said: no visit, an unknown label, or a group level that no
    training subject had. Raises `DataError` for another vocabulary or a missing group column.
    """
    generator.check_vocabulary(cohort)
    known = generator.conditions.known(cohort.subjects) & (np.diff(cohort.visit_offsets) > 0)
    nats = np.full(len(cohort), np.nan)
    nats[known] = subject_nats(
        generator.graph,
        generator.params,
        last_visits(cohort.filter(known), generator.config.max_visits),
        generator.conditions,
        generator.config,
    )
    return nats


def subject_nats(
    graph: Graph, params: Params, cohort: Cohort, conditions: Conditions, config: GeneratorConfig
) -> npt.NDArray[np.float64]:
    """`log_likelihood` of subjects that all can be judged, none above `config.max_visits`."""
    nats = np.zeros(len(cohort))
    end = end_token(len(cohort.vocabulary), config)
    size = (config.batch_subjects, config.max_visits)
    for subjects, batch in batches(cohort, conditions, *size, end):
        nats_BT = np.asarray(visit_nats(graph, params, batch), np.float64)
        nats[subjects] = nats_BT[: len(subjects)].sum(axis=1)
    return nats
