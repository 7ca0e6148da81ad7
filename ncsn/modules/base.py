"""What DSM and NCSN share: training, validation and sampling with a ladder of noise levels."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric

from ncsn.data import InMemoryDataModule
from ncsn.errors import UserError, of_somebodys_own_code
from ncsn.metrics import MeanPerLevel
from ncsn.networks import ScoreNetwork
from ncsn.networks.preconditioning import Parametrisation, parametrised_score
from ncsn.noise import (
    Generator,
    SampleGenerator,
    ScoreFunction,
    Stream,
    global_seed,
    seeded_generator,
)
from ncsn.objectives import Objective, denoising_score_matching
from ncsn.sampling import AnnealedLangevin, Monitor, Sampler, classifier_free_guidance

__all__ = ["ScoreModule"]

Batch = tuple[Tensor, Tensor]

DIVERGED = (
    "go on from the last checkpoint, which is from before, with trainer.gradient_clip_val or "
    "another trainer.precision, or train anew with a lower lr of model.optimizer"
)

SETTLED = (
    *("network", "parametrisation", "sigma", "sigma_min", "sigma_max", "num_levels"),
    *("optimizer", "lr_scheduler", "lr_scheduler_interval"),
)
"""Arguments that give the state in a checkpoint its meaning, or that it replaces."""


class ScoreModule(pl.LightningModule, ABC):
    """A score network trained by score matching, and the samplers that use it.

    The loss of a batch is, by default::

        E (σ² / σ_max²) ‖s(x + σz, σ) + z/σ‖²,

    the mean over the batch of the sum over dimensions, with one noise level drawn for each
    example. A subclass says which noise levels there are.

    Noise and levels of a training step depend on (seed, rank, epoch, batch) alone, and those of a
    validation batch on (rank, batch): two validations of the same weights give the same number.

    Args:
        network: The network, called as ``network(x, sigma)``.
        noise_levels: The ladder, shape ``(num_levels,)``, descending.
        sampler: Draws the samples of ``predict`` and of the pictures at the end of training.
        parametrisation: How the score is built from the network; see
            :mod:`ncsn.networks.preconditioning`.
        objective: What is minimised: ``ncsn.objectives.denoising_score_matching``,
            ``implicit_score_matching``, ``sliced_score_matching`` or a function of the same
            signature. Validation always takes the first, so that runs can be compared.
        optimizer: Called with the parameters.
        lr_scheduler: Called with the optimizer; none keeps the learning rate constant.
        lr_scheduler_interval: Whether the scheduler steps after each epoch or after each step.
        label_dropout: Share of the training examples whose class is hidden from a
            class-conditional network, so that it also learns the score of all classes together.
        guidance_scale: Weight w of the class in samples of a class-conditional network: 1 as it
            is, above 1 more typical; see :mod:`ncsn.sampling.guidance`.
        ema_decay: Decay of the exponential moving average of the weights, which validation,
            sampling and checkpoints use; 0 turns it off. It starts smaller: see
            :func:`ncsn.callbacks.update_average`.
        data_shape: Shape of one example. From the command line it is linked to the data's.
        data_mean: Mean of the data. From the command line it is linked to the data's.
        data_std: Standard deviation of the data. From the command line it is linked to the data's.
        data_diameter: Largest distance between two examples, which some choices of noise levels
            need. From the command line it is linked to the data's.
        preview_sampler: Draws the samples during training; by default, the sampler.
        preview_every_n_epochs: Epochs between two pictures of samples; 0 for none.
        num_preview_samples: Number of samples in a picture.
        num_scored_samples: Number of samples of a preview that are scored, as far as there is
            validation data to compare them with; 0 for none.
    """

    noise_levels: Tensor
    data_mean: Tensor
    data_std: Tensor

    def __init__(
        self,
        network: ScoreNetwork,
        noise_levels: Tensor,
        sampler: Sampler,
        parametrisation: Parametrisation = "score",
        objective: Objective = denoising_score_matching,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_scheduler_interval: Literal["epoch", "step"] = "epoch",
        label_dropout: float = 0.1,
        guidance_scale: float = 1.0,
        ema_decay: float = 0.999,
        data_shape: tuple[int, ...] = (2,),
        data_mean: float = 0.0,
        data_std: PositiveFloat = 1.0,
        data_diameter: NonNegativeFloat | None = None,
        preview_sampler: Sampler | None = None,
        preview_every_n_epochs: NonNegativeInt = 1,
        num_preview_samples: PositiveInt = 64,
        num_scored_samples: NonNegativeInt = 256,
    ) -> None:
        super().__init__()
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}")
        if not 0 <= label_dropout < 1:
            raise ValueError(f"label_dropout must be in [0, 1), got {label_dropout}")
        for visited in filter(None, (sampler, preview_sampler)):
            visited.ladder(noise_levels)  # refuses what it cannot go down
        # A run from the command line stores its config, which is plain data, so that
        # load_from_checkpoint can rebuild the module; objects made in Python are not stored.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about such objects
            self.save_hyperparameters(logger=False)
        if "_class_path" not in self.hparams:
            self.hparams.clear()
        network.set_noise_levels(noise_levels)
        if len(data_shape) == 3:
            # Convolutions run faster this way.
            network = network.to(memory_format=torch.channels_last)
        self.network = network
        self.register_buffer("noise_levels", noise_levels, persistent=False)
        self.sampler = sampler
        self.parametrisation, self.objective = parametrisation, objective
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.label_dropout, self.guidance_scale = label_dropout, guidance_scale
        self.ema_decay = ema_decay
        self.data_shape = tuple(data_shape)
        # In the state dict: the weights are worth nothing with the moments of other data.
        self.register_buffer("data_mean", torch.tensor(data_mean))
        self.register_buffer("data_std", torch.tensor(data_std))
        self.preview_sampler = preview_sampler or sampler
        self.preview_every_n_epochs = preview_every_n_epochs
        self.num_preview_samples = num_preview_samples
        self.num_scored_samples = num_scored_samples
        self.train_loss = MeanMetric(nan_strategy="disable")  # looking for NaN would synchronise
        self.val_loss = MeanPerLevel(len(noise_levels))
        self.usual_loss: float | None = None
        # What "auto" in the config came to.
        self.chosen: dict[str, float] = {}
        for name, each in (("sampler", sampler), ("preview_sampler", preview_sampler)):
            if isinstance(each, AnnealedLangevin) and each.step_size == "auto":
                relative = each.relative_step_size(noise_levels.tolist())
                self.chosen[f"{name}.relative_step_size"] = relative

    # ---- the model ---------------------------------------------------------------------------

    def score(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """The score of the data noised at level sigma.

        Args:
            x: Noisy data, shape ``(batch, *data_shape)``.
            sigma: Noise level of each example, shape ``(batch,)``.
            label: Class of each example, shape ``(batch,)``, −1 for any; by default, any.

        Returns:
            The score, of the shape of ``x``, float32.
        """
        return parametrised_score(
            self.network, x, sigma, self.parametrisation, self.data_mean, self.data_std, label
        )

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """The same as :meth:`score`."""
        return self.score(x, sigma, label)

    @abstractmethod
    def sample_noise_levels(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise levels of ``num`` training examples, shape ``(num,)``."""

    def loss(
        self,
        x: Tensor,
        sigma: Tensor | None = None,
        label: Tensor | None = None,
        *,
        reduction: Literal["none", "mean"] = "mean",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The weighted loss, by default (σ² / σ_max²) ‖s + z/σ‖².

        Args:
            x: Clean data, shape ``(batch, *data_shape)``.
            sigma: Noise level of each example, shape ``(batch,)``; drawn by
                :meth:`sample_noise_levels` if not given.
            label: Class of each example, shape ``(batch,)``, −1 for any; by default, any.
            reduction: ``"none"`` for the loss element by element; ``"mean"`` for the mean over
                the batch of the sum over dimensions.
            generator: Source of the noise and of the levels.

        Returns:
            A tensor of the shape of ``x``, or a scalar.
        """
        if sigma is None:
            sigma = self.sample_noise_levels(len(x), generator)
        score = self.score if label is None else partial(self.score, label=label)
        loss = self.objective(score, x, sigma, reduction=reduction, generator=generator)
        return loss / self.noise_levels[0] ** 2

    @torch.no_grad()
    def sample(
        self,
        num: int,
        label: Tensor | None = None,
        *,
        sampler: Sampler | None = None,
        generator: Generator = None,
        monitor: Monitor | None = None,
    ) -> Tensor:
        """Draw samples.

        Args:
            num: Number of samples.
            label: Class of each sample, shape ``(num,)``, for class-conditional networks.
            sampler: The sampler; by default, the module's own.
            generator: Source of the noise.
            monitor: Called after each network evaluation.

        Returns:
            Samples, shape ``(num, *data_shape)``, float32, in the units of the data.
        """
        sampler = sampler or self.sampler
        empty = torch.empty(num, *self.data_shape, device=self.device)
        x = sampler.initial(empty, self.noise_levels, generator)
        score: ScoreFunction = self.score
        if label is not None:
            score = classifier_free_guidance(self.score, label, self.guidance_scale)
        return sampler(score, x, self.noise_levels, generator, monitor)

    def labels_of_samples(self, start: int, stop: int) -> Tensor | None:
        """The classes of the samples ``start <= i < stop``: in turn, or none without classes."""
        if not self.network.num_classes:
            return None
        return torch.arange(start, stop, device=self.device) % self.network.num_classes

    # ---- training and validation -------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted loss of a batch.

        Raises:
            UserError: If a loss is not finite. On a GPU and with several processes this is only
                looked at when the loss is logged, since to look is to wait.
        """
        x, label = batch
        generator = seeded_generator(
            Stream.TRAINING,
            global_seed(),
            self.global_rank,
            self.current_epoch,
            batch_idx,
            device=x.device,
        )
        shown = self._hide_some(label, generator)
        sigma = self.sample_noise_levels(len(x), generator)
        losses = self.loss(x, sigma, shown, reduction="none", generator=generator)
        losses = losses.flatten(1).sum(1)
        loss = losses.mean()
        self.train_loss.update(loss.detach())
        # Lightning's log takes as long as the step of a small network: call it when it is shown.
        logged = self.trainer._logger_connector.should_update_logs
        if logged or not (x.is_cuda or self.trainer.world_size > 1):
            self._refuse_divergence(losses, sigma)
        if logged:
            self._warn_of_spike(losses.detach(), sigma)
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def _warn_of_spike(self, losses: Tensor, sigma: Tensor) -> None:
        """Say where a loss is far above those that were logged before."""
        loss, usual = losses.mean().item(), self.usual_loss
        if usual is not None and loss > 10 * usual:
            rank_zero_warn(
                f"the loss of step {self.global_step} is {loss:.3g}, {loss / usual:.0f} times the "
                f"usual {usual:.3g}; most of it is at noise level {sigma[losses.argmax()]:.3g}"
            )
        self.usual_loss = loss if usual is None else 0.9 * usual + 0.1 * loss

    def _refuse_divergence(self, losses: Tensor, sigma: Tensor) -> None:
        finite = losses.isfinite()
        if not self.trainer.strategy.reduce_boolean_decision(bool(finite.all())):
            bad = sigma if finite.all() else sigma[~finite]  # those of another rank are not
            raise UserError(
                f"the loss is not finite at step {self.global_step}, at noise levels from "
                f"{bad.min().item():.3g} to {bad.max().item():.3g}: {DIVERGED}"
            )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient, whenever the loss is logged.

        Raises:
            UserError: If it is not finite, other than in float16, where such steps are left out.
        """
        if not self.trainer._logger_connector.should_update_logs:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not scaled and not norm.isfinite():  # ranks have the same gradient
            raise UserError(f"the gradient is not finite at step {self.global_step}: {DIVERGED}")
        self.log("train/grad_norm", norm)

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch, over ranks."""
        if self.train_loss.update_called:  # not at the end of an epoch that a checkpoint ended
            self.log("train/loss_epoch", self.train_loss.compute(), sync_dist=True)
            self.train_loss.reset()

    def _hide_some(self, label: Tensor, generator: torch.Generator) -> Tensor | None:
        """The labels that a class-conditional network trains with."""
        if not self.network.num_classes:
            return None
        hidden = torch.rand(label.shape, generator=generator, device=label.device)
        return label.masked_fill(hidden < self.label_dropout, -1)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the loss at each noise level, with the same noise at every validation."""
        x, label = batch
        score = partial(self.score, label=label) if self.network.num_classes else self.score
        generator = seeded_generator(
            Stream.VALIDATION, self.global_rank, batch_idx, device=x.device
        )
        # Levels in turn instead of at random: a smaller variance.
        first = batch_idx * len(x)
        levels = torch.arange(first, first + len(x), device=x.device) % len(self.noise_levels)
        loss = denoising_score_matching(
            score, x, self.noise_levels[levels], reduction="none", generator=generator
        )
        self.val_loss.update(levels, loss.flatten(1).mean(dim=1))

    def on_validation_epoch_end(self) -> None:
        """Log the mean over the levels, and each level apart."""
        self._log_losses("val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same as :meth:`validation_step`."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the mean over the levels, and each level apart."""
        self._log_losses("test")

    def _log_losses(self, stage: str) -> None:
        per_level = self.val_loss.compute().view(-1)  # torchmetrics squeezes a single level away
        self.val_loss.reset()
        per_dim = per_level.nanmean()
        num_dims = torch.Size(self.data_shape).numel()
        self.log(f"{stage}/loss", per_dim * num_dims / self.noise_levels[0] ** 2, prog_bar=True)
        self.log(f"{stage}/loss_per_dim", per_dim)
        for sigma, loss in zip(self.noise_levels.tolist(), per_level, strict=True):
            self.log(f"{stage}/loss_per_dim/sigma={sigma:.4g}", loss)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Draw samples: ``batch`` has their numbers ``start, ..., stop - 1`` and their classes."""
        numbers, label = batch
        start, stop = int(numbers[0]), int(numbers[-1]) + 1
        return self.draw(start, stop, label if self.network.num_classes else None)

    def draw(
        self,
        start: int,
        stop: int,
        label: Tensor | None = None,
        *,
        monitor: Monitor | None = None,
    ) -> Tensor:
        """Draw the samples ``start <= i < stop``, fewer at a time if the memory does not suffice.

        Args:
            start: Number of the first sample.
            stop: One past the number of the last sample.
            label: Class of each sample, shape ``(stop - start,)``.
            monitor: Called after each network evaluation.

        Returns:
            Samples, shape ``(stop - start, *data_shape)``.

        Raises:
            UserError: If not even one sample fits into the memory.
        """
        try:
            generator = self.sample_generator(start, stop)
            return self.sample(stop - start, label, generator=generator, monitor=monitor)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
        # Here the exception is gone, and with it the tensors that its traceback held.
        garbage_collection_cuda()
        half = (stop - start) // 2
        if not half:
            raise UserError("there is not enough memory for a single sample")
        warnings.warn(f"out of memory: drawing {half} samples at a time", stacklevel=2)
        middle = start + half
        first, rest = (None, None) if label is None else (label[:half], label[half:])
        return torch.cat(
            [
                self.draw(start, middle, first, monitor=monitor),
                self.draw(middle, stop, rest, monitor=monitor),
            ]
        )

    def sample_generator(self, start: int, stop: int) -> SampleGenerator:
        """The noise of the samples ``start <= i < stop``, the same in any batch on any rank."""
        return SampleGenerator(global_seed(), start, stop, device=self.device)

    # ---- Lightning's hooks -------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Say what was chosen, and try the network on the data before anything is waited for.

        Raises:
            UserError: If the network does not take or does not return the shape of the data, or
                has fewer classes than the data.
        """
        for name, value in self.chosen.items():
            rank_zero_info(f"auto: model.{name} = {value:.4g}")
        for logger in self.loggers if self.chosen else []:
            logger.log_hyperparams(self.chosen)
        if stage != "fit":
            return  # the checkpoint's shape is compared below
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        most = self.network.num_classes
        known = isinstance(datamodule, InMemoryDataModule)
        if most and known and datamodule.num_classes > most:
            raise UserError(
                f"the data has {datamodule.num_classes} classes, but "
                f"model.network.num_classes={most}"
            )
        x = torch.zeros(1, *self.data_shape, device=self.device)
        try:
            with torch.no_grad():
                shape = self.network(x, torch.ones(1, device=self.device)).shape
        except (RuntimeError, ValueError) as error:
            if of_somebodys_own_code(error):
                raise
            raise UserError(self._misfit(str(error))) from error
        if shape != x.shape:
            raise UserError(self._misfit(f"it returns {tuple(shape[1:])}"))

    def _misfit(self, reason: str) -> str:
        name = type(self.network).__name__
        return f"model.network {name} does not fit data of shape {self.data_shape}: {reason}"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep weights that are not finite out of checkpoints.

        Raises:
            UserError: If there are any.
        """
        states = (checkpoint["state_dict"], checkpoint.get("current_model_state", {}))
        if not all(value.isfinite().all() for state in states for value in state.values()):
            raise UserError(f"weights are not finite at step {self.global_step}: {DIVERGED}")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that was trained on other data or, to go on, with another config.

        Raises:
            UserError: If the shapes of the data differ, or the data from which ``auto`` took the
                levels; in a fit, if arguments differ that are settled.
        """
        stored = checkpoint.get("hyper_parameters", {})
        shape = tuple(stored.get("data_shape", self.data_shape))
        if shape != self.data_shape:
            raise UserError(
                f"the checkpoint was trained on data of shape {shape}, but the config's data has "
                f"shape {self.data_shape}: give the config that belongs to the checkpoint"
            )
        sigma_max = self.chosen.get("sigma_max")
        trained = stored.get("data_diameter", sigma_max)
        if sigma_max != trained and sigma_max is not None:
            raise UserError(
                f"the checkpoint was trained with sigma_max=auto={trained:.4g}, but this data "
                f"gives {sigma_max:.4g}: give the data of the training"
            )
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            for name in SETTLED:
                before, now = (dict(_leaves(h.get(name), name)) for h in (stored, self.hparams))
                differing = [key for key in before | now if before.get(key) != now.get(key)]
                if stored and self.hparams and differing:
                    key = differing[0]
                    raise UserError(
                        f"the checkpoint was trained with model.{key}={before.get(key)}, and the "
                        f"config has {now.get(key)}: go on with the checkpoint's value, or train "
                        "anew without --ckpt_path"
                    )
            self._repeat_accumulation(checkpoint)

    def _repeat_accumulation(self, checkpoint: dict[str, Any]) -> None:
        """Take batches again whose gradients were accumulated, but are not in the checkpoint."""
        if "loops" not in checkpoint:
            return  # weights alone
        loop = checkpoint["loops"]["fit_loop"]
        progress = loop["epoch_loop.batch_progress"]
        again = progress["current"]["ready"] % self.trainer.accumulate_grad_batches
        if again and not progress["is_last_batch"]:
            for counts in (progress["current"], progress["total"]):
                for name in counts:
                    counts[name] -= again
            # Lightning adds one to this at a step's end, after that is saved, and again on load.
            loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and, if there is one, the learning rate's schedule.

        Raises:
            UserError: If the optimizer or the schedule refuses its arguments, or the schedule
                ends before the training.
        """
        if self.optimizer is None:
            raise UserError("spawned processes cannot carry the optimizer: use strategy ddp")
        try:
            optimizer = self.optimizer(self.network.parameters())
            if self.lr_scheduler is None:
                return optimizer
            scheduler: Any = self.lr_scheduler(optimizer)
        except (TypeError, ValueError) as error:
            if of_somebodys_own_code(error):
                raise
            raise UserError(f"model.optimizer or model.lr_scheduler: {error}") from error
        steps = self.trainer.estimated_stepping_batches
        end = getattr(scheduler, "total_steps", steps)
        if self.lr_scheduler_interval == "step" and steps > end:
            raise UserError(
                f"{type(scheduler).__name__} ends after {end} steps, but training takes {steps}: "
                "change model.lr_scheduler along with trainer.max_epochs and data.batch_size"
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": self.lr_scheduler_interval},
        }

    def configure_callbacks(self) -> list[Callback]:
        """Pictures of samples during training, and the moving average of the weights."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            return []
        from ncsn.callbacks import ExponentialMovingAverage, ImageSamples, PointSamples

        callbacks: list[Callback] = []
        # Without a logger, the run has no directory for pictures.
        if self.preview_every_n_epochs and self.trainer.loggers:
            pictures = ImageSamples if len(self.data_shape) == 3 else PointSamples
            numbers = self.num_preview_samples, self.num_scored_samples
            callbacks.append(pictures(self.preview_every_n_epochs, *numbers))
        if self.ema_decay:
            # After the pictures: Lightning calls the hooks in this order, and takes the averaged
            # weights away again in this callback's on_validation_epoch_end.
            callbacks.append(ExponentialMovingAverage(self.ema_decay))
        return callbacks

    def __getstate__(self) -> dict[str, Any]:
        # The callables of a config are closures, which cannot be copied; the copy that is made
        # is that of the moving average, which makes no optimizer.
        return {**super().__getstate__(), "optimizer": None, "lr_scheduler": None}


def _leaves(config: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values in a nested config, each with its dotted name."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _leaves(value, f"{name}.{key}" if key != "init_args" else name)
    else:
        yield name, list(config) if isinstance(config, tuple) else config
