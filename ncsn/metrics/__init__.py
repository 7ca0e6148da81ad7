"""Metrics: of samples against data, of scores against exact ones."""

from ncsn.metrics.classes import class_divergence, confidence
from ncsn.metrics.distances import (
    cubic_kernel,
    energy_distance,
    gaussian_kernel,
    kernel_distance,
    sliced_wasserstein,
)
from ncsn.metrics.features import FeatureNetwork, Features, extract_features, load_features
from ncsn.metrics.frechet import frechet_distance, load_inception
from ncsn.metrics.manifold import precision_recall_density_coverage
from ncsn.metrics.memorisation import Neighbours, memorisation_rate, nearest_neighbours
from ncsn.metrics.per_level import MeanPerLevel, losses_per_level
from ncsn.metrics.uncertainty import standard_errors

__all__ = [
    "FeatureNetwork",
    "Features",
    "MeanPerLevel",
    "Neighbours",
    "class_divergence",
    "confidence",
    "cubic_kernel",
    "energy_distance",
    "extract_features",
    "frechet_distance",
    "gaussian_kernel",
    "kernel_distance",
    "load_features",
    "load_inception",
    "losses_per_level",
    "memorisation_rate",
    "nearest_neighbours",
    "precision_recall_density_coverage",
    "sliced_wasserstein",
    "standard_errors",
]
