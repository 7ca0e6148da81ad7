"""Langevin dynamics: plain, annealed, and consistent annealed.

Langevin dynamics turns a score into samples of its density (Welling & Teh 2011). The chain::

    x ← x + (η/2) s(x) + √η z,    z ~ N(0, I)

has the density as its stationary distribution, up to an error that vanishes with η. It mixes
slowly between separated modes; *annealed* Langevin dynamics (Song & Ermon 2019, algorithm 1)
starts where noise has merged them and follows the noise levels down.

Step sizes
----------

``epsilon`` sets the step at each level: η_t = ε σ_t² / σ_max². At one level, ε is η itself. Step
sizes compare across ladders as a = η / 2σ², the share of the way to the denoised x + σ² s(x) that
one step goes: 0.2 in NCSN's code, 0.062 in NCSNv2. Where the clean data has the variance τ²,
steps of a >= 2 (1 + τ²/σ²) diverge. To convert what others write:

=========  ==================================================  =================================
given      what it means                                       epsilon
=========  ==================================================  =================================
a          share of the way to the denoised x                  ``epsilon_from_share(a, σ_max)``
step_lr    NCSN's code: x + α_t s + √(2α_t) z with             ``epsilon_from_step_lr(step_lr,
           α_t = step_lr · σ_t² / σ_min²                       σ_max, σ_min)``
=========  ==================================================  =================================

NCSN's step_lr of 2e-5 at σ_min = 0.01 is a = 0.2. Its algorithm 1 has the same number as ε, and
steps half as long.
"""

import math
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from ncsn.levels import langevin_step_size
from ncsn.random import Generator, normal_like
from ncsn.sampling.base import LadderSampler, LevelScore, Sampler


def epsilon_from_share(a: float, sigma_max: float) -> float:
    """ε = 2 a σ_max², from the share a of the way to the denoised x that a step goes."""
    return 2 * a * sigma_max**2


def epsilon_from_step_lr(step_lr: float, sigma_max: float, sigma_min: float) -> float:
    """ε = 2 step_lr (σ_max / σ_min)², from the step size of NCSN's code."""
    return 2 * step_lr * (sigma_max / sigma_min) ** 2


class Langevin(Sampler):
    """Langevin dynamics at the smallest noise level.

    Args:
        epsilon: The step size η, > 0.
        num_steps: Number of steps, at least 1.
        prior: Where to start; see :class:`Sampler`.
        denoise: Whether to end with a Tweedie step; by default not, and the samples follow the
            density whose score is given, that of the data noised at the smallest level.
    """

    def __init__(
        self,
        epsilon: float = 0.01,
        num_steps: int = 1000,
        prior: Literal["normal", "uniform"] = "uniform",
        denoise: bool = False,
    ) -> None:
        super().__init__(prior, denoise)
        _check("num_steps", num_steps, epsilon)
        self.epsilon, self.num_steps = epsilon, num_steps

    def path(self, noise_levels: Tensor) -> list[float]:
        """The smallest noise level, again and again."""
        return [noise_levels[-1].item()] * (self.num_steps + 1)

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Welling & Teh 2011; see the module's docstring."""
        return _langevin_step(score, x, sigma_next, self.epsilon, generator)


