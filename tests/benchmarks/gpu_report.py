r"""A page about one GPU, meant to take 9 minutes: speed, memory, synchronisation, and records.

python tests/benchmarks/gpu_report.py --data_dir data

The loops are those of training_speed.py, in the precision of the config, and the rows of records
are those of records.py; the length of a training is cut so that it takes at most `--max_seconds`.
The floors are the times of the arithmetic at the speed of a large bfloat16 matrix product, and of
all that is read and written, operation by operation, at the speed of a large copy: fused kernels
and caches can do better than the second. Without a GPU, rows say so, and all else runs.
"""

import os
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from datetime import date
from pathlib import Path

import lightning.pytorch as pl
import records
import shared
import torch
import training_speed
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Callback
from machine import (
    DEVICE,
    describe,
    flops_and_bytes,
    peak_bandwidth,
    peak_flops,
    seconds,
    synchronize,
)

from ncsn.callbacks.common import in_precision
from ncsn.cli.parser import CLI
from ncsn.runtime import keep_freed_memory

ON_GPU = DEVICE.type == "cuda"
NEEDS_GPU = "needs a GPU"


def machine_section(size: int) -> list[str]:
    """What the card can do at most."""
    rows = [
        (f"matrix product of size {size}, {name}", f"{peak_flops(size, dtype) / 1e12:.4g} TFLOP/s")
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
    ]
    copied = peak_bandwidth(8 * size**2)
    rows.append((f"reading and writing {32 * size**2 / 1e6:.0f} MB", f"{copied / 1e9:.4g} GB/s"))
    memory = f"{torch.cuda.mem_get_info()[1] / 1e9:.0f} GB" if ON_GPU else NEEDS_GPU
    return ["## The card", shared.format_table(("what", "most"), [*rows, ("memory", memory)])]


def speed_section(
    configs: tuple[str, ...], data_dir: Path, seconds_each: float, size: int
) -> tuple[list[str], dict[str, float]]:
    """Images a second of training, and the seconds of a step of ``fit``."""
    rows, steps = [], {}
    arithmetic, bandwidth = peak_flops(size, torch.bfloat16), peak_bandwidth(8 * size**2)
    for config in configs:
        best, _ = training_speed.time_loops(config, data_dir, 1, seconds_each)
        cli = training_speed.build(config, data_dir)
        model, batch_size = cli.model.to(DEVICE), cli.datamodule.batch_size
        x = torch.zeros(batch_size, *model.data_shape, device=DEVICE)
        loss = in_precision(cli.trainer, model.loss)
        sigma = model.sample_noise_levels(batch_size)
        step = lambda loss=loss, x=x, sigma=sigma: loss(x, sigma).mean().backward()  # noqa: E731
        flops, moved = flops_and_bytes(step)
        floors = (flops / arithmetic, moved / bandwidth)
        times = (*(best[loop] for loop in training_speed.LOOPS), *floors)
        cells = [f"{batch_size / each:,.0f}" for each in times]
        ratio = f"{best['straightforward'] / best['fit']:.2f}"
        rows.append([f"`{config}.yaml`", cli.trainer.precision, batch_size, *cells, ratio])
        steps[config] = best["fit"]
    heading = ("config", "precision", "batch", "first script, images/s", "bare loop", "`fit`")
    heading += ("arithmetic floor", "bandwidth floor", "`fit` / first script")
    return ["## Training speed", shared.format_table(heading, rows)], steps


def sampler(cli: CLI, num: int) -> Callable[[], object]:
    """A function that draws samples with the preview's sampler, in the config's precision."""
    model = cli.model
    draw = in_precision(cli.trainer, model.draw)
    return lambda: draw(0, num, sampler=model.preview.sampler or model.preview_sampler)


def sampling_section(configs: tuple[str, ...], options: tuple[str, ...], num: int) -> list[str]:
    """Samples a second with and without CUDA graphs; the noise is drawn outside of them."""
    rows = []
    for config in configs:
        cli = shared.build(config, *options)
        cli.model.to(DEVICE).eval()
        draw = sampler(cli, num)
        eager = seconds(draw, repeats=2)
        cells = [f"`{config}.yaml`", num, f"{num / eager:,.0f}", NEEDS_GPU, "", ""]
        if ON_GPU:
            cli.model.network.compile(mode="reduce-overhead")
            start = time.perf_counter()
            draw()
            synchronize()
            compiling = time.perf_counter() - start
            graphs = seconds(draw, repeats=2)
            cells[3:] = [f"{num / graphs:,.0f}", f"{eager / graphs:.2f}", f"{compiling:.0f}"]
        rows.append(cells)
    heading = ("config", "samples at a time", "samples/s", "with CUDA graphs", "ratio")
    return ["## Sampling", shared.format_table((*heading, "seconds to compile"), rows)]


