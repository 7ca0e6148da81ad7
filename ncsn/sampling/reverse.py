"""Samplers that run the noising backwards: ancestral sampling, resampling, predictor-corrector.

Noise that grows from level σ_s to σ_t is a Markov step of the variance-exploding diffusion (see
:mod:`ncsn.diffusion`). These samplers reverse it, one level at a time, with the score in place of
the unknown clean data.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ncsn.diffusion import GaussianDiffusion
from ncsn.levels import expand_as
from ncsn.random import Generator, normal_like
from ncsn.sampling.base import LadderSampler, LevelScore

VARIANCE_EXPLODING = GaussianDiffusion(alpha=torch.ones_like, sigma=lambda t: t)
"""x_σ = x_0 + σ ε: the variance-exploding diffusion, with the noise level as its time."""


class Ancestral(LadderSampler):
    """Ancestral sampling: draw x_s from the posterior q(x_s | x_t, x_0 = D(x_t)), level by level.

    The denoiser D(x_t) = x_t + σ_t² s stands in for the clean data in the posterior of the
    variance-exploding diffusion, so with g = σ_s / σ_t::

        x_s = g² x_t + (1 − g²) D(x_t) + σ_s √(1 − g²) z.

    Source: Ho et al. 2020 (arXiv 2006.11239), algorithm 2; for noise levels: Song et al. 2021
    (arXiv 2011.13456), equation 47.
    """

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Song et al. 2021, equation 47."""
        denoised = x + sigma**2 * score(x, sigma)
        # On the CPU, where comparing and computing them does not wait for a GPU.
        t, s = (torch.tensor([level], dtype=torch.float64) for level in (sigma, sigma_next))
        return VARIANCE_EXPLODING.posterior(x, denoised, s, t).sample(generator)


class Resampling(Ancestral):
    """Ancestral sampling that takes each step several times, back up with fresh noise in between.

    Parts of a sample that were not drawn together have time to agree, as in inpainting by
    :class:`ncsn.sampling.Replacement`.

    Source: Lugmayr et al. 2022, "RePaint" (arXiv 2201.09865), algorithm 1.

    Args:
        num_steps: Number of noise levels; see :class:`LadderSampler`.
        num_resamples: How often each step is taken, at least 1; 1 is ancestral sampling.
        kwargs: See :class:`LadderSampler`.
    """

    def __init__(
        self, num_steps: int | None = None, num_resamples: int = 10, **kwargs: Any
    ) -> None:
        super().__init__(num_steps, **kwargs)
        if num_resamples < 1:
            raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
        self.num_resamples = num_resamples

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Lugmayr et al. 2022, algorithm 1, for noise levels."""
        noise = math.sqrt(sigma**2 - sigma_next**2)
        lower = super().step(score, x, sigma, sigma_next, generator)
        for _ in range(self.num_resamples - 1):
            x = lower + noise * normal_like(x, generator)
            lower = super().step(score, x, sigma, sigma_next, generator)
        return lower


class PredictorCorrector(LadderSampler):
    """Predictor-corrector sampling: a step of the reverse diffusion, then Langevin steps.

    The corrector chooses its step size for each sample by the ratio r of the norms of signal and
    noise, ε = 2 (r ‖z‖ / ‖s‖)². (The authors' code takes the mean of the norms over the batch;
    here a sample does not depend on the batch that it is in. The corrector is for images: in few
    dimensions ‖s‖ comes near zero, and the step becomes too large. Where it is zero, there is no
    step.)

    Source: Song et al. 2021 (arXiv 2011.13456), algorithms 2 and 4.

    Args:
        num_steps: Number of noise levels; see :class:`LadderSampler`.
        corrector_steps: Langevin steps at each level, >= 0; none leaves the reverse diffusion.
        signal_to_noise: r > 0; the paper has 0.16 for CIFAR-10.
        kwargs: See :class:`LadderSampler`.
    """

    def __init__(
        self,
        num_steps: int | None = None,
        corrector_steps: int = 1,
        signal_to_noise: float = 0.16,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_steps, **kwargs)
        if corrector_steps < 0:
            raise ValueError(f"corrector_steps must be at least 0, got {corrector_steps}")
        if not 0 < signal_to_noise < math.inf:
            raise ValueError(f"signal_to_noise must be a positive number, got {signal_to_noise}")
        self.corrector_steps, self.signal_to_noise = corrector_steps, signal_to_noise

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Song et al. 2021, algorithm 2."""
        variance = sigma**2 - sigma_next**2
        z = normal_like(x, generator)
        x = x + variance * score(x, sigma) + math.sqrt(variance) * z
        for _ in range(self.corrector_steps):
            z, s = normal_like(x, generator), score(x, sigma_next)
            epsilon = 2 * (self.signal_to_noise * _norm(z) / _norm(s)) ** 2
            epsilon = epsilon.nan_to_num(nan=0.0, posinf=0.0)
            x = x + epsilon * s + torch.sqrt(2 * epsilon) * z
        return x


def _norm(x: Tensor) -> Tensor:
    """The norm of each example, in a shape that broadcasts over the batch."""
    return expand_as(x.flatten(1).norm(dim=1), x)
