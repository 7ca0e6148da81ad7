"""Pictures of samples, drawn during training from the averaged weights."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.progress import track
from torch import Tensor

from ncsn import plots
from ncsn.callbacks.graceful_stop import refuse_to_go_on
from ncsn.errors import Stopped
from ncsn.evaluation import Scores, image_scores, point_scores
from ncsn.metrics import load_features
from ncsn.noise import Stream, seeded_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncsn.data import InMemoryDataModule
    from ncsn.modules import ScoreModule

__all__ = ["ImageSamples", "PointSamples"]


def data_of(trainer: pl.Trainer) -> "InMemoryDataModule":
    """The datamodule that the trainer was given."""
    return cast("InMemoryDataModule", trainer.datamodule)  # type: ignore[attr-defined]


def reference_points(
    data: "InMemoryDataModule", samples: Tensor, split: str
) -> tuple[Tensor, Tensor]:
    """Two sets of points to compare samples with, as many as there are samples.

    Fresh ones where the density is known, else training data and data of a held-out split.
    """
    num = len(samples)
    if data.exact is None:
        first, second = data.splits["train"].data[:num], data.splits[split].data[:num]
    else:
        device = next(data.exact.buffers()).device
        generator = seeded_generator(Stream.TEST, device=device)
        first, second = (data.exact.sample(num, generator) for _ in range(2))
    return first.to(samples), second.to(samples)


def warn_if_not_finite(samples: Tensor) -> None:
    """Say that a picture will show nothing, and why; training is not the worse for it."""
    if not samples.isfinite().all():
        rank_zero_warn(
            "samples are not finite: lower the step size of model.sampler, or train longer"
        )


@contextmanager
def evaluating(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator["ScoreModule"]:
    """The module in evaluation mode, without gradients, in the trainer's precision."""
    training = pl_module.training
    pl_module.eval()
    with torch.inference_mode(), trainer.precision_plugin.forward_context():
        yield cast("ScoreModule", pl_module)
    pl_module.train(training)


def send_picture(trainer: pl.Trainer, path: Path) -> None:
    """Send a written picture to W&B, captioned with the step."""
    step = trainer.global_step
    title = path.name.split("_step=")[0].removesuffix(".png").replace(".", "_")
    key, caption = f"pictures/{title}", [f"{title}, step {step}"]
    for logger in trainer.loggers:
        if not isinstance(logger, WandbLogger):
            continue
        if path.suffix == ".gif":
            logger.log_video(key, [str(path)], step=step, format=["gif"], caption=caption)
        else:
            logger.log_image(key, [str(path)], step=step, caption=caption)


