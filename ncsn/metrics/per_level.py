"""Losses for each noise level, beside the smallest that can be had."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from ncsn.noise import Generator, ScoreFunction, expand_as, perturb

__all__ = ["MeanPerLevel", "losses_per_level"]


class MeanPerLevel(Metric):
    """The mean of a quantity at each noise level, over all batches and ranks.

    Args:
        num_levels: Number of noise levels T.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(num_levels), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(num_levels), dist_reduce_fx="sum")

    def update(self, levels: Tensor, values: Tensor) -> None:
        """Add values.

        Args:
            levels: Index of the noise level of each value, shape ``(batch,)``.
            values: Shape ``(batch,)``.
        """
        self.total.index_add_(0, levels, values.to(self.total.dtype))
        self.count.index_add_(0, levels, torch.ones_like(values, dtype=self.count.dtype))

    def compute(self) -> Tensor:
        """The means, shape ``(num_levels,)``; NaN at a level that no example had."""
        return self.total / self.count


@torch.no_grad()
def losses_per_level(
    score: ScoreFunction,
    references: Mapping[str, ScoreFunction],
    x: Tensor,
    noise_levels: Tensor,
    generator: Generator = None,
) -> Iterator[dict[str, float]]:
    """The denoising loss per dimension, ‖σs + z‖² / D, of a score and of others, level by level.

    All see the same noise. The loss of the exact score s* is the smallest there is. The excess
    over it, the Fisher divergence times σ², is estimated without the noise of the losses, as::

        E ‖σs + z‖² − E ‖σs* + z‖² = σ² E ‖s − s*‖².

    Args:
        score: The score function.
        references: Others by name; the excess over the one named ``exact`` is computed.
        x: Clean data, shape ``(n, *event)``, which is noised at each level.
        noise_levels: Shape ``(num_levels,)``.
        generator: Source of the noise.

    Yields:
        For each level ``sigma``, ``loss`` and ``loss_standard_error``, the loss of each reference
        under its name, and ``excess`` with ``excess_standard_error`` if there is an exact one.
    """
    for level in noise_levels:
        sigma = level.expand(len(x))
        x_sigma, z = perturb(x, sigma, generator)
        noise = expand_as(sigma, x)
        scaled = {name: noise * s(x_sigma, sigma) for name, s in references.items()}
        ours = noise * score(x_sigma, sigma)
        row = {"sigma": level.item(), **_mean("loss", ours + z)}
        row |= {name: (each + z).square().mean().item() for name, each in scaled.items()}
        if "exact" in scaled:
            row |= _mean("excess", ours - scaled["exact"])
        yield row


def _mean(name: str, residual: Tensor) -> dict[str, float]:
    """The mean square per dimension, and its standard error over examples."""
    squares = residual.double().square().flatten(1).mean(1)
    error = squares.std() / len(squares) ** 0.5
    return {name: squares.mean().item(), f"{name}_standard_error": error.item()}
