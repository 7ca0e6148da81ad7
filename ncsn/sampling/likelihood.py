"""The likelihood along the probability flow, and what it says of discrete data.

The flow is invertible, so it also tells the density of a point: along it, the log density changes
by minus the divergence of the velocity (the instantaneous change of variables, Chen et al. 2018,
arXiv 1806.07366, theorem 1)::

    log p(x) = log p_max(x(σ_max)) − ∫_{σ_min}^{σ_max} σ div s(x(σ), σ) dσ.

Data on a grid of values, as images are, has probabilities P(x) and no density. Noised by the
*encoder* q(z|x) = N(x, σ² I) it has one, and for any *decoder* P(x|z), by Jensen's inequality::

    log P(x) >= E_{z ~ q(z|x)} [log p_σ(z) + log P(x|z) − log q(z|x)].

The mean of −log q(z|x) is the encoder's entropy (D/2) log 2πeσ². The bound is tight where the
decoder is the posterior of x given z. Here it is that of independent values with frequencies π::

    P(x|z) = Π_i π(x_i) N(z_i; x_i, σ²) / h_σ(z_i),      h_σ(z) = Σ_v π(v) N(z; v, σ²),

which needs no network and has nothing to fit. The encoder cancels::

    log P(x) >= Σ_i log π(x_i) + E_z [log p_σ(z) − Σ_i log h_σ(z_i)]:

the log probability of independent values, and how much better the model explains z than they do.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ncsn.exact import ExactScore, GaussianMixture
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


Density: TypeAlias = Callable[[Tensor], LogDensity]
"""Called as ``density(x)``; returns the log densities of points at one noise level."""


def log_density(
    score: ScoreFunction,
    x: Tensor,
    prior: ExactScore,
    sigma_max: float,
    sigma_min: float,
    num_steps: int = 64,
    *,
    exact_divergence: bool = True,
    generator: Generator = None,
) -> LogDensity:
    """The log density of points at the noise level sigma_min, along the probability flow.

    The flow is solved in log σ by the classical Runge-Kutta method, on a grid of ``num_steps``
    steps and, for the error, on one of half as many.

    Source: Song et al. 2021 (arXiv 2011.13456), appendix D.2.

    Args:
        score: The score function, differentiable.
        x: Points, shape ``(batch, *event)``.
        prior: The density at sigma_max is taken from it. Its error there adds to that of the
            result: a Gaussian of the data's mean and variance in place of the data itself costs
            0.01 nats on two moons with NCSNv2's sigma_max.
        sigma_max: Noise level at which the flow ends.
        sigma_min: Noise level of the density asked for, 0 < sigma_min < sigma_max.
        num_steps: Steps of the finer grid, even, at least 2; four evaluations each.
        exact_divergence: Whether to compute the divergence exactly (one backward pass for each
            dimension) or to estimate it with one probe of signs for each point (Hutchinson).
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
        return prior.log_density(x, x.new_full((len(x),), sigma_max)).to(x.dtype) + change

    with torch.no_grad():
        fine, coarse = solve(x, num_steps), solve(x, num_steps // 2)
    return LogDensity(fine, (fine - coarse).abs() / 15)


def log_probability(
    density: Density,
    x: Tensor,
    values: Tensor,
    counts: Tensor,
    sigma: float,
    generator: Generator = None,
) -> LogDensity:
    """A one-sample estimate of a lower bound of log P(x), for data on a grid of values.

    Source: the module's docstring; with equal frequencies, the decoder of Variational Diffusion
    Models (Kingma et al. 2021, arXiv 2107.00630).

    Args:
        density: The density of the data noised at level sigma.
        x: Data, shape ``(batch, *event)``, each number one of ``values``.
        values: The values that occur, shape ``(n,)``, ascending.
        counts: How often each occurs, shape ``(n,)``, > 0; they need not sum to 1.
        sigma: Noise level, > 0.
        generator: Source of the noise.

    Returns:
        Estimates in nats, whose mean over draws is a lower bound, and the errors of the density.

    Raises:
        ValueError: If a number of ``x`` is not among the values.
    """
    rows = torch.searchsorted(values, x).clamp(max=len(values) - 1)
    if not torch.equal(values[rows], x):
        raise ValueError(f"x must consist of the {len(values)} values {values.tolist()}")
    frequencies = counts.double() / counts.sum()
    independent = GaussianMixture(values.double()[:, None], weights=frequencies)
    z = x + sigma * normal_like(x, generator)
    numbers = z.reshape(-1, 1)
    log_h = independent.log_density(numbers, numbers.new_full((len(numbers),), sigma)).view_as(x)
    found = density(z)
    gain = (frequencies.log()[rows] - log_h).flatten(1).sum(1)
    return LogDensity(found.value + gain.to(found.value), found.error)
