"""Inpainting: samples that agree with known pixels.

By *replacement* (Song & Ermon 2019, arXiv 1907.05600), the known pixels are set to their values at
each noise level, noised to that level. The unknown ones then follow known ones that never looked
at them. *Resampling* (Lugmayr et al. 2022) goes back up and down a few times at each level, so
that both have time to agree.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from ncsn.levels import ScoreFunction
from ncsn.random import Generator, normal_like
from ncsn.sampling.base import Monitor


def inpaint(
    score: ScoreFunction,
    known: Tensor,
    mask: Tensor,
    noise_levels: Tensor,
    num_resamples: int = 1,
    generator: Generator = None,
    monitor: Monitor | None = None,
) -> Tensor:
    """Fill in the unknown values, by ancestral sampling with replacement.

    Source: Lugmayr et al. 2022, "RePaint" (arXiv 2201.09865), algorithm 1, for noise levels;
    without resampling: Song et al. 2021 (arXiv 2011.13456), appendix I.2.

    Args:
        score: The score function.
        known: Data, shape ``(batch, *event)``; the unknown values do not matter.
        mask: True where the data is known; broadcasts over ``known``.
        noise_levels: The ladder, shape ``(num_levels,)``, descending.
        num_resamples: How often each step is taken, at least 1; 1 is plain replacement.
        generator: Source of the noise.
        monitor: Called after each step.

    Returns:
        Samples that agree with ``known`` where the mask is true, of the shape of ``known``.

    Raises:
        ValueError: If ``num_resamples`` is below 1.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    mask = mask.bool()
    sigmas = noise_levels.tolist()
    x = sigmas[0] * normal_like(known, generator)
    for sigma_t, sigma_s in pairwise([*sigmas, 0.0]):
        g = sigma_s / sigma_t
        for repeat in range(num_resamples):
            if repeat:  # back up to sigma_t
                x = x + math.sqrt(sigma_t**2 - sigma_s**2) * normal_like(x, generator)
            denoised = x + sigma_t**2 * score(x, x.new_full((len(x),), sigma_t))
            z = normal_like(x, generator)
            unknown = g**2 * x + (1 - g**2) * denoised + sigma_s * math.sqrt(1 - g**2) * z
            x = torch.where(mask, known + sigma_s * normal_like(x, generator), unknown)
            if monitor:
                monitor(sigma_s, x)
    return x
