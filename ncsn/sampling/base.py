"""What every sampler has in common: a prior, a way down the noise levels, and a last step.

A sampler starts from noise of the largest level and ends with a Tweedie step, which replaces the
last state by the mean of the clean data that it may come from::

    E[x_0 | x] = x + σ_min² s(x, σ_min).

It removes the noise of level σ_min that would otherwise stay in the samples, and matters more
than it seems to (Robbins 1956; Efron 2011; Jolicoeur-Martineau et al. 2020, arXiv 2009.05475).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import Tensor

from ncsn.noise import (
    Generator,
    ScoreFunction,
    geometric_noise_levels,
    normal_like,
    uniform_like,
)

__all__ = ["LadderSampler", "LevelScore", "Monitor", "Sampler", "Sigmas"]

Monitor: TypeAlias = Callable[[float, Tensor], None]
"""Called as ``monitor(sigma, x)`` after each network evaluation, for progress bars, pictures and
trajectories: ``lambda sigma, x: trajectory.append(x)``. ``x`` is never written to again, so it may
be kept without a copy."""

LevelScore: TypeAlias = Callable[[Tensor, float], Tensor]
"""``score(x, sigma)`` with one noise level for the whole batch."""

Sigmas: TypeAlias = list[float]
"""The noise levels that a sampler visits, descending."""


class Sampler(ABC):
    """A map from prior noise to samples.

    Args:
        prior: Where to start: ``"normal"`` for N(0, σ_max² I), ``"uniform"`` for U[-1, 1].
        denoise: Whether to end with a Tweedie step.
    """

    def __init__(
        self, prior: Literal["normal", "uniform"] = "normal", denoise: bool = True
    ) -> None:
        if prior not in ("normal", "uniform"):
            raise ValueError(f"prior must be 'normal' or 'uniform', got {prior!r}")
        self.prior, self.denoise = prior, denoise

    @abstractmethod
    def run(
        self, score: LevelScore, x: Tensor, sigmas: Sigmas, generator: Generator, monitor: Monitor
    ) -> Tensor:
        """The algorithm: take the states ``x`` from ``sigmas[0]`` to ``sigmas[-1]``."""

    def __str__(self) -> str:
        args = {k: v for k, v in vars(self).items() if isinstance(v, str | float | int | None)}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in args.items())})"

    @abstractmethod
    def run_evaluations(self, num_levels: int) -> int:
        """How often :meth:`run` evaluates the network."""

    def num_evaluations(self, num_levels: int) -> int:
        """How often the network is evaluated for one batch of samples (NFE)."""
        return self.run_evaluations(num_levels) + self.denoise

    def initial(self, x: Tensor, noise_levels: Tensor, generator: Generator = None) -> Tensor:
        """Draw the starting points: a tensor of the shape, dtype and device of ``x``."""
        if self.prior == "uniform":
            return uniform_like(x, generator)
        return noise_levels[0] * normal_like(x, generator)

    def ladder(self, noise_levels: Tensor) -> list[float]:
        """The levels that the sampler visits, descending; by default, all of them.

        Raises:
            ValueError: If the sampler cannot go down this ladder.
        """
        return noise_levels.tolist()

    def __call__(
        self,
        score: ScoreFunction,
        x: Tensor,
        noise_levels: Tensor,
        generator: Generator = None,
        monitor: Monitor | None = None,
    ) -> Tensor:
        """Turn starting points into samples.

        Args:
            score: The score function.
            x: Starting points, shape ``(batch, *event)``; see :meth:`initial`.
            noise_levels: The ladder, shape ``(num_levels,)``, descending.
            generator: Source of the noise.
            monitor: Called after each network evaluation.

        Returns:
            Samples, of the shape of ``x``.
        """
        monitor = monitor or (lambda sigma, x: None)
        sigmas = self.ladder(noise_levels)

        def level_score(x: Tensor, sigma: float) -> Tensor:
            return score(x, x.new_full((len(x),), sigma))

        x = self.run(level_score, x, sigmas, generator, monitor)
        if self.denoise:
            x = x + sigmas[-1] ** 2 * level_score(x, sigmas[-1])
            monitor(sigmas[-1], x)
        return x


class LadderSampler(Sampler):
    """A sampler that moves from level to level, on a ladder that need not be that of training.

    Args:
        num_steps: Number of noise levels, in geometric progression from σ_max to σ_min, at least
            2; ``None`` for those of training. With the Tweedie step, it is the number of steps
            from σ_max to 0.
        denoise: Whether to end with a Tweedie step.

    Raises:
        ValueError: If ``num_steps`` is below 2.
    """

    def __init__(self, num_steps: int | None = None, denoise: bool = True) -> None:
        super().__init__("normal", denoise)
        if num_steps is not None and num_steps < 2:
            raise ValueError(
                f"{type(self).__name__} needs num_steps of at least 2, got {num_steps}"
            )
        self.num_steps = num_steps

    def ladder(self, noise_levels: Tensor) -> list[float]:
        """The noise levels that the sampler visits.

        Raises:
            ValueError: If there is only one noise level.
        """
        sigma_max, sigma_min = noise_levels[0].item(), noise_levels[-1].item()
        if sigma_max == sigma_min:
            raise ValueError(
                f"{type(self).__name__} goes from level to level, but the model has one, "
                f"{sigma_max:.4g}: use Langevin"
            )
        if self.num_steps is None:
            return noise_levels.tolist()
        return geometric_noise_levels(sigma_max, sigma_min, self.num_steps).tolist()

    def run_evaluations(self, num_levels: int) -> int:
        """One for each step between two levels."""
        return (self.num_steps or num_levels) - 1
