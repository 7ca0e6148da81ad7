"""Samplers that run the noising backwards: ancestral sampling, predictor-corrector.

Noise that grows from level σ_s to σ_t is a Markov step (see :mod:`ncsn.diffusion`); these samplers
take it back at random, one level at a time, with the score in place of the unknown clean data.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from ncsn.noise import Generator, expand_as, normal_like
from ncsn.sampling.base import LadderSampler, LevelScore, Monitor, Sigmas

__all__ = ["Ancestral", "PredictorCorrector"]


class Ancestral(LadderSampler):
    """Ancestral sampling: draw x_s from the posterior q(x_s | x_t, x_0 = D(x_t)), level by level.

    The denoiser D(x_t) = x_t + σ_t² s stands for the clean data in the posterior of the
    variance-exploding diffusion, so with g = σ_s / σ_t::

        x_s = g² x_t + (1 − g²) D(x_t) + σ_s √(1 − g²) z.

    Source:
        Ho et al. 2020 (arXiv 2006.11239), algorithm 2; for noise levels: Song et al. 2021
        (arXiv 2011.13456), equation 47.

    Args:
        num_steps: Number of noise levels, at least 2; ``None`` for those of training.
        denoise: Whether to end with a Tweedie step.
    """

    def run(
        self, score: LevelScore, x: Tensor, sigmas: Sigmas, generator: Generator, monitor: Monitor
    ) -> Tensor:
        """Song et al. 2021, equation 47."""
        for sigma_t, sigma_s in pairwise(sigmas):
            g = sigma_s / sigma_t
            z = normal_like(x, generator)
            denoised = x + sigma_t**2 * score(x, sigma_t)
            x = g**2 * x + (1 - g**2) * denoised + sigma_s * math.sqrt(1 - g**2) * z
            monitor(sigma_s, x)
        return x


class PredictorCorrector(LadderSampler):
    """Predictor-corrector sampling: a step of the reverse diffusion, then Langevin steps.

    The corrector chooses its step size for each sample by the ratio r of the norms of signal and
    noise, ε = 2 (r ‖z‖ / ‖s‖)². (The authors' code takes the mean of the norms over the batch;
    here a sample does not depend on the batch that it is in. The corrector is for images: in few
    dimensions ‖s‖ comes near zero, and the step becomes too large.)

    Source:
        Song et al. 2021 (arXiv 2011.13456), algorithms 2 and 4.

    Args:
        num_steps: Number of noise levels, at least 2; ``None`` for those of training.
        corrector_steps: Langevin steps at each level, >= 0; none leaves the reverse diffusion.
        signal_to_noise: r > 0; the paper has 0.16 for CIFAR-10.
        denoise: Whether to end with a Tweedie step.

    Raises:
        ValueError: If a value is outside its domain.
    """

    def __init__(
        self,
        num_steps: int | None = None,
        corrector_steps: int = 1,
        signal_to_noise: float = 0.16,
        denoise: bool = True,
    ) -> None:
        super().__init__(num_steps, denoise)
        if corrector_steps < 0:
            raise ValueError(f"corrector_steps must be at least 0, got {corrector_steps}")
        if not 0 < signal_to_noise < math.inf:
            raise ValueError(f"signal_to_noise must be a positive number, got {signal_to_noise}")
        self.corrector_steps, self.signal_to_noise = corrector_steps, signal_to_noise

    def run_evaluations(self, num_levels: int) -> int:
        """One for the predictor and one for each corrector step, between two levels."""
        return super().run_evaluations(num_levels) * (1 + self.corrector_steps)

    def run(
        self, score: LevelScore, x: Tensor, sigmas: Sigmas, generator: Generator, monitor: Monitor
    ) -> Tensor:
        """Song et al. 2021, algorithm 2."""
        for sigma, sigma_next in pairwise(sigmas):
            variance = sigma**2 - sigma_next**2
            z = normal_like(x, generator)
            x = x + variance * score(x, sigma) + math.sqrt(variance) * z
            monitor(sigma_next, x)
            for _ in range(self.corrector_steps):
                z, s = normal_like(x, generator), score(x, sigma_next)
                epsilon = 2 * (self.signal_to_noise * _norm(z) / _norm(s)) ** 2
                x = x + epsilon * s + torch.sqrt(2 * epsilon) * z
                monitor(sigma_next, x)
        return x


def _norm(x: Tensor) -> Tensor:
    """The norm of each example, in a shape that broadcasts over the batch."""
    return expand_as(x.flatten(1).norm(dim=1), x)
