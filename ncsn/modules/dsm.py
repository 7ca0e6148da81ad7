"""Denoising score matching at one noise level."""

from typing import Any

import torch
from torch import Tensor

from ncsn.levels import geometric
from ncsn.modules.base import ScoreModule
from ncsn.networks import ScoreNetwork
from ncsn.sampling import Langevin, Sampler


class DSM(ScoreModule):
    """Denoising score matching (Vincent 2011) at one noise level, and Langevin dynamics.

    The samples follow the data noised at level sigma; the sampler's Tweedie step removes most of
    that noise.

    Args:
        network: The network, called as ``network(x, sigma)``.
        sigma: The noise level, > 0, in the units of the data.
        sampler: Draws the samples; by default, Langevin dynamics from U[-1, 1].
        kwargs: See :class:`ncsn.modules.ScoreModule`.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        sigma: float = 0.1,
        sampler: Sampler | None = None,
        **kwargs: Any,
    ) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma must be a positive number, got {sigma}")
        sampler = sampler or Langevin(epsilon=sigma**2, num_steps=1000)
        super().__init__(network, geometric(sigma, sigma, 1), sampler, **kwargs)

    def sample_noise_levels(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """The one noise level, ``num`` times."""
        return self.noise_levels.expand(num)
