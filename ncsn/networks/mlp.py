"""A multilayer perceptron for points."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ncsn.networks.base import ScoreNetwork


class MLP(ScoreNetwork):
    """A fully connected network on the point and the logarithm of its noise level.

    Args:
        dim: Dimension D of the points.
        hidden_dim: Width of the hidden layers.
        num_hidden: Number of hidden layers, at least 1.
    """

    def __init__(self, dim: int = 2, hidden_dim: int = 128, num_hidden: int = 3) -> None:
        super().__init__()
        if min(dim, hidden_dim, num_hidden) < 1:
            raise ValueError(
                "MLP needs dim, hidden_dim and num_hidden of at least 1, "
                f"got {dim}, {hidden_dim} and {num_hidden}"
            )
        widths = [dim + 1] + [hidden_dim] * num_hidden
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_dim, dim))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """See :class:`ScoreNetwork`; ``x`` has shape ``(batch, dim)``."""
        return self.layers(torch.cat([x, sigma.log()[:, None].to(x.dtype)], dim=1))
