"""Denoising score matching at one noise level."""

from typing import Any

import torch
from jsonargparse.typing import PositiveFloat
from torch import Tensor

from ncsn.modules.base import ScoreModule
from ncsn.networks import ScoreNetwork
from ncsn.noise import geometric_noise_levels
from ncsn.sampling import Langevin, Sampler

__all__ = ["DSM"]


class DSM(ScoreModule):
    """Denoising score matching (Vincent 2011) at one noise level, and Langevin dynamics.

    The samples follow the data noised at level sigma; the sampler's Tweedie step takes most of
    that noise away.

    Args:
        network: The network, called as ``network(x, sigma)``.
        sigma: The noise level, in the units of the data.
        sampler: Draws the samples; by default, Langevin dynamics from U[-1, 1].
        kwargs: See :class:`ncsn.modules.ScoreModule`.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        sigma: PositiveFloat = 0.1,
        sampler: Sampler | None = None,
        **kwargs: Any,
    ) -> None:
        sampler = sampler or Langevin(step_size=sigma**2, num_steps=1000)
        super().__init__(network, geometric_noise_levels(sigma, sigma, 1), sampler, **kwargs)

    def sample_noise_levels(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """The one noise level there is, ``num`` times."""
        return self.noise_levels.expand(num)
