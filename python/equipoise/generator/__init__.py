"""The conditional generator of records: HALO's two-level model, trained and sampled in JAX."""

from equipoise.generator import threads
from equipoise.generator.checkpoint import Generator, load_generator
from equipoise.generator.conditions import Conditions
from equipoise.generator.config import GeneratorConfig
from equipoise.generator.from_halo import from_halo_checkpoint
from equipoise.generator.likelihood import log_likelihood
from equipoise.generator.sampling import sample
from equipoise.generator.training import train_generator

__all__ = [
    "Conditions",
    "Generator",
    "GeneratorConfig",
    "from_halo_checkpoint",
    "load_generator",
    "log_likelihood",
    "sample",
    "train_generator",
]

threads.settle()
