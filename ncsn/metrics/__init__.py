"""Metrics that are synchronised over ranks."""

from ncsn.metrics.per_level import MeanPerLevel

__all__ = ["MeanPerLevel"]
