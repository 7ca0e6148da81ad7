"""Samplers: from a score function to samples. Any of them can be named in a config."""

from ncsn.sampling.base import LadderSampler, Monitor, Sampler
from ncsn.sampling.fitted import fit_ladder
from ncsn.sampling.flow import DPMSolver, Euler, Heun
from ncsn.sampling.guidance import classifier_free_guidance
from ncsn.sampling.inverse import inpaint
from ncsn.sampling.langevin import AnnealedLangevin, ConsistentAnnealedSampling, Langevin
from ncsn.sampling.likelihood import log_density
from ncsn.sampling.metropolis import Corrected, MetropolisLangevin
from ncsn.sampling.multistep import IPNDM, SASolver
from ncsn.sampling.reverse import Ancestral, PredictorCorrector

__all__ = [
    "IPNDM",
    "Ancestral",
    "AnnealedLangevin",
    "ConsistentAnnealedSampling",
    "Corrected",
    "DPMSolver",
    "Euler",
    "Heun",
    "LadderSampler",
    "Langevin",
    "MetropolisLangevin",
    "Monitor",
    "PredictorCorrector",
    "SASolver",
    "Sampler",
    "classifier_free_guidance",
    "fit_ladder",
    "inpaint",
    "log_density",
]
