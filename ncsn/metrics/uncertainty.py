"""How far a metric of samples may be from what infinitely many draws of them would give."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Scores", "standard_errors"]

Scores: TypeAlias = dict[str, float]


def standard_errors(
    statistic: Callable[..., Scores], *samples: Tensor, num_halves: int = 20
) -> Scores:
    """Standard errors of statistics of independent samples: the delete-half jackknife.

    The statistics are computed on random halves of the samples. A half of n examples, drawn
    without replacement, varies around the whole as much as the whole does around the truth::

        Var(mean of a half | whole) = (1 − 1/2) σ² / (n/2) = σ²/n = Var(mean of the whole),

    so the standard deviation over halves is the standard error of the whole. Unlike the bootstrap
    it repeats no example, which nearest neighbours would not forgive.

    Source:
        Shao & Wu 1989, "A General Theory for Jackknife Variance Estimation".

    Args:
        statistic: Called with a half of each sample.
        samples: Each of shape ``(n, ...)``; the global random state is left alone.
        num_halves: Number of halves; the errors are known to about 1 / √(2 · num_halves).
    """
    generator = torch.Generator().manual_seed(0)

    def half(sample: Tensor) -> Tensor:
        rows = torch.randperm(len(sample), generator=generator)[: len(sample) // 2]
        return sample[rows.to(sample.device)]

    scores = [statistic(*map(half, samples)) for _ in range(num_halves)]
    return {
        name: torch.tensor([score[name] for score in scores], dtype=torch.float64).std().item()
        for name in scores[0]
    }
