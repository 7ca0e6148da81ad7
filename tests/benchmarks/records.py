r"""Records: seconds of training until samples are within 4, 2 and 1.5 times the floor.

python tests/benchmarks/records.py --data_dir data --configs '["mnist_cpu"]' --epochs '[0.5,1,2,5]'

One run of `ncsn fit` for each config, length and seed, without validations and pictures. During a
run, the training stops at times, and its clock with it: the averaged weights and the config's
preview sampler draw samples, which are compared with data as `ncsn test` does it. The standard
errors are those of the last samples. The floor is the distance of as many test images.

Schedules such as OneCycle bring the learning rate down at the end of a run. So a moment within a
run is worse than the end of a run that was meant to be so short, and the seconds to a threshold
are an upper bound. `--epochs` therefore takes lengths, also parts of an epoch: each is a run of
its own, with a row of its own, so nothing is picked among them. Lengths are in epochs, not in
seconds, so that another machine repeats the same training; the seconds are measured. For a record,
take the length with three seeds that you did not choose it by.
"""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import lightning.pytorch as pl
import torch
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Callback
from machine import describe, synchronize
from matplotlib.figure import Figure
from shared import build, data_options, format_table, log_log

from ncsn import plots
from ncsn.callbacks import EMA, OneThread
from ncsn.callbacks.common import batches_of, data_of, evaluating, in_precision
from ncsn.evaluation.estimate import Estimate
from ncsn.runtime import keep_freed_memory

TIMES = (4.0, 2.0, 1.5)
HEADING = (
    *(
        "config",
        "epochs",
        "seed",
        *(f"seconds (images) to {times:g} × the floor" for times in TIMES),
    ),
    *("seconds", "images", "FD at the end", "floor", "hardware", "date"),
)


@dataclass
class Point:
    """The Fréchet distance at a moment in training; ``None`` if samples were not finite."""

    seconds: float
    images: int
    fd: Estimate | None


