r"""Quality over network evaluations, 3 to 40, for every sampler on one model, with error bars.

python tests/benchmarks/few_evaluations.py
python tests/benchmarks/few_evaluations.py --targets '["mnist"]' --data_dir data

Figures are kept in few_evaluations.csv: those that are in it are not measured again, so that a run
can be interrupted and extended.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import shared
import torch
from few_samplers import ALL, FLOW, NOISY, Make
from jsonargparse import auto_cli
from machine import DEVICE
from matplotlib import colormaps
from torch import Tensor

from ncsn import plots
from ncsn.evaluation import Reference
from ncsn.evaluation.codec import to_float
from ncsn.evaluation.metrics import energy_distance
from ncsn.exact import TwoMoons
from ncsn.levels import Ladder, Rho, ScoreFunction, geometric
from ncsn.modules import NCSN
from ncsn.modules.pretrained import SHIPPED
from ncsn.sampling import IPNDM, Sampler, fit_ladder

TWO_A_STEP = ("Heun, rho 7", "predictor-corrector")  # so that their number is odd
COLORS = colormaps["tab20"]
EVALUATIONS = (3, 4, 5, 8, 10, 20, 40)
LONG = "annealed Langevin"
TITLES = {
    "flow": "two moons, exact score:\nRMSE to the probability flow",
    "moons": "two moons, exact score:\nenergy distance to the data",
    "digits": "digits, learned score:\nFD in own features",
    "mnist": "MNIST, learned score:\nFD in own features",
}
Measured = tuple[float, float]
"""A value and its standard error."""


class Row(NamedTuple):
    """A figure; for the floor, without evaluations."""

    target: str
    sampler: str
    evaluations: int
    value: float
    error: float


class Target(NamedTuple):
    """A model, and a number that says how good its samples are."""

    score: ScoreFunction
    noise_levels: Tensor
    shape: tuple[int, ...]
    samplers: dict[str, Make]
    measure: Callable[[Sampler], Measured]
    floor: Measured
    long: Sampler | None = None


def mean_and_error(values: list[float]) -> Measured:
    """The mean of independent values, and its standard error."""
    x = torch.tensor(values, dtype=torch.float64)
    return x.mean().item(), x.std().item() / len(x) ** 0.5


def moons(num: int, blocks: int) -> tuple[Target, Target]:
    """The exact score of two moons: how far from the flow, and how far from the data."""
    exact, levels = TwoMoons(num_points=64), geometric(3.5, 0.01, 20)

    def draw(sampler: Sampler, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = sampler.initial(torch.empty(num, 2), levels, generator)
        return sampler(exact, x, levels, generator)

    ends = draw(IPNDM(300, ladder=Rho(7)), 0)

    def to_flow(sampler: Sampler) -> Measured:
        squares = (draw(sampler, 0) - ends).square().sum(1)
        rmse = squares.mean().sqrt().item()
        return rmse, squares.std().item() / num**0.5 / (2 * rmse)

    data = exact.sample(num, torch.Generator().manual_seed(1000)).float()

    def to_data(sampler: Sampler) -> Measured:
        sets = (draw(sampler, seed) for seed in range(blocks))
        return mean_and_error([energy_distance(each, data) for each in sets])

    fresh = (exact.sample(num, torch.Generator().manual_seed(seed)) for seed in range(blocks))
    floor = mean_and_error([energy_distance(each.float(), data) for each in fresh])
    about = exact, levels, (2,)
    return Target(*about, FLOW, to_flow, (0.0, 0.0)), Target(*about, ALL, to_data, floor)


def images(module: NCSN, reference: Reference, num: int, blocks: int) -> Target:
    """A trained model: Fréchet distances of sets of samples to as many training images.

    The standard error is that between sets or, of a single set, that of halves.
    """
    metric = shared.frechet_metric(reference, num)

    def distance(sets: list[Tensor]) -> Measured:
        measured = [metric(each) for each in sets]
        return measured[0] if len(sets) == 1 else mean_and_error([value for value, _ in measured])

    def draw(sampler: Sampler, block: int) -> Tensor:
        first, stop = block * num, (block + 1) * num
        parts = ((i, min(i + 250, stop)) for i in range(first, stop, 250))
        return torch.cat([module.draw(*part, sampler=sampler) for part in parts])

    return Target(
        *(module.score, module.noise_levels, module.data_shape, ALL),
        measure=lambda sampler: distance([draw(sampler, block) for block in range(blocks)]),
        floor=distance([to_float(reference.held_out[:num])]),
        long=module.sampler,
    )


def load(name: str, ckpt_path: Path | None, data_dir: Path | None) -> tuple[NCSN, Reference]:
    """A trained model, by default the shipped one, and its data."""
    if ckpt_path is None:
        module = NCSN.from_pretrained(SHIPPED / name)
    else:
        module = NCSN.load_from_checkpoint(ckpt_path, map_location="cpu").eval()
    config, options = {
        "digits": ("digits", []),
        "mnist": ("mnist_cpu", shared.data_options(data_dir)),
    }[name]
    return module.to(DEVICE), shared.build(config, *options).datamodule.reference("test")


def measure_target(
    name: str, target: Target, evaluations: tuple[int, ...], samplers: tuple[str, ...], path: Path
) -> None:
    """Append to the file what is not in it yet, one row for each figure."""
    known = {row[:3] for row in read(path)}

    def add(sampler: str, num: int, measure: Callable[[], Measured]) -> None:
        if (name, sampler, num) not in known:
            row = Row(name, sampler, num, *measure())
            print(f"{name}: {sampler}, {num}: {row.value:.4g} ± {row.error:.2g}", flush=True)
            with path.open("a", newline="") as file:
                csv.writer(file).writerow(row)
            known.add(row[:3])

    add("floor", 0, lambda: target.floor)
    for num in evaluations:
        fitted: Ladder = geometric
        if any("fitted" in title for title in samplers):
            fitted = fit_to(target, num)
            print(f"{name}: {fitted}")
        for title in filter(target.samplers.__contains__, samplers):
            sampler = target.samplers[title](num, fitted)
            count = num - (title in TWO_A_STEP and num % 2 == 0)
            add(title, count, lambda sampler=sampler: target.measure(sampler))  # type: ignore[misc]
            assert sampler.num_evaluations in (0, count)
    if LONG in samplers and (sampler := target.long) is not None:
        add(LONG, 0, lambda: target.measure(sampler))


def fit_to(target: Target, num: int) -> Ladder:
    """The ladder of :func:`ncsn.sampling.fit_ladder` from 256 trajectories."""
    generator = torch.Generator().manual_seed(77)  # of no sample
    noise = torch.randn(256, *target.shape, generator=generator).to(DEVICE)
    levels = target.noise_levels
    return fit_ladder(target.score, noise * levels[0], levels, num)


def read(path: Path) -> list[Row]:
    """The figures in the file, if there is one."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [Row(t, s, int(n), float(v), float(e)) for t, s, n, v, e in csv.reader(file)]


