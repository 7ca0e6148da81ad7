r"""Quality after equal wall-clock: other libraries' own models of MNIST, and ours.

python tests/benchmarks/peers_training.py --data_dir data --seconds 300

Each trains in a process of its own, and is measured by the same ruler: Fréchet distance in our
features, precision and recall, of as many samples, each from the sampler that its documentation
takes. The clock stands still while samples are drawn and measured. Libraries that are not
installed are skipped: pip install -e '.[peers]' installs them.
"""

import resource
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Callback
from machine import DEVICE, alone, describe, synchronize
from matplotlib.figure import Figure
from peers import PEERS, SAMPLES_AT_ONCE, installed, versions
from shared import build, data_options, log_log, print_table
from torch import Tensor
from torch.utils.data import TensorDataset

from ncsn import plots
from ncsn.callbacks.ema import EMA
from ncsn.evaluation import Estimate, Reference, standard_errors
from ncsn.evaluation.codec import to_float, to_uint8
from ncsn.evaluation.features import extract_features
from ncsn.evaluation.metrics import frechet_distance
from ncsn.modules import ScoreModule
from ncsn.runtime import keep_freed_memory
from ncsn.sampling import Sampler

OURS: dict[str, tuple[str, ...]] = {
    "ncsn": (),
    "ncsn, float32": ("--trainer.precision=32-true",),
}
"""Our trainings, and options: in bfloat16 where it is fast, and in float32 as the others are."""

HEADING = (
    *("library", "parameters", "images", "images/s", "memory in training", "sampler"),
    *("evaluations", "ms a sample", "FD", "precision", "recall"),
)
Metric = Callable[[Tensor], tuple[float, float]]


@dataclass
class Run:
    """What became of one of them.

    Attributes:
        curve: Seconds and images of training, Fréchet distance and its standard error.
        floor: What the curve would be at if samples were test images.
        estimates: All that the last samples were found to be, with floors.
    """

    name: str
    parameters: int = 0
    sampler: str = ""
    evaluations: int = 0
    images: int = 0
    seconds: float = 0.0
    sampling_seconds: float = 0.0
    memory: float = 0.0
    curve: list[tuple[float, int, float, float]] = field(default_factory=list)
    floor: float = 0.0
    estimates: dict[str, Estimate] = field(default_factory=dict)
    samples: Tensor | None = None


def frechet_metric(reference: Reference, num: int) -> Metric:
    """The Fréchet distance of samples in [-1, 1] to ``num`` training images, with its error."""
    assert reference.features is not None
    network = reference.features.to(DEVICE)
    rows = torch.randperm(len(reference.train), generator=torch.Generator().manual_seed(0))[:num]
    train = extract_features(network, reference.train[rows].to(DEVICE)).features

    def metric(samples: Tensor) -> tuple[float, float]:
        x = extract_features(network, to_uint8(samples.to(DEVICE))).features
        statistic = lambda x, y: {"fd": frechet_distance(x, y)}  # noqa: E731
        error = standard_errors(statistic, x, train, distance=True)["fd"]
        return frechet_distance(x, train), error

    return metric


class Clock:
    """Counts seconds of training, and draws and measures samples while it stands still.

    Args:
        run: Where figures go.
        marks: Seconds after which to do so; training ends with the last.
        sample: Draws a number of samples.
        metric: Measures those of the curve.
        num: Numbers of samples of the curve and at the end.
    """

    def __init__(
        self,
        run: Run,
        marks: Sequence[float],
        sample: Callable[[int], Tensor],
        metric: Metric,
        num: tuple[int, int],
    ) -> None:
        self.run, self.marks, self.num = run, [*marks], num
        self.sample, self.metric = sample, metric
        self.start = time.perf_counter()

    def tick(self, num_images: int) -> bool:
        """Count a step of training; whether it was the last."""
        self.run.images += num_images
        synchronize()
        now = time.perf_counter()
        self.run.seconds, self.start = self.run.seconds + now - self.start, now
        if self.run.seconds >= self.marks[0]:
            passed = [mark for mark in self.marks if self.run.seconds >= mark]
            self.evaluate(last=len(passed) == len(self.marks))
            self.marks = self.marks[len(passed) :]
            self.start = time.perf_counter()
        return not self.marks

    def evaluate(self, last: bool) -> None:
        """Draw and measure samples."""
        run, start = self.run, time.perf_counter()
        if not run.curve:  # before sampling, which takes memory of its own
            kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            on_gpu = DEVICE.type == "cuda"
            run.memory = torch.cuda.max_memory_allocated() if on_gpu else 1024.0 * kilobytes
        samples = self.sample(self.num[last])
        synchronize()
        run.sampling_seconds = (time.perf_counter() - start) / len(samples)
        run.samples = samples.cpu()
        run.curve.append((run.seconds, run.images, *self.metric(samples[: self.num[0]])))
        seconds, _, value, error = run.curve[-1]
        print(f"{run.name}: {seconds:.0f} s, FD {value:.3g} ± {error:.1g}", flush=True)