class AnnealedLangevin(Sampler):
    """Annealed Langevin dynamics, from the largest noise level to the smallest.

    Source: Song & Ermon 2019 (arXiv 1907.05600), algorithm 1.

    Args:
        steps_per_level: Number of steps L at each noise level, at least 1.
        epsilon: ε in η_t = ε σ_t² / σ_max², > 0. ``None`` is ε = 0.4 σ_max², as in NCSN, where a
            step goes a fifth of the way to the denoised x. ``"auto"`` is NCSNv2's technique 4, for
            the mean ratio of the levels: see :func:`ncsn.levels.langevin_step_size`.
        prior: Where to start; see :class:`Sampler`.
        denoise: Whether to end with a Tweedie step; see :mod:`ncsn.sampling.base`.
    """

    def __init__(
        self,
        steps_per_level: int = 100,
        epsilon: float | Literal["auto"] | None = None,
        prior: Literal["normal", "uniform"] = "normal",
        denoise: bool = True,
    ) -> None:
        super().__init__(prior, denoise)
        _check("steps_per_level", steps_per_level, 1.0 if epsilon in (None, "auto") else epsilon)
        self.steps_per_level, self.epsilon = steps_per_level, epsilon

    def share(self, noise_levels: Tensor) -> float:
        """The share a = η / 2σ² of the way to the denoised x that a step goes on a ladder."""
        if self.epsilon is None:
            return 0.2
        if self.epsilon == "auto":
            return langevin_step_size(noise_levels.tolist(), self.steps_per_level)
        return self.epsilon / (2 * noise_levels[0].item() ** 2)

    def auto_values(self, noise_levels: Tensor) -> dict[str, float]:
        """See :meth:`Sampler.auto_values`."""
        if self.epsilon != "auto":
            return {}
        return {"epsilon": 2 * self.share(noise_levels) * noise_levels[0].item() ** 2}

    def path(self, noise_levels: Tensor) -> list[float]:
        """Each level L times; the first step starts from the prior at the largest."""
        self._share = self.share(noise_levels)
        levels = noise_levels.tolist()
        return [levels[0], *(sigma for sigma in levels for _ in range(self.steps_per_level))]

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Song & Ermon 2019, algorithm 1."""
        return _langevin_step(score, x, sigma_next, 2 * self._share * sigma_next**2, generator)


class ConsistentAnnealedSampling(LadderSampler):
    """Annealed Langevin sampling whose noise falls exactly as the ladder does.

    With g = σ_{i+1} / σ_i, a step removes the share h of the noise and adds as much as the next
    level asks for::

        x ← x + h σ_i² s(x, σ_i) + β σ_{i+1} z,    β = √(1 − ((1 − h) / g)²).

    h = 1 − g needs no noise and is Euler's method along the probability flow (DDIM); h = 1 − g² is
    ancestral sampling; h = 1 denoises and adds fresh noise.

    Source: Jolicoeur-Martineau et al. 2020 (arXiv 2009.05475), algorithm 2.

    Args:
        step_size: h, with 1 − g <= h <= 1 + g at each level; ``None`` for 1 − g².
        kwargs: See :class:`LadderSampler`.
    """

    def __init__(self, step_size: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step_size = step_size

    def path(self, noise_levels: Tensor) -> list[float]:
        """See :meth:`Sampler.path`; the ratios of the levels must allow ``step_size``."""
        sigmas = super().path(noise_levels)
        if self.step_size is not None:
            g = min(low / high for high, low in pairwise(sigmas))
            least, most = 1 - g, 1 + g
            if not least - 1e-6 <= self.step_size <= most:
                raise ValueError(
                    f"step_size of ConsistentAnnealedSampling must be between {least:.4g} and "
                    f"{most:.4g} for {len(sigmas)} levels of ratio {g:.4g}, "
                    f"got {self.step_size}"
                )
        return sigmas

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Jolicoeur-Martineau et al. 2020, algorithm 2."""
        g = sigma_next / sigma
        h = 1 - g**2 if self.step_size is None else self.step_size
        beta = math.sqrt(max(1 - ((1 - h) / g) ** 2, 0))
        z = normal_like(x, generator)
        return x + h * sigma**2 * score(x, sigma) + beta * sigma_next * z


def _langevin_step(
    score: LevelScore, x: Tensor, sigma: float, eta: float, generator: Generator
) -> Tensor:
    """One step, x + (η/2) s(x, σ) + √η z."""
    z = normal_like(x, generator)
    return x + eta / 2 * score(x, sigma) + math.sqrt(eta) * z


def _check(name: str, num_steps: int, epsilon: float | str) -> None:
    if num_steps < 1:
        raise ValueError(f"{name} must be at least 1, got {num_steps}")
    if isinstance(epsilon, str) or not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be a positive number, got {epsilon!r}")
