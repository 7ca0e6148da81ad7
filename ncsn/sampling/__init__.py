"""Samplers: from a score function to samples. Any of them can be named in a config."""

from ncsn.sampling.base import LadderSampler, Monitor, Sampler
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
    "MMPS",
    "Ancestral",
    "AnnealedLangevin",
    "AnnealedLikelihood",
    "Blur",
    "ConsistentAnnealedSampling",
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
    "Monitor",
    "PiGDM",
    "PosteriorScore",
    "PredictorCorrector",
    "RandomMask",
    "RandomProjection",
    "Replacement",
    "Resampling",
    "Sampler",
    "SubsampledFourier",
    "classifier_free_guidance",
    "log_density",
]
