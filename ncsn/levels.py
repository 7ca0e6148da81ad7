"""Noise levels, how they descend, and the perturbation of data.

A score network is trained on data perturbed at several *noise levels* (Song & Ermon 2019, arXiv
1907.05600)::

    x_σ = x + σ z,    z ~ N(0, I).

The levels form a *ladder* that descends from σ_max to σ_min, in the order in which annealed
sampling visits them. A ladder is any callable ``ladder(sigma_max, sigma_min, num_levels)`` that
returns the levels: :func:`geometric`, :class:`Rho`, :class:`Listed` or a function of your own.

How to choose the ends of the ladder is the subject of Song & Ermon 2020, "Improved Techniques for
Training Score-Based Generative Models" (NCSNv2, arXiv 2006.09011), whose techniques 1, 2 and 4 are
:func:`largest_distance`, :func:`noise_level_ratio` and :func:`langevin_step_size`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ncsn.config import Configured
from ncsn.random import Generator, normal_like

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Called as ``score(x, sigma)``, of shapes ``(batch, *event)`` and ``(batch,)``."""

SMALLEST, LARGEST = 1e-15, 1e15
"""Noise levels lie between these, so that float32 holds their squares."""

Ladder: TypeAlias = Callable[[float, float, int], Any]
"""Called as ``ladder(sigma_max, sigma_min, num_levels)``; returns them descending, float32."""


def geometric(sigma_max: float, sigma_min: float, num_levels: int) -> Tensor:
    """Levels in geometric progression, σ_i = σ_max (σ_min / σ_max)^{i / (T − 1)}, i < T.

    Source: Song & Ermon 2019 (arXiv 1907.05600), section 4.1.

    Args:
        sigma_max: The largest level, > 0, in the units of the data.
        sigma_min: The smallest level, 0 < sigma_min <= sigma_max; equal to it for one level.
        num_levels: T >= 1.

    Returns:
        The levels, shape ``(num_levels,)``, float32, descending.

    Raises:
        ValueError: If a value is outside its domain.
    """
    _check_ends(sigma_max, sigma_min, num_levels)
    ends = math.log(sigma_max), math.log(sigma_min)
    return torch.linspace(*ends, num_levels, dtype=torch.float64).exp().float()


class Rho(Configured):
    """Levels in even steps of σ^{1/ρ}: linear at ρ = 1, geometric in the limit ρ → ∞.

    ::

        σ_i = (σ_max^{1/ρ} + i/(T − 1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ.

    Source: Karras et al. 2022 (arXiv 2206.00364), equation 5, with ρ = 7.

    Args:
        rho: ρ > 0.
    """

    def __init__(self, rho: float = 7.0) -> None:
        if not 0 < rho < math.inf:
            raise ValueError(f"rho must be a positive number, got {rho}")
        self.rho = rho

    def __call__(self, sigma_max: float, sigma_min: float, num_levels: int) -> Tensor:
        """See :func:`geometric`."""
        _check_ends(sigma_max, sigma_min, num_levels)
        ends = sigma_max ** (1 / self.rho), sigma_min ** (1 / self.rho)
        return (torch.linspace(*ends, num_levels, dtype=torch.float64) ** self.rho).float()

    def __repr__(self) -> str:
        return f"Rho({self.rho:g})"


class Listed(Configured):
    """The levels of a list, such as :func:`ncsn.sampling.fit_ladder` finds for a model.

    Args:
        levels: The levels, descending, in the units of the data.
    """

    def __init__(self, levels: list[float]) -> None:
        self.levels = list(levels)

    def __call__(self, sigma_max: float, sigma_min: float, num_levels: int) -> Tensor:
        """See :func:`geometric`.

        Raises:
            ValueError: If the list has another number of levels, or other ends.
        """
        _check_ends(sigma_max, sigma_min, num_levels)
        if len(self.levels) != num_levels:
            raise ValueError(
                f"the ladder lists {len(self.levels)} noise levels, and {num_levels} are wanted: "
                f"set num_steps={len(self.levels)}, or num_levels if it is a model's"
            )
        first, last = ends = self.levels[0], self.levels[-1]
        if any(abs(a / b - 1) > 1e-3 for a, b in zip(ends, (sigma_max, sigma_min), strict=True)):
            raise ValueError(
                f"the ladder lists levels from {first:.4g} to {last:.4g}, and the model has "
                f"{sigma_max:.4g} to {sigma_min:.4g}: fit one to this model, or leave ladder out"
            )
        levels = [sigma_max, *self.levels[1:-1], sigma_min][:num_levels]
        return torch.tensor(levels, dtype=torch.float32)  # not the default, which may be a half

    def __repr__(self) -> str:
        return f"Listed({[float(f'{level:.4g}') for level in self.levels]})"


def descend(ladder: Ladder, sigma_max: float, sigma_min: float, num_levels: int) -> Tensor:
    """The levels of a ladder, after a check that they are levels.

    Raises:
        ValueError: If they are not a tensor of ``num_levels`` descending numbers between
            ``SMALLEST`` and ``LARGEST``.
    """
    levels = ladder(sigma_max, sigma_min, num_levels)
    valid = isinstance(levels, Tensor) and levels.shape == (num_levels,)
    if not (valid and all(0 < low < high for high, low in pairwise([math.inf, *levels.tolist()]))):
        name = getattr(ladder, "__name__", repr(ladder))
        raise ValueError(f"{name} must return {num_levels} descending noise levels, got {levels}")
    _check_ends(levels[0].item(), levels[-1].item(), num_levels)
    return levels.float()


