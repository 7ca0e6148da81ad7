"""Noise-conditional score networks: denoising score matching on a ladder of noise levels."""

import math
from typing import Any, Literal

import torch
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torchmetrics import CatMetric

from ncsn.modules.base import Batch, ScoreModule
from ncsn.networks import ScoreNetwork
from ncsn.noise import (
    Generator,
    Stream,
    geometric_noise_levels,
    noise_level_ratio,
    seeded_generator,
    uniform_like,
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
        data_shape: Shape of one example. From the command line it is linked to the data's.
        data_diameter: Largest distance between two examples, for ``auto``. From the command line
            it is linked to the data's.
        num_likelihood_examples: Number of test examples whose log likelihood ``test`` computes, on
            each device: exactly for points (``test/nll``, in nats), with Hutchinson's estimate
            and dequantisation for images (``test/bits_per_dim``).
        sampler: Draws the samples; by default, annealed Langevin dynamics with 100 steps a level.
        preview_sampler: Draws the samples during training; by default, DPM-Solver++ with 20
            network evaluations.
        kwargs: See :class:`ncsn.modules.ScoreModule`.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        sigma_min: PositiveFloat = 0.01,
        sigma_max: PositiveFloat | Literal["auto"] = 1.0,
        num_levels: PositiveInt | Literal["auto"] = 10,
        num_likelihood_examples: NonNegativeInt = 1000,
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
            preview_sampler=preview_sampler or DPMSolver(num_steps=20),
            **kwargs,
        )
        self.chosen |= chosen
        self.num_likelihood_examples = num_likelihood_examples
        # The negative log likelihood of each test example, in nats, and the solver's error of it.
        # A NaN stays, and shows.
        self.nll = CatMetric(nan_strategy="disable")
        self.nll_error = CatMetric(nan_strategy="disable")

    def sample_noise_levels(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise levels drawn uniformly from the ladder."""
        levels = torch.randint(
            len(self.noise_levels), (num,), generator=generator, device=self.noise_levels.device
        )
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

    def on_test_epoch_start(self) -> None:
        """Forget the likelihoods of an earlier test."""
        self.nll.reset()
        self.nll_error.reset()
        self.num_likelihoods = 0

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss at each noise level, and the log likelihood of the first examples."""
        super().test_step(batch, batch_idx)
        x, _ = batch
        x = x[: self.num_likelihood_examples - self.num_likelihoods]
        if not len(x):
            return
        self.num_likelihoods += len(x)
        generator = seeded_generator(Stream.TEST, self.global_rank, batch_idx, device=x.device)
        if len(self.data_shape) == 3:
            # Uniform dequantisation: a grey value stands for an interval of width 1 / 127.5.
            x = x + uniform_like(x, generator) / 255
        value, error = self.log_likelihood(x, generator=generator)
        self.nll.update(-value)
        self.nll_error.update(error)

    def on_test_epoch_end(self) -> None:
        """Log the losses, and the likelihood with its standard error and the solver's error."""
        super().on_test_epoch_end()
        if not self.num_likelihood_examples:
            return
        nll, error = self.nll.compute().view(-1), self.nll_error.compute().mean()
        mean, standard_error = nll.mean(), nll.std() / math.sqrt(len(nll))
        if len(self.data_shape) == 1:
            name = "nll"
        else:
            name, nats = "bits_per_dim", math.log(2) * math.prod(self.data_shape)
            mean = mean / nats + math.log2(127.5)
            standard_error, error = standard_error / nats, error / nats
        self.log(f"test/{name}", mean)
        self.log(f"test/{name}_standard_error", standard_error)
        self.log(f"test/{name}_solver_error", error)
