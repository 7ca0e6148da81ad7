"""Samplers: from a score function to samples. Any of them can be named in a config."""

from ncsn.sampling.base import LadderSampler, Monitor, Sampler
from ncsn.sampling.fitted import fit_ladder
from ncsn.sampling.flow import DPMSolver, Euler, Heun
from ncsn.sampling.guidance import classifier_free_guidance
from ncsn.sampling.inverse import (
    DPS,
    MMPS,
    AnnealedLikelihood,
    PiGDM,
    PosteriorScore,
    Replacement,
)
from ncsn.sampling.langevin import AnnealedLangevin, ConsistentAnnealedSampling, Langevin
from ncsn.sampling.likelihood import log_density
from ncsn.sampling.linear import LinearOperator, Matrix, RandomProjection
from ncsn.sampling.metropolis import Corrected, MetropolisLangevin
from ncsn.sampling.multistep import IPNDM, SASolver
from ncsn.sampling.operators import (
    Blur,
    Downsampling,
    HiddenBox,
    Mask,
    RandomMask,
    SubsampledFourier,
)
from ncsn.sampling.reverse import Ancestral, PredictorCorrector, Resampling

__all__ = [
    "DPS",
    "IPNDM",
    "MMPS",
    "Ancestral",
    "AnnealedLangevin",
    "AnnealedLikelihood",
    "Blur",
    "ConsistentAnnealedSampling",
    "Corrected",
    "DPMSolver",
    "Downsampling",
    "Euler",
    "Heun",
    "HiddenBox",
    "LadderSampler",
    "Langevin",
    "LinearOperator",
    "Mask",
    "Matrix",
    "MetropolisLangevin",
    "Monitor",
    "PiGDM",
    "PosteriorScore",
    "PredictorCorrector",
    "RandomMask",
    "RandomProjection",
    "Replacement",
    "Resampling",
    "SASolver",
    "Sampler",
    "SubsampledFourier",
    "classifier_free_guidance",
    "fit_ladder",
    "log_density",
]
