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
from contextlib import chdir
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import shared
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
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor
from tqdm import tqdm

from ncsn.callbacks.common import in_precision
from ncsn.callbacks.ema import decay_after
from ncsn.cli.parser import CLI
from ncsn.levels import expand_as, perturb
from ncsn.runtime import keep_freed_memory

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
        "model.preview.every_n_epochs": 0,
        "trainer.max_steps": num_steps + WARM_UP,
        "trainer.max_epochs": -1,
        "trainer.limit_val_batches": 0,
        "trainer.enable_model_summary": False,
        "trainer.accelerator": "auto" if DEVICE.type == "cuda" else "cpu",
    }
    if config != "moons":
        args["data.data_dir"] = data_dir
    return shared.build(config, *(f"--{name}={value}" for name, value in args.items()))


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
    optimizer, loss = model.optimizer(parameters), in_precision(cli.trainer, model.loss)
    clock = Clock()
    for step, (x, _) in clock.batches(data.train_dataloader(), num_steps):
        optimizer.zero_grad()
        x = data.kind.decode(x.to(DEVICE))
        loss(x, model.sample_noise_levels(len(x))).mean().backward()
        optimizer.step()
        update = get_ema_multi_avg_fn(decay_after(step, cli.config.ema.decay))
        update(average, parameters, step)
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
        residual = expand_as(sigma, x) * model.score(x_sigma, sigma) + z
        loss = residual.square().sum((1, 2, 3)).mean() / model.noise_levels[0] ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return clock.seconds / num_steps


LOOPS = {"straightforward": straightforward_loop, "bare": bare_loop, "fit": fit}


def time_loops(
    config: str, data_dir: Path, rounds: int, seconds_each: float
) -> tuple[dict[str, float], float]:
    """The best seconds a step of each loop, and the most FLOP/s of a matrix product meanwhile.

    The product is in the precision of the config, as ``fit`` and the bare loop are.
    """
    loops, peak = list(LOOPS)[config == "moons" :], 0.0
    bf16 = "bf16" in build(config, data_dir).trainer.precision
    num_steps = max(3, round(seconds_each / alone(bare_loop, config, data_dir, 3)))
    best = dict.fromkeys(loops, float("inf"))
    for _ in tqdm(range(rounds), desc=config):
        for loop in loops:
            best[loop] = min(best[loop], alone(LOOPS[loop], config, data_dir, num_steps))
        peak = max(peak, peak_flops(dtype=torch.bfloat16 if bf16 else torch.float32))
    return best, peak


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
    data_dir = data_dir.resolve()
    os.environ.setdefault("WANDB_MODE", "disabled")
    float32, bandwidth, measured = peak_flops(), peak_bandwidth(), []
    with tempfile.TemporaryDirectory() as directory, chdir(directory):  # runs leave files there
        for config in configs:
            best, peak = time_loops(config, data_dir, rounds, seconds_each)
            cli = build(config, data_dir)
            model, batch_size = cli.model.to(DEVICE), cli.datamodule.batch_size
            x = torch.zeros(batch_size, *model.data_shape, device=DEVICE)
            sigma = model.sample_noise_levels(batch_size)
            step = lambda m=model, x=x, sigma=sigma: m.loss(x, sigma).mean().backward()  # noqa: E731
            title = f"{CONFIGS[config]}, {cli.trainer.precision}"
            measured.append((title, batch_size, best, peak, *flops_and_bytes(step)))
    rows = []
    for title, batch_size, best, peak, flops, moved in measured:
        straightforward, bare, ours = (best.get(loop, float("nan")) for loop in LOOPS)
        row = [title, *(f"{batch_size / each:.0f}" for each in (straightforward, bare, ours))]
        row += [f"{straightforward / ours:.2f}", f"{ours / bare - 1:+.1%}"]
        row += [f"{1e3 * (ours - bare):.2f}", f"{flops / 1e9:.2f}", f"{moved / 1e9:.2f}"]
        row += [f"{ours * peak / flops:.1f}"]
        rows.append([cell.replace("nan", "") for cell in row])
    print(f"{describe()}: {float32 / 1e9:.0f} GFLOP/s (float32), {bandwidth / 1e9:.0f} GB/s")
    heading = (
        *("network", "straightforward, examples/s", "bare", "fit", "fit / straightforward"),
        *("fit over bare", "the same in ms a step", "GFLOP a step"),
        *("GB a step, without caches", "times the floor"),
    )
    shared.print_table(heading, rows)


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
