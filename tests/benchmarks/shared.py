"""What the benchmarks share: objects of a config, a distance, tables in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from machine import DEVICE
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

from ncsn.cli.parser import CLI
from ncsn.evaluation import Reference, standard_errors
from ncsn.evaluation.codec import to_uint8
from ncsn.evaluation.features import extract_features
from ncsn.evaluation.metrics import frechet_distance

ROOT = Path(__file__).parents[2]
Metric = Callable[[Tensor], tuple[float, float]]
"""A value of samples, and its standard error."""


def config_path(name: str) -> Path:
    """The file of a shipped config."""
    return ROOT / f"configs/{name}.yaml"


def build(config: str, *options: str) -> CLI:
    """Trainer, model and data of a config, with options of the command line."""
    return CLI([f"--config={config_path(config)}", *options])


def data_options(data_dir: Path | None) -> list[str]:
    """Options of the command line for data in another directory than that of the config."""
    return [] if data_dir is None else [f"--data.data_dir={data_dir}"]


def frechet_metric(reference: Reference, num: int) -> Metric:
    """The Fréchet distance of samples in [-1, 1] to ``num`` training images, with its error."""
    assert reference.features is not None
    network = reference.features.to(DEVICE)
    rows = torch.randperm(len(reference.train), generator=torch.Generator().manual_seed(0))[:num]
    train = extract_features(network, reference.train[rows].to(DEVICE)).features

    def metric(samples: Tensor) -> tuple[float, float]:
        x = extract_features(network, to_uint8(samples.to(DEVICE))).features
        error = standard_errors(distances, x, train, distance=True)["fd"]
        return frechet_distance(x, train), error

    def distances(x: Tensor, y: Tensor) -> dict[str, float]:
        return {"fd": frechet_distance(x, y)}

    return metric


def log_log(axes: Axes, xlabel: str, ylabel: str, floor: float | None = None) -> None:
    """Logarithmic axes with plain numbers, and a floor if there is one."""
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    both: tuple[Axis, Axis] = (axes.xaxis, axes.yaxis)
    for axis in both:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    if floor is not None:
        axes.axhline(floor, color="0.4", ls=":", label="floor: test images")
    axes.grid(alpha=0.3, which="both")


def format_table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def print_table(
    heading: Sequence[str], rows: Iterable[Sequence[object]], path: Path | None = None
) -> None:
    """Print a table in Markdown, and write it to a file if there is one."""
    table = format_table(heading, rows)
    print(table)
    if path is not None:
        path.write_text(table + "\n")
