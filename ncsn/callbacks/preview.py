"""Pictures of samples during training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from ncsn import plots
from ncsn.callbacks.common import (
    data_of,
    evaluating,
    in_precision,
    model_of,
    monitored,
    on_first_rank,
    write_pictures,
)
from ncsn.evaluation import Trajectory
from ncsn.sampling import Sampler

if TYPE_CHECKING:
    from ncsn.modules import ScoreModule


CURVES = {"train": "training, levels as drawn", "validation": "validation, all levels alike"}
"""In the picture of the losses: with a density of the levels the two are of different levels."""


class Preview(Callback):
    """Draws samples at the end of a validation, and once more when the training has ended.

    Samples of a preview are compared with data, as ``val/...``, which a ``ModelCheckpoint`` can
    monitor. Those at the end come from the module's own sampler. All start from the same noise, so
    that they can be compared. Pictures go to ``pictures/`` in the run's directory, and to W&B.

    Args:
        sampler: Draws the samples during training; by default, ``DPMSolver(20, eta=2.0)``, and at
            one noise level the model's own sampler.
        every_n_epochs: Epochs between two previews, of which the first is at the first validation;
            0 for none.
        num_samples: Number of samples in a picture, at least 1.
        num_compared: Number of samples to compare with validation data, at most its size; 0 for
            none.

    Raises:
        ValueError: If a number is outside its domain.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        every_n_epochs: int = 1,
        num_samples: int = 64,
        num_compared: int = 256,
    ) -> None:
        if every_n_epochs < 0 or num_samples < 1 or num_compared < 0:
            raise ValueError(
                "preview needs every_n_epochs >= 0, num_samples >= 1 and num_compared >= 0, "
                f"got {every_n_epochs}, {num_samples} and {num_compared}"
            )
        self.sampler, self.every_n_epochs = sampler, every_n_epochs
        self.num_samples, self.num_compared = num_samples, num_compared
        self.directory = Path()
        self.enabled = False
        self.losses: dict[str, list[tuple[int, float]]] = {"train": [], "validation": []}
        self.last_preview = 0
        self.estimates: dict[str, float] = {}
        self.seconds_sampling = 0.0
        self.start = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Agree on the directory, which all ranks have to take part in."""
        # Without a logger, the run has no directory.
        trial = getattr(trainer, "fast_dev_run", False)
        enabled = self.every_n_epochs and trainer.loggers and not trial
        self.enabled = stage == "fit" and bool(enabled)
        if self.enabled:
            self.directory = Path(trainer.log_dir or "") / "pictures"
            self.start = time.perf_counter()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw some of the data, to compare the samples with."""
        if self.enabled and trainer.is_global_zero:
            data = data_of(trainer)
            draw = partial(data.kind.draw_data, data.reference("val"), self.num_samples)
            write_pictures(trainer, draw, self.directory)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Repeat the last estimates where there will be no new ones, for a ``ModelCheckpoint``."""
        if self.enabled and not trainer.sanity_checking and not self._is_due(trainer):
            for name, value in self.estimates.items():
                pl_module.log(f"val/{name}", value, logger=False)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw a preview, if one is due."""
        if not self.enabled or trainer.sanity_checking or not self._is_due(trainer):
            return
        self.last_preview = trainer.current_epoch + 1
        estimates = on_first_rank(trainer, lambda: self._preview(trainer, pl_module))
        self.estimates = trainer.strategy.broadcast(estimates or {})
        for name, value in self.estimates.items():
            pl_module.log(f"val/{name}", value)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the validation loss, before the checkpoint of this moment is written."""
        loss = trainer.callback_metrics.get("val/loss_per_dim")
        if self.enabled and not trainer.sanity_checking and loss is not None:
            self.losses["validation"].append((trainer.current_epoch + 1, float(loss)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the training loss of the epoch."""
        mean = cast("ScoreModule", pl_module).train_loss
        if self.enabled and mean.update_called:
            self.losses["train"].append((trainer.current_epoch + 1, float(mean.compute())))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last pictures and the losses, and say where they are."""
        if not self.enabled or not trainer.is_global_zero or trainer.interrupted:
            return
        # Lightning has just moved the module to the CPU; the samples belong on the device.
        pl_module.to(trainer.strategy.root_device)
        with self._sampling(pl_module) as module:
            self._final(trainer, module)
        pl_module.cpu()
        curves = {CURVES[name]: points for name, points in self.losses.items()}
        write_pictures(trainer, lambda: {"losses": plots.plot_losses(curves)}, self.directory)
        seconds = time.perf_counter() - self.start
        share = f"{self.seconds_sampling / seconds:.1%} of {seconds:.0f} s"
        rank_zero_info(f"Pictures are in {self.directory} (drawing them took {share})")

    def state_dict(self) -> dict[str, Any]:
        """The losses so far, so that a resumed run draws the whole curve; the last preview."""
        return {name: vars(self)[name] for name in ("losses", "last_preview", "estimates")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue like the run that is resumed."""
        vars(self).update(state_dict)

    def _is_due(self, trainer: Trainer) -> bool:
        first, every = not self.last_preview, self.every_n_epochs
        return first or (trainer.current_epoch + 1) // every > self.last_preview // every

    def _preview(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Draw samples once, for pictures and for estimates."""
        data = data_of(trainer)
        reference = data.reference("val")
        num_compared = int(min(self.num_compared, data.kind.max_samples(reference)))
        num = max(self.num_samples, num_compared)
        with self._sampling(pl_module) as module, monitored(trainer, 0) as monitor:
            sampler = self.sampler or module.preview_sampler
            draw = in_precision(trainer, module.draw)
            samples = draw(0, num, sampler=sampler, monitor=monitor)
            self._write_samples(trainer, module, samples, f"_step={trainer.global_step:07d}")
            if not num_compared:
                return {}
            try:
                estimates = data.kind.compare(samples[:num_compared], reference, errors=False)
            except ValueError as error:
                rank_zero_warn(f"samples were not compared with data: {error}")
                return {}
        return {name: estimate.value for name, estimate in estimates.items()}

    def _final(self, trainer: Trainer, module: "ScoreModule") -> None:
        """Draw samples of the trained model, and how they emerge from the noise."""
        num_steps = module.sampler.num_steps_on(module.noise_levels)
        trajectory = Trajectory(tweedie=num_steps - 1 if module.sampler.denoise else None)
        with monitored(trainer, num_steps, trajectory) as monitor:
            samples = in_precision(trainer, module.draw)(0, self.num_samples, monitor=monitor)
        if not samples.isfinite().all():
            rank_zero_warn(
                "samples are not finite: lower the step size of model.sampler, or train longer"
            )
        self._write_samples(trainer, module, samples)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            label = module.labels_in_turn(0, len(x))
            return x + sigma**2 * module.score(x, x.new_full((len(x),), sigma), label)

        draw = partial(data_of(trainer).kind.draw_trajectory, trajectory, samples, denoise)
        write_pictures(trainer, draw, self.directory)

    def _write_samples(
        self, trainer: Trainer, module: "ScoreModule", samples: Tensor, suffix: str = ""
    ) -> None:
        data, samples = data_of(trainer), samples[: self.num_samples]
        label, when = module.labels_in_turn(0, len(samples)), f", step {trainer.global_step:,}"
        reference = data.reference("val")
        model = model_of(trainer, module)
        draw = partial(data.kind.draw_samples, samples, label, reference, model, when)
        write_pictures(trainer, draw, self.directory, suffix)

    @contextmanager
    def _sampling(self, pl_module: LightningModule) -> Iterator["ScoreModule"]:
        """The module as it samples, while the clock runs."""
        start = time.perf_counter()
        with evaluating(pl_module) as module:
            yield module
        self.seconds_sampling += time.perf_counter() - start
