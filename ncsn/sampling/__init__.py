"""Samplers: from a score function to samples. Any of them can be named in a config."""

from ncsn.sampling.base import LadderSampler, Monitor, Sampler
from ncsn.sampling.diffusion import Ancestral, PredictorCorrector
from ncsn.sampling.guidance import classifier_free_guidance, inpaint
from ncsn.sampling.langevin import AnnealedLangevin, ConsistentAnnealedSampling, Langevin
from ncsn.sampling.ode import DPMSolver, Euler, Heun, log_density

__all__ = [
    "Ancestral",
    "AnnealedLangevin",
    "ConsistentAnnealedSampling",
    "DPMSolver",
    "Euler",
    "Heun",
    "LadderSampler",
    "Langevin",
    "Monitor",
    "PredictorCorrector",
    "Sampler",
    "classifier_free_guidance",
    "inpaint",
    "log_density",
]
