r"""Cost and memory of a training step as functions of batch, filters, blocks, image size, levels.

python tests/benchmarks/scaling.py

One of them is changed at a time, the others stay those of `configs/mnist.yaml`. Memory is what the
forward pass keeps for the backward pass. The table ends with the coefficients that
docs/engineering/scale.md uses.
"""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from machine import DEVICE, describe, flops_and_bytes, seconds
from matplotlib.figure import Figure
from rich.progress import track
from shared import print_table
from torch import Tensor

from ncsn import plots
from ncsn.modules import NCSN
from ncsn.networks import ConditionedResNet
from ncsn.runtime import keep_freed_memory

DEFAULT = {"batch": 32, "filters": 64, "blocks": 7, "size": 28, "levels": 10}
VALUES = {
    "batch": [1, 4, 16, 32, 64, 128],
    "filters": [8, 16, 32, 64, 128],
    "blocks": [1, 2, 4, 7, 14],
    "size": [8, 16, 28, 56, 112],
    "levels": [2, 10, 100, 1000],
}


def saved_bytes(module: NCSN, x: Tensor, sigma: Tensor) -> int:
    """Bytes of the tensors that the forward pass saves, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = module.loss(x, sigma)  # while it lives, so do the tensors: no address comes twice
    del loss
    return sum(saved.values())


def cost(batch: int, filters: int, blocks: int, size: int, levels: int) -> dict[str, float]:
    """Seconds, arithmetic and memory of a training step, and seconds of an evaluation."""
    shape = (1, size, size)
    network = ConditionedResNet(filters=filters, num_blocks=blocks)
    module = NCSN(network, num_levels=levels, data_shape=shape).to(DEVICE)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    x = torch.rand(batch, *shape, device=DEVICE)
    sigma = module.sample_noise_levels(batch)

    def step() -> None:
        optimizer.zero_grad()
        module.loss(x, sigma).mean().backward()
        optimizer.step()

    @torch.inference_mode()
    def evaluate() -> None:
        module.score(x, sigma)

    flops, _ = flops_and_bytes(step)
    return {
        "training step in ms": 1e3 * seconds(step, repeats=3),
        "network evaluation in ms": 1e3 * seconds(evaluate, repeats=3),
        "GFLOP a training step": flops / 1e9,
        "saved activations in MB": saved_bytes(module, x, sigma) / 1e6,
    }


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Time and memory over each of the sizes."""
    figure = plots.new_figure(11.7, 4.5)
    units = ("training step in ms", "saved activations in MB")
    panels = figure.subplots(2, len(VALUES), sharey="row", sharex="col")
    for row, key in zip(panels, units, strict=True):
        row[0].set_ylabel(key)
        for axes, name in zip(row, VALUES, strict=True):
            curve = [each for each in rows if each["varied"] == name]
            axes.plot([each[name] for each in curve], [each[key] for each in curve], marker="o")
            axes.set(xscale="log", yscale="log")
            axes.grid(alpha=0.3, which="both")
    for axes, name in zip(panels[1], VALUES, strict=True):
        axes.set_xlabel({"size": "image side"}.get(name, name))
    figure.suptitle(f"one training step of the reference ResNet; {describe()}", fontsize="small")
    return figure


def measure(output: Path = Path("scaling.png"), max_batch: int = 128, max_size: int = 112) -> None:
    """Print tables in Markdown and write a picture.

    Args:
        output: The picture.
        max_batch: Larger batches are left out.
        max_size: Larger images are left out.
    """
    keep_freed_memory()
    rows = []
    limits = {"batch": max_batch, "size": max_size}
    variants = [
        (name, {**DEFAULT, name: value})
        for name, values in VALUES.items()
        for value in values
        if value <= limits.get(name, value)
    ]
    for varied, sizes in track(variants, "Measuring"):
        rows.append({"varied": varied, **sizes, **cost(**sizes)})
    plot(rows).savefig(output)
    heading = list(rows[0])[1:]
    print(describe(), end="\n\n")
    print_table(heading, ([f"{row[name]:.5g}" for name in heading] for row in rows))
    largest = max(rows, key=lambda row: row["GFLOP a training step"])
    volume = largest["batch"] * largest["size"] ** 2 * largest["blocks"] * largest["filters"]
    flops = 1e9 * largest["GFLOP a training step"] / volume / largest["filters"]
    memory = 1e6 * largest["saved activations in MB"] / volume
    rate = largest["GFLOP a training step"] / largest["training step in ms"] * 1e3
    print()
    coefficients = (
        ("FLOP a step", "batch · pixels · blocks · filters²", f"{flops:.1f}"),
        ("bytes saved", "batch · pixels · blocks · filters", f"{memory:.1f}"),
        ("GFLOP/s reached", "", f"{rate:.0f}"),
    )
    print_table(("coefficient", "of", "value"), coefficients)
    print(f"\nThe picture is {output}.")


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
