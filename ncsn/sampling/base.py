"""What every sampler has in common: a prior, and a way from it to the data."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, TypeAlias

from torch import Tensor

from ncsn.noise import Generator, normal_like, uniform_like
from ncsn.objectives import ScoreFunction

__all__ = ["Monitor", "Sampler", "tweedie"]

Monitor: TypeAlias = Callable[[float, Tensor], None]
"""Called as ``monitor(sigma, x)`` after each network evaluation, for progress bars and pictures.

``x`` is never written to again, so it may be kept without a copy.
"""


def tweedie(score: ScoreFunction, x: Tensor, sigma: float) -> Tensor:
    r"""The posterior mean :math:`\mathbb E[x_0 | x] = x + \sigma^2 s(x, \sigma)`.

    Source:
        Tweedie's formula (Robbins 1956; Efron 2011). As the last step of a sampler it removes
        the noise that Langevin dynamics leaves: Jolicoeur-Martineau et al. 2020
        (arXiv 2009.05475), section 3.1.
    """
    return x + sigma**2 * score(x, x.new_full((len(x),), sigma))


class Sampler(ABC):
    """A map from prior noise to samples.

    Args:
        prior: Where to start: ``"normal"`` for N(0, sigma_max² I), ``"uniform"`` for U[-1, 1].
    """

    def __init__(self, prior: Literal["normal", "uniform"] = "normal") -> None:
        if prior not in ("normal", "uniform"):
            raise ValueError(f"prior must be 'normal' or 'uniform', got {prior!r}")
        self.prior = prior

    def initial(self, x: Tensor, noise_levels: Tensor, generator: Generator = None) -> Tensor:
        """Draw the starting points: a tensor of the shape, dtype and device of ``x``."""
        if self.prior == "uniform":
            return uniform_like(x, generator)
        return noise_levels[0] * normal_like(x, generator)

    @abstractmethod
    def num_evaluations(self, num_levels: int) -> int:
        """How often the network is evaluated for one batch of samples (NFE)."""

    @abstractmethod
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
