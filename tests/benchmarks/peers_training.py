r"""Quality after equal wall-clock: other libraries' own models of MNIST, and ours.

python tests/benchmarks/peers_training.py --data_dir data --seconds '[300,900]'

Each trains in a process of its own, and is measured by the same ruler: Fréchet distance in our
features, precision and recall, of as many samples, each from the sampler that its documentation
takes. The clock stands still while samples are drawn and measured. The learning rates of the
others are constant, so one training serves all times; ours falls, so each time is a training.
Libraries that are not installed are skipped: pip install -e '.[peers]' installs them.
"""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Callback
from machine import DEVICE, alone, describe, synchronize
from matplotlib.figure import Figure
from peers import PEERS, SAMPLES_AT_ONCE, installed, versions
from shared import Metric, build, data_options, frechet_metric, log_log, print_table
from torch import Tensor
from torch.utils.data import TensorDataset

from ncsn import plots
from ncsn.callbacks.ema import EMA
from ncsn.evaluation import Estimate, Reference
from ncsn.evaluation.codec import to_float, to_uint8
from ncsn.modules import ScoreModule
from ncsn.runtime import keep_freed_memory
from ncsn.sampling import Sampler

OURS: dict[str, tuple[str, ...]] = {
    "ncsn": (),
    "ncsn, float32": ("--trainer.precision=32-true",),
}
"""Our trainings, and options: in bfloat16 where it is fast, and in float32 as the others are."""

HEADING = (
    *("library", "seconds", "parameters", "images", "images/s", "memory in training", "sampler"),
    *("evaluations", "ms a sample", "FD", "precision", "recall"),
)


@dataclass
class Point:
    """A moment in a training.

    Attributes:
        mark: The time after which it was to be, in seconds.
        seconds: The time that it was.
        images: Images seen.
        samples: Drawn then.
        sampling_seconds: For each of the samples.
        fd: Fréchet distance of those of the curve.
        error: Its standard error.
        estimates: All that the samples were found to be, with floors; empty within the curve.
    """

    mark: float
    seconds: float
    images: int
    samples: Tensor
    sampling_seconds: float
    fd: float
    error: float
    estimates: dict[str, Estimate] = field(default_factory=dict)


@dataclass
class Run:
    """A training of one of them.

    Attributes:
        floor: What the curve would be at if samples were test images.
    """

    name: str
    parameters: int = 0
    sampler: str = ""
    evaluations: int = 0
    images: int = 0
    seconds: float = 0.0
    memory: float = 0.0
    curve: list[Point] = field(default_factory=list)
    floor: float = 0.0


class Clock:
    """Counts seconds of training, and draws and measures samples while it stands still.

    Args:
        run: Where figures go.
        marks: Seconds after which to do so, and how many; training ends with the last.
        sample: Draws a number of samples.
        metric: Measures those of the curve, which are the first.
        num_curve: Their number.
    """

    def __init__(
        self,
        run: Run,
        marks: Mapping[float, int],
        sample: Callable[[int], Tensor],
        metric: Metric,
        num_curve: int,
    ) -> None:
        self.run, self.marks, self.num_curve = run, dict(sorted(marks.items())), num_curve
        self.sample, self.metric = sample, metric
        self.start = time.perf_counter()

    def tick(self, num_images: int) -> bool:
        """Count a step of training; whether it was the last."""
        self.run.images += num_images
        synchronize()
        now = time.perf_counter()
        self.run.seconds, self.start = self.run.seconds + now - self.start, now
        passed = [mark for mark in self.marks if self.run.seconds >= mark]
        if passed:
            self.evaluate(passed)
            self.start = time.perf_counter()
        return not self.marks

    def evaluate(self, marks: Sequence[float]) -> None:
        """Draw and measure samples, for the last of these marks."""
        run, start = self.run, time.perf_counter()
        if not run.curve:  # before sampling, which takes memory of its own
            kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            on_gpu = DEVICE.type == "cuda"
            run.memory = torch.cuda.max_memory_allocated() if on_gpu else 1024.0 * kilobytes
        num = [self.marks.pop(mark) for mark in marks]
        samples = self.sample(max(num))
        synchronize()
        seconds = (time.perf_counter() - start) / len(samples)
        fd, error = self.metric(samples[: self.num_curve])
        point = Point(marks[-1], run.seconds, run.images, samples.cpu(), seconds, fd, error)
        run.curve.append(point)
        print(f"{run.name}: {run.seconds:.0f} s, FD {fd:.3g} ± {error:.1g}", flush=True)


def draw(module: ScoreModule, num: int, sampler: Sampler) -> Tensor:
    """Samples of our model."""
    starts = range(0, num, SAMPLES_AT_ONCE)
    parts = ((start, min(start + SAMPLES_AT_ONCE, num)) for start in starts)
    return torch.cat([module.draw(*part, sampler=sampler) for part in parts])