class Distances(Callback):
    """Measures the distance during training and at its end, while its clock stands still.

    Args:
        num_samples: Number of samples, at most as many as there are test images.
        every: Seconds of training between two measurements.
    """

    def __init__(self, num_samples: int, every: float) -> None:
        self.num_samples, self.every = num_samples, every
        self.points: list[Point] = []
        self.seconds, self.due = 0.0, every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object, **__: object
    ) -> None:
        """Measure if it is time to; the last step has its own measurement."""
        passed = self.seconds + time.perf_counter() - self.start
        if passed >= self.due and trainer.global_step < trainer.max_steps:
            self.measure(trainer, pl_module, errors=False)
            self.due = self.seconds + self.every

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure with standard errors."""
        self.measure(trainer, pl_module, errors=True)

    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, errors: bool) -> None:
        """Stop the clock, add a point, and start it again."""
        synchronize()
        self.seconds += time.perf_counter() - self.start
        # They do here what they do for a validation: put the average in place, take all threads.
        hooks = [each for each in trainer.callbacks if isinstance(each, EMA | OneThread)]
        for each in hooks:
            each.on_validation_start(trainer, pl_module)
        fd = self.distance(trainer, pl_module, errors=errors)
        for each in hooks:
            each.on_validation_end(trainer, pl_module)
        images = trainer.global_step * data_of(trainer).batch_size
        self.points.append(Point(self.seconds, images, fd))
        print(f"{self.seconds:.0f} s: {fd.formatted if fd else 'not finite'}", file=sys.stderr)
        self.start = time.perf_counter()

    def distance(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, errors: bool
    ) -> Estimate | None:
        """The distance of samples to data, with its floor."""
        data = data_of(trainer)
        reference = data.reference("test")
        num = int(min(self.num_samples, data.kind.max_samples(reference)))
        with evaluating(pl_module) as module:
            draw = in_precision(trainer, module.draw)
            sampler = module.preview.sampler or module.preview_sampler
            batches = batches_of(trainer, module, num)
            samples = torch.cat([draw(*each, sampler=sampler) for each in batches])
            if not samples.isfinite().all():
                return None
            found = data.kind.compare(samples, reference, errors=errors)
        return next(each for name, each in found.items() if "_fd_v" in name)


def seconds_to(points: Sequence[Point], times: float) -> str:
    """When the distance was first within some times its floor, or how far it came."""
    for point in points:
        if point.fd and point.fd.floor and point.fd.value <= times * point.fd.floor:
            return f"{point.seconds:.0f} ({point.images:,})"
    last = points[-1]
    reached = f"{last.fd.value / last.fd.floor:.1f}" if last.fd and last.fd.floor else "not finite"
    return f"not reached ({reached} at {last.seconds:.0f} s)"


def train(
    config: str, epochs: float | None, seed: int, options: Sequence[str], distances: Distances
) -> float:
    """Train a config for a number of epochs, by default its own; returns the number."""
    common = [f"--seed_everything={seed}", "--model.preview.every_n_epochs=0"]
    common += ["--trainer.limit_val_batches=0", *options]
    cli = build(config, *common)
    epochs = epochs or cli.trainer.max_epochs
    steps = max(1, round(epochs * len(cli.datamodule.splits["train"]) / cli.datamodule.batch_size))
    cli = build(config, *common, "--trainer.max_epochs=-1", f"--trainer.max_steps={steps}")
    cli.trainer.callbacks.append(distances)
    cli.trainer.fit(cli.model, cli.datamodule)
    return epochs


def row(config: str, epochs: float, seed: int, points: Sequence[Point]) -> list[str]:
    """A row of the table."""
    last = points[-1]
    cells = [f"`{config}.yaml`", f"{epochs:.3g}", str(seed)]
    cells += [seconds_to(points, times) for times in TIMES]
    cells += [f"{last.seconds:.0f}", f"{last.images:,}"]
    cells += [last.fd.formatted, last.fd.formatted_floor] if last.fd else ["not finite", ""]
    return [*cells, describe(), date.today().isoformat()]


def plot(runs: dict[str, Sequence[Point]]) -> Figure:
    """Distance over seconds of training, one line a run; its last bar is a standard error."""
    figure = plots.new_figure(7.5, 5)
    axes = figure.subplots()
    for k, (title, points) in enumerate(runs.items()):
        found = [(point.seconds, point.fd) for point in points if point.fd]
        if not found:
            continue
        seconds = [each for each, _ in found]
        values, errors = zip(
            *((fd.value, fd.standard_error or 0.0) for _, fd in found), strict=True
        )
        axes.errorbar(seconds, values, errors, marker="o", ms=4, label=title)
        if (floor := found[-1][1].floor) is not None:
            axes.axhline(floor, color=f"C{k}", ls=":", lw=1)
    log_log(axes, "seconds of training", "Fréchet distance in own features (dotted: floor)")
    axes.legend()
    figure.suptitle(describe(), fontsize="small")
    return figure


def measure(
    configs: tuple[str, ...] = ("mnist_cpu",),
    data_dir: Path | None = None,
    epochs: tuple[float, ...] = (),
    seeds: tuple[int, ...] = (0,),
    num_samples: int = 2000,
    every: float = 30.0,
    output: Path = Path("records"),
    options: tuple[str, ...] = (),
) -> None:
    """Print a table in Markdown; write it as .md and curves as .png after each run.

    Args:
        configs: Names of configs of images that have a feature network.
        data_dir: Directory with MNIST/raw.
        epochs: Lengths of runs, also parts of an epoch; by default, that of the config.
        seeds: Seeds of the runs.
        num_samples: Samples that are compared with as many images.
        every: Seconds of training between two measurements within a run.
        output: The files, without their suffix.
        options: More options for the command line, such as --trainer.precision=auto.
    """
    keep_freed_memory()
    os.environ.setdefault("WANDB_MODE", "disabled")
    options = (*data_options(data_dir), *options)
    rows: list[list[str]] = []
    runs: dict[str, Sequence[Point]] = {}
    for config in configs:
        for length in epochs or (None,):
            for seed in seeds:
                distances = Distances(num_samples, every)
                trained = train(config, length, seed, options, distances)
                rows.append(row(config, trained, seed, distances.points))
                runs[f"{config}.yaml, {trained:.3g} epochs, seed {seed}"] = distances.points
                command = shlex.join(["python", *sys.argv])
                table = f"`{command}`:\n\n{format_table(HEADING, rows)}\n"
                output.with_suffix(".md").write_text(table)
                plot(runs).savefig(output.with_suffix(".png"))
    print(table)


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
