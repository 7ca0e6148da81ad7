"""Noise-conditional score networks: denoising score matching on a ladder of noise levels."""

import math
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import Normal

from ncsn.modules.base import ScoreModule
from ncsn.networks import ScoreNetwork
from ncsn.noise import (
    Generator,
    geometric_noise_levels,
    noise_level_ratio,
)
from ncsn.sampling import AnnealedLangevin, DPMSolver, Sampler, log_density
from ncsn.sampling.ode import LogDensity

__all__ = ["NCSN"]


class NCSN(ScoreModule):
    """Noise-conditional score network (Song & Ermon 2019, arXiv 1907.05600).

    One network learns the score at all levels of a geometric ladder, and annealed Langevin
    dynamics samples along it.

    Args:
        network: The network, called as ``network(x, sigma)``.
        sigma_min: Smallest noise level, in the units of the data.
        sigma_max: Largest noise level; ``auto`` for the largest distance between two examples
            (NCSNv2, technique 1).
        num_levels: Number of noise levels T; ``auto`` for as many as make their ratio that of
            :func:`ncsn.noise.noise_level_ratio` (NCSNv2, technique 2).
        level_density: Mean and standard deviation of a normal density of ln σ, by which levels of
            the ladder are drawn in training (Karras et al. 2022, arXiv 2206.00364, table 1); by
            default, all are equally likely.
        data_shape: Shape of one example. From the command line it is linked to the data's.
        data_diameter: Largest distance between two examples, for ``auto``. From the command line
            it is linked to the data's.
        sampler: Draws the samples; by default, annealed Langevin dynamics with 100 steps a level.
        preview_sampler: Draws the samples during training; by default, SDE-DPM-Solver++
            with 20 network evaluations.
        kwargs: See :class:`ncsn.modules.ScoreModule`.
    """

    level_probabilities: Tensor | None

    def __init__(
        self,
        network: ScoreNetwork,
        sigma_min: PositiveFloat = 0.01,
        sigma_max: PositiveFloat | Literal["auto"] = 1.0,
        num_levels: PositiveInt | Literal["auto"] = 10,
        level_density: tuple[float, PositiveFloat] | None = None,
        data_shape: tuple[int, ...] = (2,),
        data_diameter: NonNegativeFloat | None = None,
        sampler: Sampler | None = None,
        preview_sampler: Sampler | None = None,
        **kwargs: Any,
    ) -> None:
        chosen: dict[str, float] = {}
        if sigma_max == "auto":
            if data_diameter is None:
                raise ValueError("sigma_max=auto needs data_diameter")
            sigma_max = chosen["sigma_max"] = float(data_diameter)
        if num_levels == "auto":
            geometric_noise_levels(sigma_max, sigma_min, 2)  # refuses levels that are crossed
            ratio = noise_level_ratio(math.prod(data_shape))
            num_levels = 1 + round(math.log(sigma_max / sigma_min) / math.log(ratio))
            chosen["num_levels"] = num_levels
        noise_levels = geometric_noise_levels(sigma_max, sigma_min, num_levels)
        super().__init__(
            network,
            noise_levels,
            sampler or AnnealedLangevin(),
            data_shape=data_shape,
            data_diameter=data_diameter,
            preview_sampler=preview_sampler or DPMSolver(num_steps=20, eta=1.0),
            **kwargs,
        )
        self.chosen |= chosen
        probabilities = None
        if level_density is not None:
            mean, std = level_density
            probabilities = Normal(mean, std).log_prob(noise_levels.log()).softmax(dim=0)
        self.register_buffer("level_probabilities", probabilities, persistent=False)

    def sample_noise_levels(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise levels drawn from the ladder, by ``level_density``."""
        p, num_levels = self.level_probabilities, len(self.noise_levels)
        if p is None:
            device = self.noise_levels.device
            levels = torch.randint(num_levels, (num,), generator=generator, device=device)
        else:
            levels = p.multinomial(num, replacement=True, generator=generator)
        return self.noise_levels[levels]

    def log_likelihood(
        self, x: Tensor, num_steps: int = 32, generator: Generator = None
    ) -> LogDensity:
        """The log density of data under the model, along the probability flow, in nats.

        It is the density at the smallest noise level. The divergence is exact for points, and
        Hutchinson's estimate with one probe for images.

        Args:
            x: Data, shape ``(batch, *data_shape)``.
            num_steps: Steps of the solver, four network evaluations each, and half as many again
                for the estimate of the error.
            generator: Source of the probes.
        """
        sigma_max, sigma_min = self.noise_levels[0].item(), self.noise_levels[-1].item()
        return log_density(
            self.score,
            x,
            sigma_max,
            sigma_min,
            num_steps,
            exact_divergence=len(self.data_shape) == 1,
            prior_mean=self.data_mean,
            prior_std=self.data_std.item(),
            generator=generator,
        )
