"""What DSM and NCSN share: the score, its loss, training, validation and sampling."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ncsn.callbacks.preview import Preview
from ncsn.levels import ScoreFunction, spread_order
from ncsn.modules.logged import LoggedModule
from ncsn.modules.schedules import make_schedule, naming
from ncsn.networks import ScoreNetwork
from ncsn.objectives import Objective, denoising_score_matching
from ncsn.parametrisation import Parametrisation, Score
from ncsn.random import Generator, SampleGenerator, Stream, global_seed, seeded_generator
from ncsn.sampling import Monitor, Sampler, classifier_free_guidance
from ncsn.sampling.guidance import hide_labels

Batch = tuple[Tensor, Tensor]


class ScoreModule(LoggedModule, ABC):
    """A score network trained by score matching, and the samplers that use it.

    The noise of a training step depends on (seed, rank, epoch, batch) alone, that of a validation
    batch on (rank, batch): two validations of the same weights give the same number.

    Args:
        network: The network, called as ``network(x, sigma)``.
        noise_levels: The ladder, shape ``(num_levels,)``, descending.
        sampler: Draws samples.
        parametrisation: How the score is built from the network; by default, it is the score.
        objective: What is minimised. Validation always uses denoising score matching.
        optimizer: Called with the parameters.
        lr_scheduler: Called with the optimizer; by default, the learning rate is constant.
        lr_scheduler_interval: Whether the scheduler steps after each epoch or after each step.
        label_dropout: Share in [0, 1) of the labels hidden from a class-conditional network.
        guidance_scale: Weight of the class in samples; see :mod:`ncsn.sampling.guidance`.
        data_shape: Shape of one example. The command line links it to the data.
        data_mean, data_std: Mean and standard deviation of the data, likewise.
        data_diameter: Largest distance between two examples, likewise, for ``sigma_max=auto``.
        preview: Draws samples during training.

    Attributes:
        preview_sampler: Draws the previews, unless ``preview`` has a sampler of its own.
    """

    def __init__(
        self,
        network: ScoreNetwork,
        noise_levels: Tensor,
        sampler: Sampler,
        parametrisation: Parametrisation | None = None,
        objective: Objective = denoising_score_matching,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        label_dropout: float = 0.1,
        guidance_scale: float = 1.0,
        data_shape: tuple[int, ...] = (2,),
        data_mean: float = 0.0,
        data_std: float = 1.0,
        data_diameter: float | None = None,
        preview: Preview | None = None,
    ) -> None:
        super().__init__(len(noise_levels))
        if not 0 <= label_dropout < 1:
            raise ValueError(f"label_dropout must be in [0, 1), got {label_dropout}")
        if network.num_classes and not label_dropout and guidance_scale != 1:
            raise ValueError(
                f"guidance_scale={guidance_scale} needs the unconditional score, which "
                "label_dropout=0 leaves untrained: leave it at 1, or train with label_dropout=0.1"
            )
        self.preview = preview or Preview()
        for each in filter(None, (sampler, self.preview.sampler)):
            each.path(noise_levels)  # raises if it cannot descend this ladder
        network.set_noise_levels(noise_levels)
        self.network, self.sampler, self.preview_sampler = network, sampler, sampler
        self.parametrisation, self.objective = parametrisation or Score(), objective
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.lr_scheduler_interval, self.label_dropout = lr_scheduler_interval, label_dropout
        self.guidance_scale, self.data_shape = guidance_scale, tuple(data_shape)
        self.noise_levels = nn.Buffer(noise_levels, persistent=False)
        self.level_order = nn.Buffer(spread_order(len(noise_levels)), persistent=False)
        self.data_mean = nn.Buffer(torch.tensor(float(data_mean)))
        self.data_std = nn.Buffer(torch.tensor(float(data_std)))
        self.auto: dict[str, float] = {}  # what ``auto`` was replaced by, by argument

    @property
    def has_marginal_score(self) -> bool:
        """Whether the unconditional score, of the data of all classes, was trained."""
        return not self.network.num_classes or self.label_dropout > 0

    @property
    def auto_values(self) -> dict[str, float]:
        """What ``auto`` was replaced by, in the module and its samplers, by option."""
        values = {f"model.{name}": value for name, value in self.auto.items()}
        for option, sampler in {"": self.sampler, "preview.": self.preview.sampler}.items():
            for name, value in sampler.auto_values(self.noise_levels).items() if sampler else ():
                values[f"model.{option}sampler.{name}"] = value
        return values

    @abstractmethod
    def sample_noise_levels(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise levels of ``num`` training examples, shape ``(num,)``."""

    def score(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """The score of the data noised at level sigma, in float32 at least.

        Args:
            x: Noisy data, shape ``(batch, *data_shape)``.
            sigma: Noise level of each example, shape ``(batch,)``.
            label: Classes, shape ``(batch,)``, −1 for any; ignored by unconditional networks.

        Raises:
            ValueError: If there is no label, and the score of any class was not trained.
        """
        if label is None and not self.has_marginal_score:
            raise ValueError("label_dropout=0 trained no score of any class: give the label")
        labels = () if label is None or not self.network.num_classes else (label,)
        own = self.noise_levels.dtype  # that of the weights
        dtype = torch.promote_types(own, torch.float32)
        return self.parametrisation(
            lambda x, sigma: self.network(x.to(own), sigma.to(own), *labels).to(dtype),
            x.to(dtype),
            sigma.to(dtype),
            self.data_mean.to(dtype),
            self.data_std.to(dtype),
        )

    def loss(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, generator: Generator = None
    ) -> Tensor:
        """The objective of each example, by default (σ² / σ_max²) ‖s(x + σz, σ) + z/σ‖².

        Its arguments are those of :meth:`score`, but with clean data. Shape ``(batch,)``.

        Source: Song & Ermon 2019 (arXiv 1907.05600), equations 5 and 6.
        """
        score = partial(self.score, label=label)
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # noise is lost in half precision
        squares = self.objective(score, x, sigma, generator=generator)  # by default σ² (s + z/σ)²
        return (squares / self.sampling_levels[0] ** 2).flatten(1).sum(1)

    @torch.no_grad()
    def sample(
        self,
        num: int,
        label: Tensor | None = None,
        sampler: Sampler | None = None,
        generator: Generator = None,
        monitor: Monitor | None = None,
        modify: Callable[[ScoreFunction], ScoreFunction] | None = None,
    ) -> Tensor:
        """Draw samples, shape ``(num, *data_shape)``, float32 at least, in the units of the data.

        ``label`` is the class of each, shape ``(num,)``; see :class:`ncsn.sampling.Sampler`.
        ``modify`` turns the score into another, such as a posterior's; see
        :mod:`ncsn.sampling.inverse`.
        """
        sampler = sampler or self.sampler
        levels = self.sampling_levels
        x = sampler.initial(levels.new_empty(num, *self.data_shape), levels, generator)
        score: ScoreFunction = self.score
        if label is not None and self.network.num_classes:
            score = classifier_free_guidance(self.score, label, self.guidance_scale)
        return sampler(modify(score) if modify else score, x, levels, generator, monitor)

    def draw(self, start: int, stop: int, label: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Draw samples number ``start <= i < stop``, each the same in any batch, on any rank."""
        label = self.labels_in_turn(start, stop) if label is None else label
        generator = SampleGenerator(global_seed(), start, stop, device=self.device)
        return self.sample(stop - start, label, generator=generator, **kwargs)

    def labels_in_turn(self, start: int, stop: int) -> Tensor | None:
        """The classes of the samples ``start <= i < stop``, shape ``(stop - start,)``, if any."""
        num_classes = self.network.num_classes
        return torch.arange(start, stop, device=self.device) % num_classes if num_classes else None

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The loss; for callbacks also the loss and the noise level of each example."""
        x, label = batch
        key = global_seed(), self.global_rank, self.current_epoch, batch_idx
        generator = seeded_generator(Stream.TRAINING, *key, device=x.device)
        if self.network.num_classes:
            label = hide_labels(label, self.label_dropout, generator)
        sigma = self.sample_noise_levels(len(x), generator)
        losses = self.loss(x, sigma, label, generator)
        self.train_loss.update(self.loss_per_dim(losses.detach()))
        return {"loss": losses.mean(), "losses": losses.detach(), "sigma": sigma}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the loss at each noise level, with the same noise at every validation."""
        x, label = batch
        key = self.global_rank, batch_idx
        generator = seeded_generator(Stream.VALIDATION, *key, device=x.device)
        # A fixed order instead of random levels lowers the variance; spread_order makes even a
        # small validation set cover the whole ladder.
        rows = torch.arange(len(x), device=x.device) + batch_idx * len(x)
        levels = self.level_order[(rows + self.global_rank) % len(self.noise_levels)]
        score = partial(self.score, label=label)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        loss = denoising_score_matching(score, x, self.noise_levels[levels], generator)
        self.val_loss.update(levels, loss.flatten(1).mean(dim=1))

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Draw samples: ``batch`` has their consecutive numbers and their classes."""
        numbers, label = batch
        return self.draw(int(numbers[0]), int(numbers[-1]) + 1, label)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and, if there is one, the schedule of the learning rate."""
        with naming("model.optimizer"):
            optimizer = self.optimizer(self.network.parameters())
        if self.lr_scheduler is None:
            return optimizer
        interval = self.lr_scheduler_interval
        schedule = make_schedule(self.lr_scheduler, optimizer, self.trainer, interval)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_callbacks(self) -> list[Preview]:
        """The preview that the module was given."""
        return [self.preview]
