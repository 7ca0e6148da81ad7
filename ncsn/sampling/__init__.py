"""Samplers: from a score function to samples. Any of them can be named in a config."""

from ncsn.sampling.base import Monitor, Sampler, tweedie
from ncsn.sampling.langevin import AnnealedLangevin, Langevin, langevin_dynamics
from ncsn.sampling.ode import DPMSolver

__all__ = [
    "AnnealedLangevin",
    "DPMSolver",
    "Langevin",
    "Monitor",
    "Sampler",
    "langevin_dynamics",
    "tweedie",
]
