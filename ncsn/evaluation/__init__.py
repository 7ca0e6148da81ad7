"""Evaluation: how good samples and scores are, with floors and standard errors.

Nothing here knows about training: it takes tensors and score functions.
"""

from ncsn.evaluation.estimate import Estimate, Estimates, standard_errors
from ncsn.evaluation.kinds import Kind, Model, Reference, Trajectory, kind_of
from ncsn.evaluation.report import Report

__all__ = [
    "Estimate",
    "Estimates",
    "Kind",
    "Model",
    "Reference",
    "Report",
    "Trajectory",
    "kind_of",
    "standard_errors",
]
