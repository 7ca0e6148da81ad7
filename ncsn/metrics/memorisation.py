"""Are samples copies of training examples?"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Neighbours", "memorisation_rate", "nearest_neighbours"]

PAIRS_AT_A_TIME = 2**24


class Neighbours(NamedTuple):
    """The nearest examples of a data set.

    Attributes:
        distances: Euclidean distances, shape ``(n, k)``, ascending.
        indices: Where in the data set, shape ``(n, k)``.
    """

    distances: Tensor
    indices: Tensor


def nearest_neighbours(x: Tensor, data: Tensor, k: int = 2) -> Neighbours:
    """The k nearest examples of each of ``x``, in bounded memory.

    Args:
        x: Shape ``(n, *event)``.
        data: Shape ``(m, *event)``, m >= k.
        k: Number of neighbours.
    """
    examples = data.flatten(1)
    parts = x.flatten(1).split(max(1, PAIRS_AT_A_TIME // len(data)))
    found = [torch.cdist(part, examples).topk(k, largest=False) for part in parts]
    return Neighbours(torch.cat([d for d, _ in found]), torch.cat([i for _, i in found]))


def memorisation_rate(distances: Tensor) -> float:
    """The share of samples that are copies of a training example.

    They are less than a third as far from the nearest one as from the second nearest.

    Source:
        Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize".

    Args:
        distances: Distances to the two nearest training examples, shape ``(n, 2)``.
    """
    return (distances[:, 0] < distances[:, 1] / 3).float().mean().item()
