"""Are samples copies of training examples?"""

from typing import NamedTuple

import torch
from torch import Tensor

from ncsn.evaluation.metrics.distances import in_parts


class Neighbours(NamedTuple):
    """Euclidean distances of the nearest examples, ascending, and their indices, ``(n, k)``."""

    distances: Tensor
    indices: Tensor


def nearest_neighbours(x: Tensor, data: Tensor, k: int = 2) -> Neighbours:
    """The k nearest in ``data``, ``(m, *event)``, m >= k, of each of ``x``, ``(n, *event)``."""
    x, data = x.flatten(1), data.flatten(1)
    found = [torch.cdist(part, data).topk(k, largest=False) for part in in_parts(x, data)]
    return Neighbours(torch.cat([d for d, _ in found]), torch.cat([i for _, i in found]))


def memorisation_rate(distances: Tensor) -> float:
    """The share of samples less than a third as far from the nearest example as from the second.

    ``distances`` to these two have shape ``(n, 2)``.

    Source: Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to
    Memorize".
    """
    return (distances[:, 0] < distances[:, 1] / 3).float().mean().item()
