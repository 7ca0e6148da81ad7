"""The likelihood of points along the probability flow.

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

from ncsn.levels import ScoreFunction, geometric
from ncsn.objectives import score_and_divergence
from ncsn.random import Generator, normal_like


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

    Source: Song et al. 2021 (arXiv 2011.13456), appendix D.2.

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
        grid = geometric(sigma_max, sigma_min, num_steps + 1).log().flip(0).tolist()
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
