r"""Time to quality: distance of samples to data against wall-clock and against training images.

python tests/benchmarks/time_to_quality.py --data_dir data

Trains configs one after the other as `ncsn fit` does. At the end of each epoch it takes the
validation loss per dimension, and the Fréchet distance of samples that the averaged weights and
the config's preview sampler draw. The clock stands still meanwhile.
"""

import csv
import os
import time
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Callback
from machine import describe, synchronize
from matplotlib.figure import Figure
from shared import build, print_table

from ncsn import plots
from ncsn.runtime import keep_freed_memory


@dataclass
class Point:
    """The quality at a moment in training."""

    config: str
    epoch: int
    images: int
    seconds: float
    loss: float
    fd: float


class QualityCurve(Callback):
    """Records the loss, the Fréchet distance, and the seconds of training alone.

    Args:
        config: Name of the config.
        max_seconds: Training ends with the epoch in which these have passed.
    """

    def __init__(self, config: str, max_seconds: float) -> None:
        self.config, self.max_seconds = config, max_seconds
        self.points: list[Point] = []
        self.seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it."""
        if not trainer.sanity_checking:
            synchronize()
            self.seconds += time.perf_counter() - self.start

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the quality, and start the clock again."""
        if trainer.sanity_checking:
            return
        metrics, epoch = trainer.callback_metrics, trainer.current_epoch + 1
        loss = float(metrics["val/loss_per_dim"])
        distances = [metrics.pop(name) for name in list(metrics) if "_fd_v" in name]
        fd = float(distances[0]) if distances else float("nan")  # samples may not be finite
        images = trainer.global_step * trainer.datamodule.batch_size
        self.points.append(Point(self.config, epoch, images, self.seconds, loss, fd))
        print(self.points[-1])
        trainer.should_stop = self.seconds > self.max_seconds
        self.start = time.perf_counter()


def train(config: str, options: list[str], max_seconds: float) -> list[Point]:
    """The curve of one config."""
    cli = build(config, *options)
    curve = QualityCurve(config, max_seconds)
    cli.trainer.callbacks.append(curve)
    cli.trainer.fit(cli.model, cli.datamodule)
    return curve.points


def plot(points: list[Point]) -> Figure:
    """Distance against wall-clock and against images."""
    figure = plots.new_figure(10, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    for config in dict.fromkeys(point.config for point in points):
        curve = [point for point in points if point.config == config]
        for axes, name in zip(panels, ("seconds", "images"), strict=True):
            x = [getattr(point, name) for point in curve]
            axes.plot(x, [point.fd for point in curve], marker="o", label=f"{config}.yaml")
    panels[0].set(xlabel="seconds of training", ylabel="Fréchet distance in own features")
    panels[1].set(xlabel="training images")
    for axes in panels:
        axes.set(xscale="log", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.suptitle(describe(), fontsize="small")
    return figure


def measure(
    configs: tuple[str, ...] = ("mnist_cpu", "mnist"),
    data_dir: Path | None = None,
    num_samples: int = 1000,
    max_seconds: float = float("inf"),
    output: Path = Path("time_to_quality"),
    options: tuple[str, ...] = (),
) -> None:
    """Print a table in Markdown; write it as .csv, and a picture as .png.

    Args:
        configs: Names of configs of images.
        data_dir: Directory with MNIST/raw.
        num_samples: Samples that are compared with data.
        max_seconds: Seconds of training after which a config is left, at the end of an epoch.
        output: The files, without their suffix.
        options: More options for the command line, such as --trainer.max_epochs=1.
    """
    keep_freed_memory()
    os.environ.setdefault("WANDB_MODE", "disabled")
    common = [
        f"--model.preview.num_compared={num_samples}",
        "--model.preview.every_n_epochs=1",
        "--trainer.check_val_every_n_epoch=1",
    ]
    if data_dir is not None:
        common.append(f"--data.data_dir={data_dir}")
    points: list[Point] = []
    for config in configs:
        points += train(config, [*common, *options], max_seconds)
        with output.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(vars(points[0])))
            writer.writeheader()
            writer.writerows(vars(point) for point in points)
    plot(points).savefig(output.with_suffix(".png"))
    rows = (
        (p.config, p.epoch, f"{p.images:,}", f"{p.seconds:.0f}", f"{p.loss:.4f}", f"{p.fd:.2f}")
        for p in points
    )
    print_table(("config", "epoch", "images", "seconds", "loss per dimension", "FD"), rows)


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