def log_normal_probabilities(noise_levels: Tensor, mean: float, std: float) -> Tensor:
    """Probabilities of the levels in proportion to a normal density of ln σ.

    The spacing of the levels does not count, so ln σ has that density on geometric ladders alone.

    Source: Karras et al. 2022 (arXiv 2206.00364), table 1 (the training distribution).

    Args:
        noise_levels: The ladder, shape ``(num_levels,)``.
        mean: Mean of ln σ.
        std: Standard deviation of ln σ, > 0.
    """
    return torch.distributions.Normal(mean, std).log_prob(noise_levels.log()).softmax(dim=0)


def spread_order(num_levels: int) -> Tensor:
    """The level indices, ordered so that the first few always cover the whole ladder.

    The order is that of the golden-ratio (Kronecker) sequence, a low-discrepancy sequence.
    """
    multiples = torch.arange(num_levels, dtype=torch.float64) * ((math.sqrt(5) - 1) / 2) % 1
    return multiples.argsort().argsort()


def _check_ends(sigma_max: float, sigma_min: float, num_levels: int) -> None:
    if num_levels is None or num_levels < 1:  # null in a config
        raise ValueError(f"num_levels must be at least 1, got {num_levels}")
    ends = sigma_min, sigma_max
    if None in ends or not SMALLEST <= sigma_min <= sigma_max <= LARGEST:
        raise ValueError(
            f"noise levels need {SMALLEST:g} <= sigma_min <= sigma_max <= {LARGEST:g}, "
            f"got sigma_min={sigma_min} and sigma_max={sigma_max}"
        )
    if num_levels == 1 and sigma_min != sigma_max:
        raise ValueError(
            f"one noise level cannot span sigma_min={sigma_min} to sigma_max={sigma_max}: "
            "make them equal or raise num_levels"
        )


def largest_distance(x: Tensor) -> float:
    """NCSNv2's technique 1: σ_max as the largest distance between two examples.

    Noise of this level lets a sample move from any example to any other.

    Args:
        x: Examples, shape ``(n, *event)``, n >= 2. The cost is that of n² / 2 distances.
    """
    x = x.flatten(1)
    x = x - x.mean(0)  # far from 0, differences of squares would cancel
    starts = range(0, len(x), 1024)
    return max(torch.cdist(x[i : i + 1024], x[i:]).max().item() for i in starts)


def noise_level_ratio(dim: int) -> float:
    """NCSNv2's technique 2: the ratio γ = σ_{i−1} / σ_i of neighbouring noise levels.

    In D dimensions, noise of level σ lies in a thin shell of radius √D σ. γ is chosen so that half
    of the shell of one level lies within three standard deviations of the next::

        Φ(√(2D) (γ − 1) + 3γ) − Φ(√(2D) (γ − 1) − 3γ) = 1/2.

    Args:
        dim: The dimension D, at least 5: below, the shells overlap whatever the ratio.

    Returns:
        γ > 1: 1.08 for D = 784.

    Raises:
        ValueError: If ``dim`` is below 5.
    """
    if dim < 5:
        raise ValueError(
            f"NCSNv2's technique 2 has no answer in {dim} dimensions, only from 5 on: "
            "give num_levels as a number"
        )
    from scipy.optimize import brentq
    from scipy.stats import norm

    def excess_overlap(gamma: float) -> float:
        shift = math.sqrt(2 * dim) * (gamma - 1)
        return norm.cdf(shift + 3 * gamma) - norm.cdf(shift - 3 * gamma) - 0.5

    return brentq(excess_overlap, 1.0, 100.0)


def langevin_step_size(noise_levels: Sequence[float], steps_per_level: int) -> float:
    """NCSNv2's technique 4: the relative step size a = η / 2σ² of annealed Langevin dynamics.

    If samples at level σ_{i−1} have the right variance for one data point, then after T steps at
    the next level their variance is, relative to σ_i² and with γ = σ_{i−1} / σ_i (proposition 3)::

        (1 − a)^{2T} (γ² − 2 / (2 − a)) + 2 / (2 − a),

    and a is chosen to make this as close to 1 as it can be, which is from above. (The paper writes
    ε / σ_min² for a, and 2a / (1 − (1 − a)²) for 2 / (2 − a).)

    Args:
        noise_levels: The ladder, descending, in geometric progression.
        steps_per_level: T, the number of Langevin steps at each noise level.

    Returns:
        a in (0, 1): 0.062 for 232 levels from 50 to 0.01 and 5 steps (CIFAR-10).

    Raises:
        ValueError: If there is only one noise level.
    """
    if len(noise_levels) < 2:
        raise ValueError("NCSNv2's technique 4 needs two noise levels: give epsilon as a number")
    from scipy.optimize import minimize_scalar

    gamma = (noise_levels[0] / noise_levels[-1]) ** (1 / (len(noise_levels) - 1))

    def relative_variance(a: float) -> float:
        limit = 2 / (2 - a)
        return (1 - a) ** (2 * steps_per_level) * (gamma**2 - limit) + limit

    return float(minimize_scalar(relative_variance, bounds=(0, 1), method="bounded").x)


def expand_as(sigma: Tensor, x: Tensor) -> Tensor:
    """Reshape ``sigma`` of shape ``(batch,)`` so that it broadcasts over ``x``."""
    return sigma.view(-1, *[1] * (x.ndim - 1))


def perturb(x: Tensor, sigma: Tensor, generator: Generator = None) -> tuple[Tensor, Tensor]:
    """Draw from the perturbation kernel q(x_σ | x) = N(x, σ² I).

    Args:
        x: Clean data, shape ``(batch, *event)``.
        sigma: Noise level of each example, shape ``(batch,)``, > 0.
        generator: Source of the noise.

    Returns:
        ``(x_sigma, z)``, both of the shape of ``x``, with ``x_sigma = x + sigma * z``.
    """
    z = normal_like(x, generator)
    return x + expand_as(sigma, x) * z, z
