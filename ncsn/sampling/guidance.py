"""Samples that are steered: towards a class, or around known pixels.

*Classifier-free guidance* (Ho & Salimans 2022): a network that was trained with and without labels
knows both scores of ∇log p(x | y) = ∇log p(x) + ∇log p(y | x); their difference is the score of an
implicit classifier, which can be given more weight than it has::

    s_w(x) = s(x) + w (s(x | y) − s(x)).

w = 1 samples the class as it is, w > 1 its most typical members, w = 0 ignores the label.

*Inpainting* by replacement (Song & Ermon 2019, arXiv 1907.05600): at each noise level the known
pixels are set to their values, noised to that level. The unknown ones then follow known ones that
never looked at them; *resampling* (Lugmayr et al. 2022) goes back up and down a few times at each
level, so that both have time to agree.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ncsn.noise import Generator, ScoreFunction, normal_like
from ncsn.sampling.base import Monitor

__all__ = ["classifier_free_guidance", "inpaint"]


def classifier_free_guidance(
    score: Callable[[Tensor, Tensor, Tensor], Tensor], label: Tensor, guidance_scale: float = 1.0
) -> ScoreFunction:
    """The score of the examples' classes, guided.

    Source:
        Ho & Salimans 2022, "Classifier-Free Diffusion Guidance" (arXiv 2207.12598), equation 6;
        their weight is ``guidance_scale`` − 1.

    Args:
        score: Called as ``score(x, sigma, label)``, where −1 stands for any class.
        label: Class of each example, shape ``(batch,)``.
        guidance_scale: w. Other values than 1 evaluate twice as many examples.

    Returns:
        A score function of ``(x, sigma)`` for batches of the size of ``label``.
    """
    if guidance_scale == 1:
        return lambda x, sigma: score(x, sigma, label)
    labels = torch.cat([torch.full_like(label, -1), label])

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        both = score(torch.cat([x, x]), torch.cat([sigma, sigma]), labels)
        of_any, of_class = both.chunk(2)
        return torch.lerp(of_any, of_class, guidance_scale)

    return guided


def inpaint(
    score: ScoreFunction,
    known: Tensor,
    mask: Tensor,
    noise_levels: Tensor,
    num_resamples: int = 1,
    generator: Generator = None,
    monitor: Monitor | None = None,
) -> Tensor:
    """Fill in what is not known, by ancestral sampling with replacement.

    Source:
        Lugmayr et al. 2022, "RePaint" (arXiv 2201.09865), algorithm 1, for noise levels; without
        resampling: Song et al. 2021 (arXiv 2011.13456), appendix I.2.

    Args:
        score: The score function.
        known: Data, shape ``(batch, *event)``; what is not known does not matter.
        mask: 1 (or True) where the data is known, 0 where not; broadcasts over ``known``.
        noise_levels: The ladder, shape ``(num_levels,)``, descending.
        num_resamples: How often each step is taken, at least 1; 1 is plain replacement.
        generator: Source of the noise.
        monitor: Called after each network evaluation.

    Returns:
        Samples that agree with ``known`` where the mask is 1, of the shape of ``known``.

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