@contextmanager
def synchronisations() -> Iterator[list[str]]:
    """Collects where the GPU was waited for, while the mode of torch is "warn"."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield found
        finally:
            watch(False)
    for each in caught:
        if "called a synchronizing" in str(each.message):
            found.append(f"{Path(each.filename).name}:{each.lineno}")


def watch(on: bool) -> None:
    """Have torch warn of each synchronisation, or no longer."""
    if ON_GPU:
        torch.cuda.set_sync_debug_mode("warn" if on else "default")


class Watch(Callback):
    """Watches the steps after the warm-up."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Begin."""
        watch(training_speed.WARM_UP <= trainer.global_step < trainer.max_steps - 1)


def synchronisation_section(
    configs: tuple[str, ...], options: tuple[str, ...], data_dir: Path, num: int
) -> list[str]:
    """Whether a step of training that logs nothing, or of a sampler, waits for the GPU."""
    rows = []
    for config in configs:
        args = (*shared.data_options(data_dir), "--model.preview.every_n_epochs=0", *options)
        steps = training_speed.WARM_UP + 10
        args += ("--trainer.log_every_n_steps=1000", "--trainer.limit_val_batches=0")
        args += ("--trainer.max_epochs=-1", f"--trainer.max_steps={steps}")
        cli = shared.build(config, *args)
        with synchronisations() as in_training:
            cli.trainer.callbacks.append(Watch())
            cli.trainer.fit(cli.model, cli.datamodule)
        cli.model.to(DEVICE).eval()
        method = cli.model.preview.sampler or cli.model.preview_sampler
        with synchronisations() as in_sampling:  # from the end of the first step on
            cli.model.draw(0, num, sampler=method, monitor=lambda *_: watch(True))
        for what, found in (("training", in_training), ("sampling", in_sampling)):
            places = ", ".join(dict.fromkeys(found))
            answer = (f"yes: {places}" if found else "no") if ON_GPU else NEEDS_GPU
            rows.append((f"`{config}.yaml`", what, answer))
    heading = ("config", "step", "waits for the GPU")
    return ["## Synchronisation", shared.format_table(heading, rows)]


def records_section(
    steps: dict[str, float], epochs: float, max_seconds: float, num: int, options: tuple[str, ...]
) -> list[str]:
    """Trainings as long as the time allows, with the distance at the end, and their memory."""
    rows, memory = [], []
    for config, step in steps.items():
        data = shared.build(config, *options).datamodule
        epoch = step * len(data.splits["train"]) / data.batch_size
        length = min(epochs, max_seconds / epoch)
        length = round(length) if length >= 1 else length
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        distances = records.Distances(num, every=max_seconds / 6)
        records.train(config, length, 0, options, distances)
        rows.append(records.row(config, length, 0, distances.points))
        most = f"{torch.cuda.max_memory_allocated() / 2**20:,.0f} MB" if ON_GPU else NEEDS_GPU
        memory.append((f"`{config}.yaml`", most))
    return [
        *("## Records", shared.format_table(records.HEADING, rows)),
        *("## Peak memory of training and of drawing samples in it",),
        shared.format_table(("config", "most at a time"), memory),
    ]


def report(
    data_dir: Path = Path("data"),
    configs: tuple[str, ...] = ("mnist", "mnist_best"),
    epochs: float = 30.0,
    max_seconds: float = 100.0,
    seconds_each: float = 5.0,
    num_samples: int = 2000,
    batch_size: int = 256,
    size: int = 8192,
    output: Path = Path("gpu_report.md"),
    options: tuple[str, ...] = (),
) -> None:
    """Print a page in Markdown, and write it to a file after each section.

    Args:
        data_dir: Directory with MNIST/raw.
        configs: Which configs to train.
        epochs: Epochs of each training, if they do not take longer than ``max_seconds``.
        max_seconds: The most seconds that a training takes.
        seconds_each: About how long each loop of the speed of training runs.
        num_samples: Samples that are compared with data.
        batch_size: Samples at a time in the speed of sampling.
        size: Of the matrices of the fastest arithmetic.
        output: The file.
        options: More options for the command line, except for the speed of training.
    """
    keep_freed_memory()
    os.environ.setdefault("WANDB_MODE", "disabled")
    data_dir, output, start = data_dir.resolve(), output.resolve(), time.perf_counter()
    with_data = (*shared.data_options(data_dir), *options)
    command = shlex.join(["python", *sys.argv])
    page = [f"# {describe()}", f"{date.today()}, torch {torch.__version__}, `{command}`."]

    def add(section: list[str]) -> None:
        page.extend(section)
        output.write_text("\n\n".join(page) + "\n")
        print(*section, sep="\n\n", end="\n\n", flush=True)

    with tempfile.TemporaryDirectory() as directory, chdir(directory):  # runs leave files there
        add(machine_section(size))
        section, steps = speed_section(configs, data_dir, seconds_each, size)
        add(section)
        add(sampling_section(configs, options, batch_size))
        add(synchronisation_section(configs, options, data_dir, batch_size))
        add(records_section(steps, epochs, max_seconds, num_samples, with_data))
    add([f"All this took {time.perf_counter() - start:.0f} seconds."])


if __name__ == "__main__":
    auto_cli(report, as_positional=False)