def train_peer(
    run: Run, marks: Mapping[float, int], metric: Metric, num_curve: int, reference: Reference
) -> None:
    """Train one of the other libraries."""
    peer = PEERS[run.name](TensorDataset(to_float(reference.train), reference.labels))
    run.sampler = peer.sampler
    run.parameters = sum(each.numel() for each in peer.network.parameters())
    steps = peer.steps()
    clock = Clock(run, marks, peer.sample, metric, num_curve)
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
    run: Run, marks: Mapping[float, int], metric: Metric, num_curve: int, options: Sequence[str]
) -> None:
    """Train our model as `ncsn fit` does.

    Its learning rate falls to zero over the steps that it is told to take, so a short trial first
    finds how many fit into the time.
    """
    trial = ours(options, 1_000_000)
    short, end = Run(run.name), max(marks)
    times = {end / 60: 1, end / 20: 1}
    clock = Clock(short, times, lambda num: torch.zeros(num, 1), lambda x: (0.0, 0.0), 1)
    trial.trainer.callbacks.append(Ticks(clock))
    trial.trainer.fit(trial.model, trial.datamodule)
    first, last = short.curve[0], short.curve[-1]
    batches = (last.images - first.images or short.images) / trial.datamodule.batch_size
    rate = batches / (last.seconds - first.seconds or short.seconds)
    cli = ours(options, max(1, int(rate * end)))
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

    clock = Clock(run, marks, sample, metric, num_curve)
    cli.trainer.callbacks.append(Ticks(clock))
    cli.trainer.fit(module, cli.datamodule)
    if clock.marks:  # it was a little faster than in the trial
        module.to(DEVICE)
        clock.evaluate([*clock.marks])
    run.sampler, run.evaluations = "SDE-DPM-Solver++, 20 steps", sampler.num_evaluations


def train(
    name: str, times: Sequence[float], num: tuple[int, int], options: tuple[str, ...], seed: int
) -> Run:
    """Train and measure one of them: ``num`` samples within the curve and after each time."""
    keep_freed_memory()
    torch.manual_seed(seed)
    data = build("mnist_cpu", *options).datamodule
    reference = data.reference("test")
    run, (num_curve, num_samples) = Run(name), num
    marks = {max(times) / share: num_curve for share in (8, 4, 2)}
    marks |= {seconds: num_samples for seconds in times}
    metric = frechet_metric(reference, num_curve)
    run.floor, _ = metric(to_float(reference.held_out[:num_curve]))
    if name in OURS:
        own = (*options, *OURS[name], f"--seed_everything={seed}")
        train_ours(run, marks, metric, num_curve, own)
    else:
        train_peer(run, marks, metric, num_curve, reference)
    for point in run.curve:
        if point.mark in times:
            point.estimates = data.kind.compare(point.samples.to(DEVICE), reference)
    return run


def plot(runs: Sequence[Run]) -> Figure:
    """Distance over seconds of training, one line each."""
    figure = plots.new_figure(9, 5)
    axes = figure.subplots()
    for run in runs:
        points = zip(*((each.seconds, each.fd, each.error) for each in run.curve), strict=True)
        several = [each.name for each in runs].count(run.name) > 1
        label = f"{run.name}, {run.seconds:.0f} s" if several else run.name
        axes.errorbar(*points, marker="o", ms=4, capsize=2, label=label)
    log_log(axes, "seconds of training", "Fréchet distance in own features", runs[0].floor)
    figure.legend(loc="outside right upper")
    axes.set_title(describe(), fontsize="small")
    return figure


def row(run: Run, point: Point) -> tuple[object, ...]:
    """Of the table."""
    (fd,) = (value for name, value in point.estimates.items() if "_fd_v" in name)
    return (
        *(run.name, f"{point.seconds:.0f}", f"{run.parameters:,}", f"{point.images:,}"),
        *(f"{point.images / point.seconds:.0f}", f"{run.memory / 2**30:.2f} GiB", run.sampler),
        *(run.evaluations, f"{1000 * point.sampling_seconds:.1f}", fd.formatted),
        *(point.estimates[each].formatted for each in ("precision", "recall")),
    )


def measure(
    libraries: tuple[str, ...] = (*OURS, *PEERS),
    data_dir: Path | None = None,
    seconds: tuple[float, ...] = (300.0,),
    num_samples: int = 2000,
    num_curve: int = 500,
    seeds: tuple[int, ...] = (0,),
    output: Path = Path("peers_training"),
) -> None:
    """Print a table in Markdown, write it as .md, draw curves as .png and samples as .NAME.png.

    Args:
        libraries: Names, as in the table.
        data_dir: Directory with MNIST/raw.
        seconds: Times of training, each with rows of its own.
        num_samples: Samples measured after each of them.
        num_curve: Samples measured for the curve, also after 1/8, 1/4 and 1/2 of the longest.
        seeds: Trainings of each.
        output: The files, without their suffix.
    """
    runs: list[Run] = []
    body: list[tuple[object, ...]] = []
    num, options = (num_curve, num_samples), tuple(data_options(data_dir))
    for name in libraries:
        if name in OURS or installed(name, PEERS[name].requires):
            trainings = [(each,) for each in seconds] if name in OURS else [seconds]
            for seed, times in product(seeds, trainings):
                run = alone(train, name, times, num, options, seed)
                run.name += f", seed {seed}" * (len(seeds) > 1)
                runs.append(run)
                plot(runs).savefig(output.with_suffix(".png"))
                for point in filter(lambda each: each.estimates, run.curve):
                    body.append(row(run, point))
                    floors = {key: each.formatted_floor for key, each in point.estimates.items()}
                    label = f"{run.name} {point.mark:g} s".replace(",", "").replace(" ", "_")
                    grid = plots.image_grid(to_uint8(point.samples[:100]))
                    grid.save(output.with_suffix(f".{label}.png"))
    (fd,) = (name for name in floors if "_fd_v" in name)
    body.append(("*floor: test images*", *[""] * 8, *map(floors.get, (fd, "precision", "recall"))))
    print_table(HEADING, body, output.with_suffix(".md"))
    print(f"\n{num_samples:,} samples; {describe()}; {versions()}")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
