"""Denoising score matching at one noise level."""

from typing import Any

import torch
from torch import Tensor

from ncsn.levels import LARGEST, SMALLEST, geometric
from ncsn.modules.base import ScoreModule
from ncsn.networks import ScoreNetwork
from ncsn.sampling import Langevin, Sampler


class DSM(ScoreModule):
    """Denoising score matching (Vincent 2011) at one noise level, and Langevin dynamics.

    The score is that of the data noised at level sigma, and what the samples follow depends on
    the sampler's last step. Where the data has the variance τ² (across an arc of two moons, say):

    - without a Tweedie step, the default, they follow the noised data: variance τ² + σ²;
    - with one (``denoise=True``), the means of the data given the noised: variance
      τ⁴ / (τ² + σ²), less than the data's. It is close to τ² only if σ is far below τ.

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
        if sigma is None or not SMALLEST <= sigma <= LARGEST:
            limits = f"from {SMALLEST:g} to {LARGEST:g}"
            raise ValueError(f"sigma must be a number {limits}, got {sigma}")
        sampler = sampler or Langevin(epsilon=sigma**2, num_steps=1000)
        super().__init__(network, geometric(sigma, sigma, 1), sampler, **kwargs)

    def sample_noise_levels(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """The one noise level, ``num`` times."""
        return self.noise_levels.expand(num)
