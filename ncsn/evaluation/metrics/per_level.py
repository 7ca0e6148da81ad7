"""Losses at each noise level, and those of reference scores."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torchmetrics import Metric

from ncsn.levels import ScoreFunction, expand_as, perturb
from ncsn.random import Generator, Stream, seeded_generator


class MeanPerLevel(Metric):
    """The mean of a quantity at each of ``num_levels`` levels, over all batches and ranks."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(num_levels), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(num_levels), dist_reduce_fx="sum")

    def update(self, levels: Tensor, values: Tensor) -> None:
        """Add values at the levels with the given indices, both of shape ``(batch,)``."""
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
) -> Iterator[dict[str, Any]]:
    """The denoising loss per dimension, ‖σs + z‖² / D, of a score and of others, level by level.

    All see the same noise. The loss of the exact score s* is the smallest possible. The excess
    over it, the Fisher divergence times σ², is estimated without the noise of the losses, as::

        E ‖σs + z‖² − E ‖σs* + z‖² = σ² E ‖s − s*‖².

    Args:
        score: The score function.
        references: Others by name; the excess over the one named ``exact`` is computed.
        x: Clean data, shape ``(n, *event)``, which is noised at each level.
        noise_levels: Shape ``(num_levels,)``.
        generator: Source of the noise.

    Yields:
        For each level ``sigma``, ``loss`` and ``loss_standard_error``, and the loss of each
        reference under its name. With an exact one, also ``excess``, ``excess_standard_error``,
        and ``excesses`` of the examples, shape ``(n,)``.
    """
    for level in noise_levels:
        sigma = level.expand(len(x))
        x_sigma, z = perturb(x, sigma, generator)
        noise = expand_as(sigma, x)
        scaled = {name: noise * s(x_sigma, sigma) for name, s in references.items()}
        ours = noise * score(x_sigma, sigma)
        row = {"sigma": level.item(), **_mean("loss", _squares(ours + z))}
        row |= {name: (each + z).square().mean().item() for name, each in scaled.items()}
        if "exact" in scaled:
            excesses = _squares(ours - scaled["exact"])
            row |= {**_mean("excess", excesses), "excesses": excesses}
        yield row


def measure_levels(
    score: ScoreFunction, references: Mapping[str, ScoreFunction], x: Tensor, noise_levels: Tensor
) -> tuple[list[dict[str, float]], Tensor | None]:
    """The rows of :func:`losses_per_level`, always with the same noise, and a progress bar.

    Also returns the mean excess over the levels of each example, shape ``(n,)``: the levels share
    their examples, so the standard errors in the rows are not independent.
    """
    generator = seeded_generator(Stream.LEVELS, device=x.device)
    found = losses_per_level(score, references, x, noise_levels, generator)
    rows = list(track(found, "Losses", total=len(noise_levels)))
    excesses = [row.pop("excesses") for row in rows if "excesses" in row]
    return rows, torch.stack(excesses).mean(0) if excesses else None


def _squares(residual: Tensor) -> Tensor:
    """The mean square per dimension of each example."""
    return residual.double().square().flatten(1).mean(1)


def _mean(name: str, values: Tensor) -> dict[str, float]:
    error = values.std() / len(values) ** 0.5
    return {name: values.mean().item(), f"{name}_standard_error": error.item()}
