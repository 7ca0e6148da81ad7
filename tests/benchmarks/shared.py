"""What the benchmarks share: the objects of a config, and tables in Markdown."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter

from ncsn.cli.parser import CLI

ROOT = Path(__file__).parents[2]


def config_path(name: str) -> Path:
    """The file of a shipped config."""
    return ROOT / f"configs/{name}.yaml"


def build(config: str, *options: str) -> CLI:
    """Trainer, model and data of a config, with options of the command line."""
    return CLI([f"--config={config_path(config)}", *options])


def data_options(data_dir: Path | None) -> list[str]:
    """Options of the command line for data in another directory than that of the config."""
    return [] if data_dir is None else [f"--data.data_dir={data_dir}"]


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
