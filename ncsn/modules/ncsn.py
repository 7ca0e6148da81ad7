"""Noise-conditional score networks: denoising score matching on a ladder of noise levels."""

from typing import Any

import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor

from ncsn.modules.base import ScoreModule
from ncsn.networks import ScoreNetwork
from ncsn.noise import geometric_noise_levels
from ncsn.sampling import AnnealedLangevin, DPMSolver, Sampler

__all__ = ["NCSN"]


class NCSN(ScoreModule):
    """Noise-conditional score network (Song & Ermon 2019, arXiv 1907.05600).

    One network learns the score at all levels of a geometric ladder, and annealed Langevin
    dynamics samples along it.

    Args:
        network: The network, called as ``network(x, sigma)``.
        sigma_min: Smallest noise level, in the units of the data.
        sigma_max: Largest noise level.
        num_levels: Number of noise levels T.
        sampler: Draws the samples; by default, annealed Langevin dynamics with 100 steps a level.
        preview_sampler: Draws the samples during training; by default, DPM-Solver++ with 20
            network evaluations.
        kwargs: See :class:`ncsn.modules.ScoreModule`.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        sigma_min: PositiveFloat = 0.01,
        sigma_max: PositiveFloat = 1.0,
        num_levels: PositiveInt = 10,
        sampler: Sampler | None = None,
        preview_sampler: Sampler | None = None,
        **kwargs: Any,
    ) -> None:
        noise_levels = geometric_noise_levels(sigma_max, sigma_min, num_levels)
        super().__init__(
            network,
            noise_levels,
            sampler or AnnealedLangevin(),
            preview_sampler=preview_sampler or DPMSolver(num_steps=20),
            **kwargs,
        )

    def sample_noise_levels(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise levels drawn uniformly from the ladder."""
        levels = torch.randint(
            len(self.noise_levels), (num,), generator=generator, device=self.noise_levels.device
        )
        return self.noise_levels[levels]
