"""Samplers that follow the probability flow, and the likelihood that it gives.

Without noise, samples move from one noise level to the next along::

    dx/dσ = −σ s(x, σ) = (x − D(x, σ)) / σ,    D(x, σ) = x + σ² s(x, σ),

whose marginals are those of the noised data (Song et al. 2021, arXiv 2011.13456, equation 13;
Karras et al. 2022, arXiv 2206.00364, equation 1). It takes tens of network evaluations where
Langevin dynamics takes hundreds. With g = σ_{i+1} / σ_i, the exact solution for a constant D is
x_{i+1} = g x_i + (1 − g) D, which is also Euler's step in σ.

The flow is invertible, so it also tells the density of a point: along it, the log density changes
by minus the divergence of the velocity (the instantaneous change of variables, Chen et al. 2018,
arXiv 1806.07366, theorem 1)::

    log p(x) = log p_max(x(σ_max)) − ∫_{σ_min}^{σ_max} σ div s(x(σ), σ) dσ.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ncsn.noise import Generator, ScoreFunction, geometric_noise_levels, normal_like
from ncsn.objectives import score_and_divergence
from ncsn.sampling.base import LadderSampler, LevelScore, Monitor, Sigmas

__all__ = ["DPMSolver", "Euler", "Heun", "LogDensity", "log_density"]


class Euler(LadderSampler):
    """Euler's method along the probability flow, of first order; it is DDIM.

    Source:
        Song et al. 2020, "Denoising Diffusion Implicit Models" (arXiv 2010.02502), equation 12.

    Args:
        num_steps: Number of noise levels, at least 2; ``None`` for those of training.
        denoise: Whether to end with a Tweedie step.
    """

    def run(
        self, score: LevelScore, x: Tensor, sigmas: Sigmas, generator: Generator, monitor: Monitor
    ) -> Tensor:
        """Draws no noise."""
        for sigma, sigma_next in pairwise(sigmas):
            x = x + (sigma_next - sigma) * -sigma * score(x, sigma)
            monitor(sigma_next, x)
        return x


class Heun(LadderSampler):
    """Heun's method along the probability flow, of second order, two evaluations a step.

    Source:
        Karras et al. 2022 (arXiv 2206.00364), algorithm 1, for σ(t) = t, on a geometric ladder.

    Args:
        num_steps: Number of noise levels, at least 2; ``None`` for those of training.
        denoise: Whether to end with a Tweedie step.
    """

    def run_evaluations(self, num_levels: int) -> int:
        """Two for each step between two levels."""
        return 2 * super().run_evaluations(num_levels)

    def run(
        self, score: LevelScore, x: Tensor, sigmas: Sigmas, generator: Generator, monitor: Monitor
    ) -> Tensor:
        """Draws no noise."""
        for sigma, sigma_next in pairwise(sigmas):
            slope = -sigma * score(x, sigma)
            euler = x + (sigma_next - sigma) * slope
            monitor(sigma_next, euler)
            slope_next = -sigma_next * score(euler, sigma_next)
            x = x + (sigma_next - sigma) * (slope + slope_next) / 2
            monitor(sigma_next, x)
        return x


class DPMSolver(LadderSampler):
    """DPM-Solver++(2M) and SDE-DPM-Solver++(2M), linear multistep methods in λ = −log σ.

    Langevin dynamics of strength η beside the probability flow leaves its marginals as they are,
    and corrects what the network and the steps do wrong::

        dx = (1 + η) (D − x) dλ + √(2η) σ dw.

    With g = σ_{i+1} / σ_i, constant on the ladder, and D extrapolated from its last two values::

        x ← g^{1+η} x + (1 − g^{1+η}) (3/2 D_i − 1/2 D_{i−1}) + √(1 − g^{2η}) σ_{i+1} z,

    whose first step uses D_0 alone. η = 0 is the probability flow, η = 1 the reversed diffusion,
    for which D_i alone would be ancestral sampling.

    Source:
        Lu et al. 2022, "DPM-Solver++" (arXiv 2211.01095), algorithm 2 and, for η = 1,
        SDE-DPM-Solver++(2M), for α = 1.

    Args:
        num_steps: Number of noise levels, at least 2; ``None`` for those of training.
        eta: Strength η >= 0 of the noise.
        denoise: Whether to end with a Tweedie step.

    Raises:
        ValueError: If a value is outside its domain.
    """

    def __init__(self, num_steps: int | None = 20, eta: float = 0.0, denoise: bool = True) -> None:
        super().__init__(num_steps, denoise)
        if not 0 <= eta < math.inf:
            raise ValueError(f"eta must be a number of at least 0, got {eta}")
        self.eta = eta

    def run(
        self, score: LevelScore, x: Tensor, sigmas: Sigmas, generator: Generator, monitor: Monitor
    ) -> Tensor:
        """Draws no noise if η is 0."""
        previous = None
        for sigma, sigma_next in pairwise(sigmas):
            denoised = x + sigma**2 * score(x, sigma)
            g = sigma_next / sigma
            target = denoised if previous is None else 1.5 * denoised - 0.5 * previous
            keep = g ** (1 + self.eta)
            x, previous = keep * x + (1 - keep) * target, denoised
            if self.eta:
                beta = math.sqrt(1 - g ** (2 * self.eta))
                x = x + beta * sigma_next * normal_like(x, generator)
            monitor(sigma_next, x)
        return x


class LogDensity(NamedTuple):
    """Log densities in nats, with an estimate of their error.

    Attributes:
        value: Shape ``(batch,)``.
        error: How far the value is from that on a grid twice as coarse, divided by 15, as befits
            a method of fourth order: an estimate of the discretisation's error, not of
            Hutchinson's. Shape ``(batch,)``.
    """

    value: Tensor
    error: Tensor


def log_density(
    score: ScoreFunction,
    x: Tensor,
    sigma_max: float,
    sigma_min: float,
    num_steps: int = 64,
    *,
    exact_divergence: bool = True,
    prior_mean: float | Tensor = 0.0,
    prior_std: float = 0.0,
    generator: Generator = None,
) -> LogDensity:
    """The log density of points at the noise level sigma_min, along the probability flow.

    The flow is solved in log σ by the classical Runge-Kutta method, on a grid of ``num_steps``
    steps and, for the error, on one of half as many.

    Source:
        Song et al. 2021 (arXiv 2011.13456), appendix D.2.

    Args:
        score: The score function, differentiable.
        x: Points, shape ``(batch, *event)``.
        sigma_max: Noise level at which the flow ends, where the density is that of the prior.
        sigma_min: Noise level of the density asked for, 0 < sigma_min < sigma_max.
        num_steps: Steps of the finer grid, even, at least 2; four evaluations each.
        exact_divergence: Whether to compute the divergence exactly (one backward pass for each
            dimension) or to estimate it with one probe of signs for each point (Hutchinson).
        prior_mean: Mean m of the data, a number or of the shape of an example.
        prior_std: Standard deviation v of the data. The prior is N(m, (v² + σ_max²) I); a wrong
            mean costs of the order of |m| / σ_max nats.
        generator: Source of the probes.

    Returns:
        The log densities at sigma_min, in nats, and their errors.

    Raises:
        ValueError: If a value is outside its domain.
    """
    if num_steps < 2 or num_steps % 2:
        raise ValueError(f"num_steps must be even and at least 2, got {num_steps}")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"need 0 < sigma_min < sigma_max, got sigma_min={sigma_min} and sigma_max={sigma_max}"
        )
    v = None if exact_divergence else normal_like(x, generator).sign()

    def velocity(x: Tensor, log_sigma: float) -> tuple[Tensor, Tensor]:
        """The velocity dx / d log σ = −σ² s, and its divergence."""
        variance = math.exp(2 * log_sigma)
        sigma = x.new_full((len(x),), math.exp(log_sigma))
        s, divergence = score_and_divergence(score, x, sigma, v)
        return -variance * s, -variance * divergence.flatten(1).sum(1)

    def solve(x: Tensor, num_steps: int) -> Tensor:
        change = x.new_zeros(len(x))
        grid = geometric_noise_levels(sigma_max, sigma_min, num_steps + 1).log().flip(0).tolist()
        for low, high in pairwise(grid):
            h = high - low
            k1, d1 = velocity(x, low)
            k2, d2 = velocity(x + h / 2 * k1, low + h / 2)
            k3, d3 = velocity(x + h / 2 * k2, low + h / 2)
            k4, d4 = velocity(x + h * k3, high)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            change = change + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        prior_variance = prior_std**2 + sigma_max**2
        y = (x - prior_mean).flatten(1)
        log_prior = -0.5 * (y.square() / prior_variance + math.log(2 * math.pi * prior_variance))
        return log_prior.sum(1) + change

    with torch.no_grad():
        fine, coarse = solve(x, num_steps), solve(x, num_steps // 2)
    return LogDensity(fine, (fine - coarse).abs() / 15)
