r"""Time to quality: distance of samples to data against wall-clock and against training images.

python tests/benchmarks/time_to_quality.py --data_dir data

Trains configs one after the other with `ncsn fit`, and scores samples of the averaged weights at
the end of each epoch, drawn by the config's preview sampler. The clock stands still meanwhile.
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

from ncsn.cli import CLI, keep_freed_memory

ROOT = Path(__file__).parents[2]


@dataclass
class Point:
    """The quality at a moment in training."""

    config: str
    epoch: int
    images: int
    seconds: float
    fd: float


class QualityCurve(Callback):
    """Takes down the Fréchet distance that the previews log, and the seconds of training alone.

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
        """Take down the score, and start the clock again."""
        if trainer.sanity_checking:
            return
        metrics, epoch = trainer.callback_metrics, trainer.current_epoch + 1
        scores = [metrics.pop(name) for name in list(metrics) if "_fd_" in name]
        fd = float(scores[0]) if scores else float("nan")  # samples may have been beyond scoring
        images = trainer.global_step * trainer.datamodule.batch_size
        self.points.append(Point(self.config, epoch, images, self.seconds, fd))
        print(self.points[-1])
        trainer.should_stop = self.seconds > self.max_seconds
        self.start = time.perf_counter()


def train(config: str, options: list[str], max_seconds: float) -> list[Point]:
    """The curve of one config."""
    cli = CLI([f"--config={ROOT}/configs/{config}.yaml", *options], run=False)
    curve = QualityCurve(config, max_seconds)
    cli.trainer.callbacks.append(curve)
    cli.trainer.fit(cli.model, cli.datamodule)
    return curve.points


def plot(points: list[Point]) -> Figure:
    """Distance against wall-clock and against images."""
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
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
        num_samples: Samples that are scored.
        max_seconds: Seconds of training after which a config is left, at the end of an epoch.
        output: The files, without their suffix.
        options: More options for the command line, such as --trainer.max_epochs=1.
    """
    keep_freed_memory()
    os.environ.setdefault("WANDB_MODE", "disabled")
    common = [f"--model.num_scored_samples={num_samples}", "--model.preview_every_n_epochs=1"]
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
    print("| config | epoch | images | seconds | FD |", "|---" * 5 + "|", sep="\n")
    for point in points:
        row = f"{point.epoch} | {point.images:,} | {point.seconds:.0f} | {point.fd:.2f}"
        print(f"| {point.config} | {row} |")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
