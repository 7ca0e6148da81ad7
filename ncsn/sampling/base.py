"""The loop that all samplers share.

A sampler starts from noise, takes one step after another along a sequence of levels that never
rises, and ends with a Tweedie step. That last step replaces the state by the mean of
the clean data that it may come from::

    E[x_0 | x] = x + σ_min² s(x, σ_min).

It removes the noise of level σ_min that the samples would otherwise keep (Robbins 1956; Efron
2011; Jolicoeur-Martineau et al. 2020, arXiv 2009.05475). Where σ_min is comparable to the noise τ
of the data itself, it shrinks too much: a variance of τ² becomes τ⁴ / (τ² + σ_min²). So it is on
by default where a ladder goes down, and off in :class:`ncsn.sampling.Langevin` at one level.

A sampler of your own is one method::

    class MySampler(LadderSampler):
        def step(self, score, x, sigma, sigma_next, generator):
            denoised = x + sigma**2 * score(x, sigma)
            return denoised + sigma_next * normal_like(x, generator)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from itertools import pairwise
from typing import Literal, TypeAlias

from torch import Tensor

from ncsn.config import Configured
from ncsn.levels import Ladder, ScoreFunction, descend, geometric
from ncsn.random import Generator, normal_like, uniform_like

Monitor: TypeAlias = Callable[[float, Tensor], None]
"""Called as ``monitor(sigma, x)`` after each step, for progress bars, pictures and trajectories:
``lambda sigma, x: trajectory.append(x)``. ``x`` is at noise level ``sigma``, or denoised by the
Tweedie step, and is never written to again, so it may be kept without a copy."""

LevelScore: TypeAlias = Callable[[Tensor, float], Tensor]
"""``score(x, sigma)`` with one noise level for the whole batch."""


class Sampler(Configured, ABC):
    """A map from prior noise to samples, one :meth:`step` at a time.

    Args:
        prior: Where to start: ``"normal"`` for N(0, σ_max² I), ``"uniform"`` for U[-1, 1].
        denoise: Whether to end with a Tweedie step; the module's docstring says where not to.

    Attributes:
        num_evaluations: Network evaluations of the last call, as counted.
        acceptance: Acceptance rate of the last call by noise level, as scalars on the samples'
            device; empty for samplers without a Metropolis step.

    Raises:
        ValueError: Here and in all samplers, if a value is outside its domain.
    """

    num_evaluations = 0

    def __init__(
        self, prior: Literal["normal", "uniform"] = "normal", denoise: bool = True
    ) -> None:
        if prior not in ("normal", "uniform"):
            raise ValueError(f"prior must be 'normal' or 'uniform', got {prior!r}")
        self.prior, self.denoise = prior, denoise
        self.acceptance: dict[float, Tensor] = {}

    @abstractmethod
    def step(
        self, score: LevelScore, x: Tensor, sigma: float, sigma_next: float, generator: Generator
    ) -> Tensor:
        """Take the states ``x`` from noise level ``sigma`` to ``sigma_next``.

        Called on a copy of the sampler, after :meth:`path`, so both may keep state on ``self``.
        """

    def path(self, noise_levels: Tensor) -> list[float]:
        """The levels between which the steps go: one more than there are steps.

        Raises:
            ValueError: If the sampler cannot descend this ladder.
        """
        return noise_levels.tolist()

    def initial(self, x: Tensor, noise_levels: Tensor, generator: Generator = None) -> Tensor:
        """Draw the starting points: a tensor of the shape, dtype and device of ``x``."""
        if self.prior == "uniform":
            return uniform_like(x, generator)
        return noise_levels[0] * normal_like(x, generator)

    def auto_values(self, noise_levels: Tensor) -> dict[str, float]:
        """The values that arguments set to ``"auto"`` take on a ladder, by name."""
        return {}

    def num_steps_on(self, noise_levels: Tensor) -> int:
        """How often a call reports to the monitor: once a step, the Tweedie step included."""
        return len(self.path(noise_levels)) - 1 + self.denoise

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
            monitor: Called after each step.

        Returns:
            Samples, of the shape of ``x``.
        """
        monitor = monitor or (lambda sigma, x: None)
        run = copy(self)  # what a multistep method remembers belongs to one call
        run.num_evaluations, run.acceptance = 0, {}

        def level_score(x: Tensor, sigma: float) -> Tensor:
            run.num_evaluations += 1
            return score(x, x.new_full((len(x),), sigma))

        path = run.path(noise_levels)
        for sigma, sigma_next in pairwise(path):
            x = run.step(level_score, x, sigma, sigma_next, generator)
            monitor(sigma_next, x)
        if self.denoise:
            x = x + path[-1] ** 2 * level_score(x, path[-1])
            monitor(path[-1], x)
        self.num_evaluations, self.acceptance = run.num_evaluations, run.acceptance
        return x

    def __str__(self) -> str:
        measured = ("num_evaluations", "acceptance")
        args = {k: v for k, v in vars(self).items() if k not in measured and k[0] != "_"}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in args.items())})"


class LadderSampler(Sampler):
    """A sampler that moves from level to level, on a ladder that need not be that of training.

    Args:
        num_steps: Number of noise levels from σ_max to σ_min, at least 2; by default, as many as
            in training. With the Tweedie step, it is the number of steps from σ_max to 0.
        denoise: Whether to end with a Tweedie step.
        ladder: How the levels descend; by default, those of training or, if ``num_steps`` is
            given, in geometric progression.
    """

    def __init__(
        self, num_steps: int | None = None, denoise: bool = True, ladder: Ladder | None = None
    ) -> None:
        super().__init__("normal", denoise)
        if num_steps is not None and num_steps < 2:
            raise ValueError(
                f"{type(self).__name__} needs num_steps of at least 2, got {num_steps}"
            )
        self.num_steps, self.ladder = num_steps, ladder

    def path(self, noise_levels: Tensor) -> list[float]:
        """See :meth:`Sampler.path`; a ladder of one level is refused."""
        sigma_max, sigma_min = noise_levels[0].item(), noise_levels[-1].item()
        if sigma_max == sigma_min:
            raise ValueError(
                f"{type(self).__name__} goes from level to level, but the model has one, "
                f"{sigma_max:.4g}: use Langevin (model.sampler)"
            )
        if self.num_steps is None and self.ladder is None:
            return noise_levels.tolist()
        num_steps = self.num_steps or len(noise_levels)
        return descend(self.ladder or geometric, sigma_max, sigma_min, num_steps).tolist()
