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
    """The k nearest in ``data``, ``(m, *event)``, of each of ``x``, ``(n, *event)``.

    Examples that are twice in the data count once: what is nearest is then not also the second
    nearest.

    Raises:
        ValueError: If there are fewer than k different examples.
    """
    different, group = data.flatten(1).unique(dim=0, return_inverse=True)
    if len(different) < k:
        raise ValueError(f"the data has {len(different)} different examples, but {k} are needed")
    members = torch.arange(len(data), device=data.device)
    index = group.new_empty(len(different)).scatter_(0, group, members)
    x, different = x.flatten(1).float(), different.float()
    found = [
        torch.cdist(part, different).topk(k, largest=False) for part in in_parts(x, different)
    ]
    return Neighbours(torch.cat([d for d, _ in found]), index[torch.cat([i for _, i in found])])


def memorisation_rate(distances: Tensor) -> float:
    """The share of samples less than a third as far from the nearest example as from the second.

    ``distances`` to these two have shape ``(n, 2)``.

    Source: Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to
    Memorize".
    """
    return (distances[:, 0] < distances[:, 1] / 3).float().mean().item()
