"""Embeddings of the noise level."""

import math

import torch
from torch import Tensor, nn

__all__ = ["NoiseLevelEmbedding", "NoiseLevelTable"]


class NoiseLevelTable(nn.Module):
    """One learned vector for each level of a geometric ladder, linear in log sigma between levels.

    This is the conditioning of the reference network: on the ladder it is a plain
    ``nn.Embedding``; between two levels it interpolates, and outside it keeps the nearest one, so
    that samplers may use other levels than training did.

    Args:
        dim: Size of a vector.
        num_levels: T >= 1.
        sigma_min: Smallest level of the ladder.
        sigma_max: Largest level of the ladder, which has row 0.
    """

    def __init__(self, dim: int, num_levels: int, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.table = nn.Embedding(num_levels, dim)
        self.log_sigma_max = math.log(sigma_max)
        self.levels_per_log_sigma = (num_levels - 1) / max(math.log(sigma_max / sigma_min), 1e-12)

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed ``sigma`` of shape ``(batch,)``; returns ``(batch, dim)``."""
        position = (self.log_sigma_max - sigma.log()) * self.levels_per_log_sigma
        position = position.clamp(0, self.table.num_embeddings - 1)
        row = position.floor().long().clamp(max=max(self.table.num_embeddings - 2, 0))
        next_row = (row + 1).clamp(max=self.table.num_embeddings - 1)
        return torch.lerp(self.table(row), self.table(next_row), (position - row)[:, None])


class NoiseLevelEmbedding(nn.Module):
    r"""Sines and cosines of :math:`\log \sigma`, followed by a small MLP.

    The frequencies are fixed, in geometric progression from 1/8 to 8, so that the embedding is
    smooth over several decades of sigma and still tells neighbouring levels apart.

    Source:
        Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions"
        (arXiv 2006.10739); used on log sigma by Song et al. 2021 (arXiv 2011.13456).

    Args:
        dim: Size of the embedding, even.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer(
            "frequencies", torch.logspace(-3, 3, dim // 2, base=2.0), persistent=False
        )
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed ``sigma`` of shape ``(batch,)``; returns ``(batch, dim)``."""
        angles = sigma.log()[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))
