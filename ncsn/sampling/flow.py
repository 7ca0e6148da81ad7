"""Samplers that follow the probability flow: Euler, Heun, DPM-Solver++.

Without noise, samples move from one noise level to the next along::

    dx/dσ = −σ s(x, σ) = (x − D(x, σ)) / σ,    D(x, σ) = x + σ² s(x, σ),

whose marginals are those of the noised data (Song et al. 2021, arXiv 2011.13456, equation 13;
Karras et al. 2022, arXiv 2206.00364, equation 1). It takes tens of network evaluations where
Langevin dynamics takes hundreds. With g = σ_{i+1} / σ_i, the exact solution for a constant D is
x_{i+1} = g x_i + (1 − g) D, which is also Euler's step in σ.
"""

import math
from typing import Any

from torch import Tensor

from ncsn.random import Generator, normal_like
from ncsn.sampling.base import LadderSampler, LevelScore


class Euler(LadderSampler):
    """Euler's method along the probability flow, of first order; it is DDIM. Draws no noise.

    Source: Song et al. 2020 (arXiv 2010.02502), equation 12.
    """

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Euler's step, x + (σ' − σ) dx/dσ."""
        return x + (sigma_next - sigma) * -sigma * score(x, sigma)


class Heun(LadderSampler):
    """Heun's method along the probability flow, of second order, two evaluations a step.

    Source: Karras et al. 2022 (arXiv 2206.00364), algorithm 1, for σ(t) = t.
    """

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """The mean of the slopes at both ends."""
        slope = -sigma * score(x, sigma)
        euler = x + (sigma_next - sigma) * slope
        slope_next = -sigma_next * score(euler, sigma_next)
        return x + (sigma_next - sigma) * (slope + slope_next) / 2


class DPMSolver(LadderSampler):
    """DPM-Solver++(2M) and SDE-DPM-Solver++(2M), linear multistep methods in λ = −log σ.

    Langevin dynamics of strength η in addition to the probability flow leaves its marginals as
    they are, and corrects the errors of the network and of the steps::

        dx = (1 + η) (D − x) dλ + √(2η) σ dw.

    With h = λ_{i+1} − λ_i, g = e^{−h} = σ_{i+1} / σ_i, and D extrapolated from its last two
    values to the middle of the step::

        D* = D_i + (D_i − D_{i−1}) h_i / 2h_{i−1},
        x ← g^{1+η} x + (1 − g^{1+η}) D* + √(1 − g^{2η}) σ_{i+1} z.

    The first step uses D_0 alone. η = 0 is the probability flow, η = 1 the reversed diffusion, for
    which D_i alone would be ancestral sampling.

    Source: Lu et al. 2022, "DPM-Solver++" (arXiv 2211.01095), algorithm 2 and, for η = 1,
    SDE-DPM-Solver++(2M), for α = 1.

    Args:
        num_steps: Number of noise levels; see :class:`LadderSampler`.
        eta: Strength η >= 0 of the noise. With a learned score, 2 did best in 20 steps.
        kwargs: See :class:`LadderSampler`.
    """

    _last: tuple[Tensor, float] | None = None
    """D and h of the step before, within one call."""

    def __init__(self, num_steps: int | None = 20, eta: float = 0.0, **kwargs: Any) -> None:
        super().__init__(num_steps, **kwargs)
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta must be a number of at least 0, got {eta}")
        self.eta = eta

    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Draws no noise if η is 0."""
        denoised, g = x + sigma**2 * score(x, sigma), sigma_next / sigma
        h, target = -math.log(g), denoised
        if self._last is not None:
            previous, h_previous = self._last
            target = denoised + h / (2 * h_previous) * (denoised - previous)
        self._last = denoised, h
        keep = g ** (1 + self.eta)
        x = keep * x + (1 - keep) * target
        if self.eta:
            x = x + math.sqrt(1 - g ** (2 * self.eta)) * sigma_next * normal_like(x, generator)
        return x
