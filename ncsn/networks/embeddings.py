"""Embeddings of the noise level and of the class."""

import math

import torch
from torch import Tensor, nn

__all__ = ["ClassEmbedding", "NoiseLevelEmbedding", "NoiseLevelTable"]


class NoiseLevelTable(nn.Module):
    """One learned vector for each level of a geometric ladder, linear in log sigma between levels.

    This is the conditioning of the reference network: on the ladder it is a plain
    ``nn.Embedding``; between two levels it interpolates, and outside it keeps the nearest one, so
    that samplers may use other levels than training did.

    Args:
        dim: Size of a vector.
        noise_levels: The ladder, shape ``(num_levels,)``, descending; its first level has row 0.
    """

    def __init__(self, dim: int, noise_levels: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding(len(noise_levels), dim)
        sigma_max, sigma_min = noise_levels[0].item(), noise_levels[-1].item()
        span = max(math.log(sigma_max / sigma_min), 1e-12)
        self.log_sigma_max = math.log(sigma_max)
        self.levels_per_log_sigma = (len(noise_levels) - 1) / span

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed ``sigma`` of shape ``(batch,)``; returns ``(batch, dim)``."""
        position = (self.log_sigma_max - sigma.log()) * self.levels_per_log_sigma
        position = position.clamp(0, self.table.num_embeddings - 1)
        row = position.floor().long().clamp(max=max(self.table.num_embeddings - 2, 0))
        next_row = (row + 1).clamp(max=self.table.num_embeddings - 1)
        return torch.lerp(self.table(row), self.table(next_row), (position - row)[:, None])


class NoiseLevelEmbedding(nn.Module):
    """Sines and cosines of log σ, followed by a small MLP.

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


class ClassEmbedding(nn.Module):
    """One learned vector for each class, and one for "any class".

    Args:
        num_classes: Number of classes, at least 1.
        dim: Size of a vector.
    """

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, dim)

    def forward(self, label: Tensor) -> Tensor:
        """Embed ``label`` of shape ``(batch,)``, −1 for any class; returns ``(batch, dim)``."""
        return self.table(label + 1)
