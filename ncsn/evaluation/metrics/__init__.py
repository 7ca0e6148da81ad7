"""Formulas: distances of samples from data, losses of score functions."""

from ncsn.evaluation.metrics.classes import class_divergence, class_shares, confidence
from ncsn.evaluation.metrics.distances import (
    cubic_kernel,
    energy_distance,
    gaussian_kernel,
    kernel_distance,
    sliced_wasserstein,
)
from ncsn.evaluation.metrics.field import field_per_level, measure_field
from ncsn.evaluation.metrics.frechet import frechet_distance, load_inception
from ncsn.evaluation.metrics.manifold import precision_recall_density_coverage
from ncsn.evaluation.metrics.memorisation import Neighbours, memorisation_rate, nearest_neighbours
from ncsn.evaluation.metrics.per_level import MeanPerLevel, losses_per_level, measure_levels

__all__ = [
    "MeanPerLevel",
    "Neighbours",
    "class_divergence",
    "class_shares",
    "confidence",
    "cubic_kernel",
    "energy_distance",
    "field_per_level",
    "frechet_distance",
    "gaussian_kernel",
    "kernel_distance",
    "load_inception",
    "losses_per_level",
    "measure_field",
    "measure_levels",
    "memorisation_rate",
    "nearest_neighbours",
    "precision_recall_density_coverage",
    "sliced_wasserstein",
]