class SamplePictures(Callback, ABC):
    """Base class: draws samples while training goes on, and once more when it has ended.

    Samples of a preview are scored too, as ``val/...``, which a ``ModelCheckpoint`` can monitor.
    Pictures during training come from the module's ``preview_sampler``, those at the end from its
    ``sampler``. All start from the same noise, so that they can be compared. They are written to
    ``pictures/`` in the directory of the run, and to W&B if that is one of the loggers.

    During training they are drawn at the end of a validation, while the averaged weights are in
    place: this callback has to come before the one that averages.

    Args:
        every_n_epochs: Epochs between two pictures, at least 1; they are drawn at the first
            validation, and then at the first one after so many epochs each.
        num_samples: Number of samples in a picture, at least 1.
        num_scored: Number of samples of a preview that are scored; 0 for none.
    """

    def __init__(self, every_n_epochs: int, num_samples: int, num_scored: int = 0) -> None:
        self.every_n_epochs, self.num_samples = every_n_epochs, num_samples
        self.num_scored = num_scored
        self.directory = Path()
        self.losses: dict[str, list[tuple[int, float]]] = {"train": [], "validation": []}
        self.last_preview = 0
        self.scores: dict[str, float] = {}
        self.seconds_sampling = 0.0
        self.start = 0.0

    @abstractmethod
    def draw_preview(
        self, trainer: pl.Trainer, module: "ScoreModule", samples: Tensor, label: Tensor | None
    ) -> None:
        """Draw and write the pictures of a moment in training."""

    @abstractmethod
    def score(self, data: "InMemoryDataModule", samples: Tensor) -> Scores:
        """Score samples of a moment in training."""

    @abstractmethod
    def draw_final(self, trainer: pl.Trainer, module: "ScoreModule") -> None:
        """Draw and write the pictures of the trained model."""

    # ---- Lightning's hooks -------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Agree on the directory, which all ranks have to take part in."""
        self.directory = Path(trainer.log_dir or "") / "pictures"
        self.start = time.perf_counter()

    def on_validation_epoch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Repeat the last scores where there will be no new ones, for a ``ModelCheckpoint``."""
        if not trainer.sanity_checking and not self._is_due(trainer):
            for name, value in self.scores.items():
                pl_module.log(f"val/{name}", value, logger=False)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw a preview, if one is due."""
        if trainer.sanity_checking or not self._is_due(trainer):
            return
        self.last_preview = trainer.current_epoch + 1
        scores: dict[str, float] = {}
        stopped = None
        if trainer.is_global_zero:
            try:
                with self._sampling(trainer, pl_module) as module:
                    scores = self._preview(trainer, module)
            except Stopped as error:
                stopped = error.signum
        scores, stopped = trainer.strategy.broadcast((scores, stopped))
        if stopped is not None:
            raise Stopped(stopped)
        self.scores = scores
        for name, value in scores.items():
            pl_module.log(f"val/{name}", value)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the validation loss, before the checkpoint of this moment is written."""
        if not trainer.sanity_checking:
            self._remember("validation", trainer, trainer.callback_metrics.get("val/loss"))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the training loss of the epoch."""
        mean = cast("ScoreModule", pl_module).train_loss
        self._remember("train", trainer, mean.compute() if mean.update_called else None)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last pictures and the losses, and say where they are."""
        if not trainer.is_global_zero or trainer.interrupted:
            return
        # Lightning has just moved the module to the CPU; the samples belong on the device.
        pl_module.to(trainer.strategy.root_device)
        with self._sampling(trainer, pl_module) as module:
            self.draw_final(trainer, module)
        pl_module.cpu()
        self.write_figure(trainer, "losses", plots.plot_losses(self.losses))
        seconds = time.perf_counter() - self.start
        share = self.seconds_sampling / seconds
        rank_zero_info(
            f"Pictures are in {self.directory} (drawing them took {share:.1%} of {seconds:.0f} s)"
        )

    def state_dict(self) -> dict[str, Any]:
        """The losses so far, so that a resumed run draws the whole curve; the last preview."""
        return {
            "losses": self.losses,
            "last_preview": self.last_preview,
            "scores": self.scores,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as the run that is resumed would have."""
        self.losses = state_dict["losses"]
        self.last_preview = state_dict["last_preview"]
        self.scores = state_dict["scores"]

    def _is_due(self, trainer: pl.Trainer) -> bool:
        first, every = not self.last_preview, self.every_n_epochs
        return first or (trainer.current_epoch + 1) // every > self.last_preview // every

    def _remember(self, curve: str, trainer: pl.Trainer, loss: Tensor | None) -> None:
        if loss is not None:
            self.losses[curve].append((trainer.current_epoch + 1, float(loss)))

    def _preview(self, trainer: pl.Trainer, module: "ScoreModule") -> dict[str, float]:
        """Draw samples once, for pictures and for scores."""
        data = data_of(trainer)
        num_scored = min(self.num_scored, len(data.splits["val"]))
        num = max(self.num_samples, num_scored)
        label = module.labels_of_samples(0, num)
        samples = module.sample(
            num,
            label,
            sampler=module.preview_sampler,
            generator=module.sample_generator(0, num),
            monitor=lambda sigma, x: refuse_to_go_on(trainer),
        )
        shown = label if label is None else label[: self.num_samples]
        self.draw_preview(trainer, module, samples[: self.num_samples], shown)
        if not num_scored:
            return {}
        try:
            scores = self.score(data, samples[:num_scored])
        except ValueError as error:
            rank_zero_warn(f"samples were not scored: {error}")
            return {}
        return {name: score.value for name, score in scores.items()}

    # ---- helpers -----------------------------------------------------------------------------

    @contextmanager
    def _sampling(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> Iterator["ScoreModule"]:
        """The module as it samples, while the clock runs."""
        start = time.perf_counter()
        with evaluating(trainer, pl_module) as module:
            yield module
        self.seconds_sampling += time.perf_counter() - start

    def write_figure(self, trainer: pl.Trainer, name: str, figure: "Figure") -> None:
        """Write a figure as ``pictures/NAME.png`` and send it to W&B."""
        path = self.path(f"{name}.png")
        figure.savefig(path)
        send_picture(trainer, path)

    def path(self, name: str) -> Path:
        """The path of a picture, in a directory that exists."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory / name


class ImageSamples(SamplePictures):
    """For images: grids of samples; at the end also how they come out of the noise.

    ``data.png`` before training, ``samples_step=N.png`` during training; ``samples.png``,
    ``annealing.png`` (one row a noise level), ``annealing.gif`` and ``losses.png`` at the end.
    """

    num_frames = 40

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A grid of the data, to compare the samples with."""
        if trainer.is_global_zero:
            images = data_of(trainer).splits["train"].data[: self.num_samples]
            self._write_grid(trainer, "data.png", images.float() / 127.5 - 1)

    def draw_preview(
        self, trainer: pl.Trainer, module: "ScoreModule", samples: Tensor, label: Tensor | None
    ) -> None:
        """A grid of samples."""
        name = f"samples_step={trainer.global_step:07d}.png"
        self._write_grid(trainer, name, plots.by_class(samples, label))

    def draw_final(self, trainer: pl.Trainer, module: "ScoreModule") -> None:
        """A grid of samples, the annealing level by level, and as an animation."""
        last_of_level: dict[float, Tensor] = {}
        frames: list[Tensor] = []
        num_evaluations = module.sampler.num_evaluations(len(module.noise_levels))
        frame_every = max(1, num_evaluations // self.num_frames)
        label = module.labels_of_samples(0, self.num_samples)
        generator = module.sample_generator(0, self.num_samples)
        with closing(iter(track(range(num_evaluations), "Sampling"))) as progress:  # type: ignore[type-var]

            def monitor(sigma: float, x: Tensor) -> None:
                refuse_to_go_on(trainer)
                step = next(progress)
                last_of_level[sigma] = x[:10]
                if step % frame_every == 0:
                    frames.append(x[:16])

            samples = module.sample(self.num_samples, label, generator=generator, monitor=monitor)
            next(progress, None)  # completes the bar
        warn_if_not_finite(samples)
        self._write_grid(trainer, "samples.png", plots.by_class(samples, label))
        rows = list(last_of_level.items())
        if len(rows) > 12:  # as many as fit on a screen, the first and the last among them
            rows = [rows[i] for i in torch.linspace(0, len(rows) - 1, 12).round().int().tolist()]
        self.write_figure(trainer, "annealing", plots.plot_annealing(rows))
        path = self.path("annealing.gif")
        plots.save_gif([*frames, samples[:16]], path)
        send_picture(trainer, path)

    def score(self, data: "InMemoryDataModule", samples: Tensor) -> Scores:
        """Distances in the data's feature network; see :func:`ncsn.evaluation.image_scores`."""
        train, held_out = data.splits["train"], data.splits["val"].data[: len(samples)]
        name = data.feature_network
        return image_scores(
            samples,
            train.data.to(samples.device),
            train.labels,
            held_out.to(samples.device),
            load_features(name).to(samples.device) if name else None,
            errors=False,
        )

    def _write_grid(self, trainer: pl.Trainer, name: str, samples: Tensor) -> None:
        plots.save_grid(samples, self.path(name))
        send_picture(trainer, self.path(name))


class PointSamples(SamplePictures):
    """For points in the plane: samples beside data, their density, the score field.

    ``samples_step=N.png`` and ``score_step=N.png`` during training; ``samples.png``,
    ``score.png`` and ``losses.png`` at the end.
    """

    def draw_preview(
        self, trainer: pl.Trainer, module: "ScoreModule", samples: Tensor, label: Tensor | None
    ) -> None:
        """Samples beside data, and the score field."""
        self._draw(trainer, module, samples, suffix=f"_step={trainer.global_step:07d}")

    def draw_final(self, trainer: pl.Trainer, module: "ScoreModule") -> None:
        """Samples beside data, and the score field."""
        samples = module.sample(
            self.num_samples,
            generator=module.sample_generator(0, self.num_samples),
            monitor=lambda sigma, x: refuse_to_go_on(trainer),
        )
        warn_if_not_finite(samples)
        self._draw(trainer, module, samples)

    def score(self, data: "InMemoryDataModule", samples: Tensor) -> Scores:
        """Distances to data; see :func:`ncsn.evaluation.point_scores`."""
        return point_scores(samples, *reference_points(data, samples, "val"), errors=False)

    def _draw(
        self, trainer: pl.Trainer, module: "ScoreModule", samples: Tensor, suffix: str = ""
    ) -> None:
        data = data_of(trainer).splits["val"].data
        title = f"samples ({len(samples):,} points, step {trainer.global_step:,})"
        self.write_figure(
            trainer, f"samples{suffix}", plots.plot_samples(data, samples.cpu(), title)
        )
        sigma = module.noise_levels[-1].item()
        x = plots.plane_grid(data).to(module.device)
        score = module.score(x, x.new_full((len(x),), sigma))
        title = f"score at $\\sigma$ = {sigma:.3g}, step {trainer.global_step:,}"
        self.write_figure(trainer, f"score{suffix}", plots.plot_score_field(data, x, score, title))
