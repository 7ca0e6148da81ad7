"""Noise-conditional score networks: denoising score matching on a ladder of noise levels."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ncsn.exact import ExactScore, GaussianMixture
from ncsn.levels import Ladder, descend, geometric, log_normal_probabilities, noise_level_ratio
from ncsn.modules.base import ScoreModule
from ncsn.networks import ScoreNetwork
from ncsn.random import Generator
from ncsn.sampling import AnnealedLangevin, DPMSolver, Sampler, log_density
from ncsn.sampling.likelihood import LogDensity


class NCSN(ScoreModule):
    """Noise-conditional score network (Song & Ermon 2019, arXiv 1907.05600).

    One network learns the score at all levels of a ladder, and annealed Langevin dynamics samples
    along it.

    Args:
        network: The network, called as ``network(x, sigma)``.
        sigma_min: Smallest noise level, in the units of the data.
        sigma_max: Largest noise level; ``auto`` for the largest distance between two examples
            (NCSNv2, technique 1).
        num_levels: Number of noise levels T; ``auto`` for the number that gives NCSNv2's ratio
            (technique 2, :func:`ncsn.levels.noise_level_ratio`).
        ladder: How the levels descend; by default, in geometric progression.
        level_density: Mean and standard deviation of a normal density of ln σ, by which levels of
            the ladder are drawn in training; by default, all are equally likely. The draws of a
            batch are stratified.
        sampler: Draws the samples; by default, annealed Langevin dynamics, 100 steps a level.
        data_shape, data_diameter, kwargs: See :class:`ncsn.modules.ScoreModule`.

    Attributes:
        auto: The values that ``auto`` was replaced by.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        sigma_min: float = 0.01,
        sigma_max: float | Literal["auto"] = 1.0,
        num_levels: int | Literal["auto"] = 10,
        ladder: Ladder | None = None,
        level_density: tuple[float, float] | None = None,
        data_shape: tuple[int, ...] = (2,),
        data_diameter: float | None = None,
        sampler: Sampler | None = None,
        **kwargs: Any,
    ) -> None:
        auto: dict[str, float] = {}
        if sigma_max == "auto":
            if data_diameter is None:
                raise ValueError("sigma_max=auto needs data_diameter")
            sigma_max = auto["sigma_max"] = float(data_diameter)
        if num_levels == "auto":
            geometric(sigma_max, sigma_min, 2)  # raises if the ends are crossed
            ratio = noise_level_ratio(math.prod(data_shape))
            num_levels = 1 + round(math.log(sigma_max / sigma_min) / math.log(ratio))
            auto["num_levels"] = num_levels
        noise_levels = descend(ladder or geometric, sigma_max, sigma_min, num_levels)
        sampler = sampler or AnnealedLangevin()
        super().__init__(network, noise_levels, sampler, data_shape=data_shape, **kwargs)
        if len(noise_levels) > 1:
            self.preview_sampler = DPMSolver(20, eta=2.0)  # SDE-DPM-Solver++, more noise
        self.auto = auto
        p = torch.full_like(noise_levels, 1 / len(noise_levels))
        if level_density:
            p = log_normal_probabilities(noise_levels, *level_density)
        self.level_probabilities = nn.Buffer(p, persistent=False)

    def sample_noise_levels(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise levels drawn from the ladder, by ``level_density``, in random order.

        The draws are stratified: each nth of the distribution has one of n. So a batch has its
        share of each level, and the mean loss has the same expectation and less variance.
        """
        device = self.noise_levels.device
        strata = torch.randperm(num, generator=generator, device=device)
        # In float32 also where the default is a half; it can be rounded up to 1.
        shares = torch.rand(num, generator=generator, device=device, dtype=torch.float32)
        quantiles = ((strata + shares) / num).clamp(max=1 - 2**-24)
        cumulative = self.level_probabilities.float().cumsum(0)
        edges = cumulative[:-1] / cumulative[-1]
        return self.noise_levels[torch.bucketize(quantiles, edges, right=True)]

    def log_likelihood(
        self,
        x: Tensor,
        prior: ExactScore | None = None,
        num_steps: int = 32,
        generator: Generator = None,
    ) -> LogDensity:
        """The log density at the smallest noise level, along the probability flow, in nats.

        The divergence is exact in up to 16 dimensions, and Hutchinson's estimate above.

        Args:
            x: Data, shape ``(batch, *data_shape)``.
            prior: The density of the data, of which that at the largest noise level is taken; by
                default, a Gaussian of the data's mean and standard deviation over all values.
            num_steps: Steps of the solver, four network evaluations each, and half as many again
                for the estimate of the error.
            generator: Source of the probes.

        Raises:
            ValueError: If there is only one noise level, between which nothing can flow.
        """
        if len(self.noise_levels) < 2:
            raise ValueError(
                "a model of one noise level has no likelihood: raise model.num_levels"
            )
        sigma_max, sigma_min = self.noise_levels[0].item(), self.noise_levels[-1].item()
        if prior is None:
            mean, std = self.data_mean.double(), self.data_std.double()
            prior = GaussianMixture(mean.expand(1, *x.shape[1:]), std)
        return log_density(
            self.score,
            x,
            prior,
            sigma_max,
            sigma_min,
            num_steps,
            exact_divergence=x[0].numel() <= 16,
            generator=generator,
        )