def plot(rows: list[Row], path: Path) -> None:
    """One panel for each target, both axes logarithmic."""
    targets = [name for name in TITLES if any(row.target == name for row in rows)]
    lines = (len(targets) + 1) // 2
    figure = plots.new_figure(11, 1.6 + 4 * lines)
    panels = figure.subplots(lines, 2, squeeze=False).flat
    for axes, name in zip(panels, targets, strict=False):
        for i, title in enumerate(ALL):
            curve = sorted(row for row in rows if row[:2] == (name, title))
            if not curve:
                continue
            style = {"marker": "s" if title in FLOW else "o", "ms": 4, "capsize": 2, "lw": 1.2}
            values = [row.value for row in curve]
            errors = [min(row.error, 0.9 * abs(row.value)) for row in curve]
            x = [row.evaluations * (1 + 0.004 * (i - len(ALL) / 2)) for row in curve]
            line = "--" if title in FLOW else "-"
            axes.errorbar(x, values, errors, label=title, ls=line, color=COLORS(i), **style)
        for row in rows:
            if row.target == name and row.sampler in ("floor", LONG) and row.value > 0:
                color = "black" if row.sampler == LONG else "gray"
                axes.axhline(row.value, color=color, ls=":", label=row.sampler)
                axes.axhspan(row.value - row.error, row.value + row.error, color=color, alpha=0.12)
        axes.set(xscale="log", yscale="log", xlabel="network evaluations", title=TITLES[name])
        own = {row.evaluations for row in rows if row.target == name}
        ticks = sorted(own & set(EVALUATIONS))
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles = {}
    for axes in figure.axes:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path)


def tabulate(rows: list[Row]) -> None:
    """A table in Markdown for each target."""
    for name in dict.fromkeys(row.target for row in rows):
        own = {row[1:3]: row for row in rows if row.target == name}
        print(f"\n{' '.join(TITLES[name].split())}\n")
        counts = sorted({num for _, num in own if num})
        body = [
            (title, *(_cell(own.get((title, num))) for num in counts))
            for title in dict.fromkeys(title for title, num in own if num)
        ]
        shared.print_table(("sampler", *map(str, counts)), body)
        for title in ("floor", LONG):
            if (title, 0) in own and own[title, 0].value:
                print(f"\n{title}: {_cell(own[title, 0])}")


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row.value:.3g} ± {row.error:.1g}"


def measure(
    targets: tuple[str, ...] = ("flow", "moons", "digits"),
    evaluations: tuple[int, ...] = EVALUATIONS,
    samplers: tuple[str, ...] = (*FLOW, *NOISY, LONG),
    num_samples: int | None = None,
    blocks: int | None = None,
    ckpt_path: Path | None = None,
    data_dir: Path | None = None,
    output: Path = Path("few_evaluations"),
) -> None:
    """Print tables in Markdown; keep the figures as .csv, and draw a picture as .png.

    Args:
        targets: Of flow, moons, digits and mnist.
        evaluations: Network evaluations a sample.
        samplers: Their names, as in the tables.
        num_samples: Samples in a set; by default 2,000 points, 360 digits, 1,000 of MNIST.
        blocks: Sets of samples; by default 4, and 1 of MNIST.
        ckpt_path: A checkpoint for the one target of images, by default the shipped model.
        data_dir: Directory with MNIST/raw.
        output: The files, without their suffix.
    """
    path = output.with_suffix(".csv")
    for name in targets:
        if name in ("flow", "moons"):
            target = moons(num_samples or 2000, blocks or 4)[name == "moons"]
        else:
            sizes = {"digits": (360, 4), "mnist": (1000, 1)}[name]
            model = load(name, ckpt_path, data_dir)
            target = images(*model, num_samples or sizes[0], blocks or sizes[1])
        measure_target(name, target, evaluations, samplers, path)
    rows = read(path)
    plot(rows, output.with_suffix(".png"))
    tabulate(rows)


if __name__ == "__main__":
    auto_cli(measure, as_positional=False)
