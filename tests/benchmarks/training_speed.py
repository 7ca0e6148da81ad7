r"""Training throughput: a straightforward loop, a bare loop with our kernels, `ncsn fit`.

python tests/benchmarks/training_speed.py --data_dir data

The straightforward loop is what a first script does: float32 in PyTorch's default memory format,
torchvision's MNIST with ToTensor through a DataLoader, Adam. The bare loop is our own model, data,
optimizer, average of the weights and memory settings. To these, `fit` adds what the framework
costs: Lightning's loops and hooks, loggers, the progress bar, checkpoints, and our checks of the
numbers. All three train the same network, each in a process of its own; they take turns, and each
keeps its best round. The floor is the time of the arithmetic at the speed of a large matrix
product, the best of several in the same run.
"""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Callback
from machine import (
    DEVICE,
    alone,
    describe,
    flops_and_bytes,
    peak_bandwidth,
    peak_flops,
    synchronize,
)
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor
from tqdm import tqdm

from ncsn.callbacks import update_average
from ncsn.cli import CLI, keep_freed_memory
from ncsn.noise import perturb

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "mnist": "ConditionedResNet of mnist.yaml",
    "mnist_cpu": "U-Net of mnist_cpu.yaml",
    "moons": "MLP of moons.yaml",
}
WARM_UP = 5
"""Steps before the clock starts."""


class Clock:
    """Gives the batches of a loop, over epochs, and times it after the warm-up."""

    seconds: float

    def batches(self, loader: Iterable[Any], num_steps: int) -> Iterator[tuple[int, Any]]:
        """The warm-up's batches and ``num_steps`` more, each with its number."""
        numbers = count()
        while True:
            for batch in loader:
                step = next(numbers)
                if step == WARM_UP:
                    synchronize()
                    start = time.perf_counter()
                yield step, batch
                if step == WARM_UP + num_steps - 1:
                    synchronize()
                    self.seconds = time.perf_counter() - start
                    return


class StepClock(Callback):
    """Seconds of the training steps after the warm-up."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Start the clock."""
        if trainer.global_step == WARM_UP:
            synchronize()
            self.start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it."""
        synchronize()
        self.stop = time.perf_counter()


def build(config: str, data_dir: Path, num_steps: int = 1) -> CLI:
    """Trainer, model and data of a config, without validation and pictures."""
    args = {
        "config": ROOT / f"configs/{config}.yaml",
        "model.preview_every_n_epochs": 0,
        "trainer.max_steps": num_steps + WARM_UP,
        "trainer.max_epochs": -1,
        "trainer.limit_val_batches": 0,
        "trainer.enable_model_summary": False,
        "trainer.accelerator": "auto" if DEVICE.type == "cuda" else "cpu",
    }
    if config != "moons":
        args["data.data_dir"] = data_dir
    return CLI([f"--{name}={value}" for name, value in args.items()], run=False)


def fit(config: str, data_dir: Path, num_steps: int) -> float:
    """Seconds a step of ``ncsn fit``."""
    keep_freed_memory()
    cli, clock = build(config, data_dir, num_steps), StepClock()
    cli.trainer.callbacks.append(clock)
    cli.trainer.fit(cli.model, cli.datamodule)
    return (clock.stop - clock.start) / num_steps


def bare_loop(config: str, data_dir: Path, num_steps: int) -> float:
    """Seconds a step of the same work without Lightning, the average of the weights included."""
    keep_freed_memory()
    cli = build(config, data_dir)
    model, data = cli.model.to(DEVICE), cli.datamodule
    data.setup("fit")
    parameters = list(model.network.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = model.optimizer(parameters)
    clock = Clock()
    for step, (x, _) in clock.batches(data.train_dataloader(), num_steps):
        optimizer.zero_grad()
        loss = model.loss(data.to_float(x.to(DEVICE)))
        loss.backward()
        optimizer.step()
        update_average(average, parameters, step, model.ema_decay)
    return clock.seconds / num_steps


def straightforward_loop(config: str, data_dir: Path, num_steps: int) -> float:
    """Seconds a step of a first script with the same network."""
    cli = build(config, data_dir)
    model = cli.model.to(DEVICE)
    model.network.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(model.network.parameters())
    data = MNIST(str(data_dir), transform=ToTensor())
    loader = DataLoader(data, cli.datamodule.batch_size, shuffle=True, drop_last=True)
    clock = Clock()
    for _, (images, _) in clock.batches(loader, num_steps):
        x = 2 * images.to(DEVICE) - 1
        sigma = model.sample_noise_levels(len(x))
        x_sigma, z = perturb(x, sigma)
        residual = sigma[:, None, None, None] * model.score(x_sigma, sigma) + z
        loss = residual.square().sum((1, 2, 3)).mean() / model.noise_levels[0] ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return clock.seconds / num_steps


LOOPS = {"straightforward": straightforward_loop, "bare": bare_loop, "fit": fit}


def measure(
    data_dir: Path = Path("data"),
    rounds: int = 3,
    seconds_each: float = 15.0,
    configs: tuple[str, ...] = tuple(CONFIGS),
) -> None:
    """Print a table in Markdown.

    Args:
        data_dir: Directory with MNIST/raw.
        rounds: How often each loop is run.
        seconds_each: About how long each run is.
        configs: Which configs to train.
    """
    data_dir, here = data_dir.resolve(), Path.cwd()
    os.environ.setdefault("WANDB_MODE", "disabled")
    peak, bandwidth = peak_flops(), peak_bandwidth()
    measured = []
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)  # runs leave their files there
        for config in configs:
            loops = list(LOOPS)[config == "moons" :]
            num_steps = max(3, round(seconds_each / alone(bare_loop, config, data_dir, 3)))
            best = dict.fromkeys(loops, float("inf"))
            for _ in tqdm(range(rounds), desc=config):
                for loop in loops:
                    best[loop] = min(best[loop], alone(LOOPS[loop], config, data_dir, num_steps))
                peak = max(peak, peak_flops())
            cli = build(config, data_dir)
            model, batch_size = cli.model.to(DEVICE), cli.datamodule.batch_size
            x = torch.zeros(batch_size, *model.data_shape, device=DEVICE)
            flops, moved = flops_and_bytes(lambda m=model, x=x: m.loss(x).backward())
            measured.append((config, batch_size, best, flops, moved))
        os.chdir(here)
    rows = []
    for config, batch_size, best, flops, moved in measured:
        straightforward, bare, ours = (best.get(loop, float("nan")) for loop in LOOPS)
        row = [f"{batch_size / each:.0f}" for each in (straightforward, bare, ours)]
        row += [f"{straightforward / ours:.2f}", f"{ours / bare - 1:+.1%}"]
        row += [f"{1e3 * (ours - bare):.2f}", f"{flops / 1e9:.2f}", f"{moved / 1e9:.2f}"]
        rows.append([CONFIGS[config], *row, f"{ours * peak / flops:.1f}"])
    print(f"{describe()}: {peak / 1e9:.0f} GFLOP/s (matrix product), {bandwidth / 1e9:.0f} GB/s")
    heading = (
        "network | straightforward, examples/s | bare | fit | fit / straightforward | "
        "fit over bare | the same in ms a step | GFLOP a step | GB a step, without caches | "
        "times the floor"
    )
    print(f"| {heading} |", "|---" * len(rows[0]) + "|", sep="\n")
    print(*(f"| {' | '.join(row)} |".replace("nan", "") for row in rows), sep="\n")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