def draw(module: ScoreModule, num: int, sampler: Sampler) -> Tensor:
    """Samples of our model."""
    starts = range(0, num, SAMPLES_AT_ONCE)
    parts = ((start, min(start + SAMPLES_AT_ONCE, num)) for start in starts)
    return torch.cat([module.draw(*part, sampler=sampler) for part in parts])


def train_peer(
    run: Run, marks: Sequence[float], metric: Metric, num: tuple[int, int], reference: Reference
) -> None:
    """Train one of the other libraries."""
    peer = PEERS[run.name](TensorDataset(to_float(reference.train), reference.labels))
    run.sampler = peer.sampler
    run.parameters = sum(each.numel() for each in peer.network.parameters())
    steps = peer.steps()
    clock = Clock(run, marks, peer.sample, metric, num)
    while not clock.tick(next(steps)):
        pass
    run.evaluations = peer.evaluations


class Ticks(Callback):
    """Hands the steps of a Lightning training to a clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.clock.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, _: int
    ) -> None:
        """Stop with the last mark."""
        trainer.should_stop = self.clock.tick(len(batch[0]))


def ours(options: Sequence[str], max_steps: int) -> Any:
    """The command line's objects of mnist_cpu.yaml, for a number of steps.

    Validation and pictures are off, since the others have none, and the EMA is on, as always.
    """
    fixed = (
        f"--trainer.accelerator={DEVICE.type}",
        "--trainer.max_epochs=1000",
        "--trainer.limit_val_batches=0",
        "--model.preview.every_n_epochs=0",
    )
    return build("mnist_cpu", *options, *fixed, f"--trainer.max_steps={max_steps}")


def train_ours(
    run: Run, marks: Sequence[float], metric: Metric, num: tuple[int, int], options: Sequence[str]
) -> None:
    """Train our model as `ncsn fit` does.

    Its learning rate falls to zero over the steps that it is told to take, so a short trial first
    finds how many fit into the time.
    """
    trial = ours(options, 1_000_000)
    short, times = Run(run.name), (marks[-1] / 60, marks[-1] / 20)
    clock = Clock(short, times, lambda num: torch.zeros(num, 1), lambda x: (0.0, 0.0), num)
    trial.trainer.callbacks.append(Ticks(clock))
    trial.trainer.fit(trial.model, trial.datamodule)
    (start, before, *_), (stop, after, *_) = short.curve[0], short.curve[-1]
    batches = (after - before or short.images) / trial.datamodule.batch_size
    rate = batches / (stop - start or short.seconds)
    cli = ours(options, max(1, int(rate * marks[-1])))
    module, sampler = cli.model, cli.model.preview_sampler
    run.parameters = sum(each.numel() for each in module.network.parameters())

    @contextmanager
    def averaged() -> Any:
        (ema,) = (each for each in cli.trainer.callbacks if isinstance(each, EMA))
        ema.on_validation_start(cli.trainer, module)
        module.eval()
        yield
        module.train()
        ema.on_validation_end(cli.trainer, module)

    def sample(num: int) -> Tensor:
        with averaged():
            return draw(module, num, sampler)

    clock = Clock(run, marks, sample, metric, num)
    cli.trainer.callbacks.append(Ticks(clock))
    cli.trainer.fit(module, cli.datamodule)
    if clock.marks:  # it was a little faster than in the trial
        module.to(DEVICE)
        clock.evaluate(last=True)
    run.sampler, run.evaluations = "SDE-DPM-Solver++, 20 steps", sampler.num_evaluations


def train(
    name: str, seconds: float, num: tuple[int, int], options: tuple[str, ...], seed: int
) -> Run:
    """Train and measure one of them."""
    keep_freed_memory()
    torch.manual_seed(seed)
    data = build("mnist_cpu", *options).datamodule
    reference = data.reference("test")
    run, marks = Run(name), [seconds / 8, seconds / 4, seconds / 2, seconds]
    metric = frechet_metric(reference, num[0])
    run.floor, _ = metric(to_float(reference.held_out[: num[0]]))
    if name in OURS:
        own = (*options, *OURS[name], f"--seed_everything={seed}")
        train_ours(run, marks, metric, num, own)
    else:
        train_peer(run, marks, metric, num, reference)
    assert run.samples is not None
    run.estimates = data.kind.compare(run.samples.to(DEVICE), reference)
    return run


def plot(runs: Sequence[Run]) -> Figure:
    """Distance over seconds of training, one line each."""
    figure = plots.new_figure(9, 5)
    axes = figure.subplots()
    for run in runs:
        seconds, _, values, errors = zip(*run.curve, strict=True)
        axes.errorbar(seconds, values, errors, marker="o", ms=4, capsize=2, label=run.name)
    log_log(axes, "seconds of training", "Fréchet distance in own features", runs[0].floor)
    figure.legend(loc="outside right upper")
    figure.suptitle(describe(), fontsize="small")
    return figure


def row(run: Run) -> tuple[object, ...]:
    """Of the table."""
    (fd,) = (value for name, value in run.estimates.items() if "_fd_v" in name)
    return (
        *(run.name, f"{run.parameters:,}", f"{run.images:,}", f"{run.images / run.seconds:.0f}"),
        *(f"{run.memory / 2**30:.2f} GiB", run.sampler, run.evaluations),
        *(f"{1000 * run.sampling_seconds:.1f}", fd.formatted),
        *(run.estimates[each].formatted for each in ("precision", "recall")),
    )


def measure(
    libraries: tuple[str, ...] = (*OURS, *PEERS),
    data_dir: Path | None = None,
    seconds: float = 300.0,
    num_samples: int = 2000,
    num_curve: int = 500,
    seeds: tuple[int, ...] = (0,),
    output: Path = Path("peers_training"),
) -> None:
    """Print a table in Markdown, write it as .md, draw curves as .png and samples as .NAME.png.

    Args:
        libraries: Names, as in the table.
        data_dir: Directory with MNIST/raw.
        seconds: Wall-clock of training of each.
        num_samples: Samples measured at the end.
        num_curve: Samples measured for the curve, after 1/8, 1/4, 1/2 and all of the time.
        seeds: One training each.
        output: The files, without their suffix.
    """
    runs: list[Run] = []
    num, options = (num_curve, num_samples), tuple(data_options(data_dir))
    for name in libraries:
        if name in OURS or installed(name, PEERS[name].requires):
            for seed in seeds:
                run = alone(train, name, seconds, num, options, seed)
                run.name += f", seed {seed}" * (len(seeds) > 1)
                runs.append(run)
                plot(runs).savefig(output.with_suffix(".png"))
                grid = plots.image_grid(to_uint8(run.samples[:100]))  # type: ignore[index]
                grid.save(
                    output.with_suffix(f".{run.name.replace(', ', '_').replace(' ', '_')}.png")
                )
    floors = {key: each.formatted_floor for key, each in runs[0].estimates.items()}
    (fd,) = (name for name in floors if "_fd_v" in name)
    floor = (
        "*floor: test images*",
        *[""] * 7,
        *(floors[key] for key in (fd, "precision", "recall")),
    )
    body = [*map(row, runs), floor]
    print_table(HEADING, body, output.with_suffix(".md"))
    print(f"\n{seconds:.0f} s each, {num_samples:,} samples; {describe()}; {versions()}")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
