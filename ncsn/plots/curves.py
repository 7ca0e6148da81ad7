"""Curves and bars: losses over epochs and noise levels, classes."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ncsn.plots.style import DATA_COLOR, SAMPLE_COLOR, new_figure

LOSS = "loss per dimension, $\\|\\sigma s + z\\|^2 / D$"
Curve: TypeAlias = Sequence[tuple[int, float]]


def plot_losses(curves: Mapping[str, Curve]) -> Figure:
    """Draw losses over epochs: for each name, pairs of an epoch and a loss."""
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    _curves(axes, curves)
    axes.legend()
    finite = [loss for points in curves.values() for _, loss in points if loss > 0]
    scale = "log" if finite and max(finite) > 5 * min(finite) else "linear"
    axes.set(ylabel=LOSS, yscale=scale)
    return figure


LEVEL_STYLES = {
    "exact": ("exact score", ":"),
    "empirical_train": ("empirical score of the training set", "--"),
    "empirical_test": ("empirical score of the test set", ":"),
}


def plot_levels(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draw the loss of models at each noise level, with the references of the first.

    ``runs`` has rows of :func:`ncsn.evaluation.metrics.losses_per_level` for each model.
    """
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    _levels(axes, runs)
    axes.legend()
    return figure


def plot_diagnosis(
    rows: Sequence[Mapping[str, float]],
    distances: Mapping[str, tuple[float, float]],
    floor: tuple[float, float],
    title: str,
) -> Figure:
    """Draw the loss at each noise level, curl and Stein residual, and distances of solvers.

    ``rows`` has those of :func:`ncsn.evaluation.metrics.losses_per_level` and
    :func:`ncsn.evaluation.metrics.field_per_level`; ``distances`` and the ``floor`` are values
    with standard errors; ``title`` is what the distance is called.
    """
    figure = new_figure(15.0, 4.2)
    losses, field, quality = figure.subplots(1, 3)
    _levels(losses, {"model": rows})
    if "excess" in rows[0]:
        _errorbars(losses, rows, "excess", "excess over the exact score", "tab:orange")
        losses.set_ylim(bottom=min(max(row["excess"], 1e-8) for row in rows) / 3)
        losses.legend()
    _errorbars(field, rows, "curl", "curl", "tab:blue")
    _errorbars(field, rows, "stein_residual", "Stein residual", "tab:orange")
    field.axhline(0, color="black", linestyle=":", label="exact score")
    field.set(xscale="log", xlabel="noise level $\\sigma$", title="± 2 standard errors")
    field.grid(alpha=0.3, which="both")
    field.legend()
    for name, (value, error) in reversed(list(distances.items())):
        quality.errorbar(value, name, xerr=2 * error, marker="o", color=SAMPLE_COLOR, capsize=3)
    low, high = floor[0] - 2 * floor[1], floor[0] + 2 * floor[1]
    quality.axvspan(low, high, color="black", alpha=0.15, label="floor (± 2 standard errors)")
    quality.set(xlabel=title, title="samples by solver (± 2 standard errors)")
    quality.margins(y=0.2)
    quality.grid(alpha=0.3)
    quality.legend()
    return figure


def _errorbars(
    axes: Axes, rows: Sequence[Mapping[str, float]], name: str, label: str, color: str | None
) -> None:
    """A quantity at each noise level, with two standard errors."""
    sigma, values = ([row[key] for row in rows] for key in ("sigma", name))
    errors = [2 * row[f"{name}_standard_error"] for row in rows]
    axes.errorbar(sigma, values, errors, marker=".", label=label, color=color)


def plot_comparison(
    curves: Mapping[str, Mapping[str, Curve]], levels: Mapping[str, Sequence[Mapping[str, float]]]
) -> Figure:
    """Draw metrics of several runs over epochs, and their losses at each noise level.

    ``curves`` has pairs of an epoch and a value by metric and run; see :func:`plot_levels`.
    """
    names = dict.fromkeys(name for runs in (*curves.values(), levels) for name in runs)
    colors = {name: f"C{i}" for i, name in enumerate(names)}
    num = len(curves) + bool(levels)
    figure = new_figure(4.8 * num, 4.0)
    panels = figure.subplots(1, num, squeeze=False)[0]
    for axes, (metric, runs) in zip(panels, sorted(curves.items()), strict=False):
        _curves(axes, runs, colors)
        axes.set(ylabel=metric, yscale="log")
    if levels:
        _levels(panels[-1], levels, colors)
    named: dict[str, Any] = {}  # one legend: a run has one colour in all panels
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    place: Any = {"loc": "outside lower center", "ncols": min(len(named), num)}
    figure.legend(list(named.values()), list(named), **place)
    return figure


def _curves(
    axes: Axes, curves: Mapping[str, Curve], colors: Mapping[str, str] | None = None
) -> None:
    for name, points in curves.items():
        x, y = ([point[i] for point in points] for i in (0, 1))
        marker, color = "." if len(points) < 30 else None, (colors or {}).get(name)
        axes.plot(x, y, label=name, marker=marker, color=color)
    axes.set(xlabel="epoch")
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3, which="both")


def _levels(
    axes: Axes,
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    colors: Mapping[str, str] | None = None,
) -> None:
    for i, (name, rows) in enumerate(runs.items()):
        sigma = [row["sigma"] for row in rows]
        _errorbars(axes, rows, "loss", name, (colors or {}).get(name))
        for key, (title, style) in LEVEL_STYLES.items():
            if i == 0 and key in rows[0]:
                values = [row[key] for row in rows]
                axes.plot(sigma, values, style, color="black", label=title)
    axes.set(xscale="log", yscale="log", xlabel="noise level $\\sigma$", ylabel=LOSS)
    # The references may be many decades away.
    losses = [row["loss"] for rows in runs.values() for row in rows]
    axes.set_ylim(min(losses) / 3, 3 * max(losses))
    axes.set_title("± 2 standard errors", fontsize="medium")
    axes.grid(alpha=0.3, which="both")


def plot_classes(training: Tensor, samples: Tensor, title: str) -> Figure:
    """Draw how often each class occurs in training data, ``(n,)``, and in samples, ``(m,)``.

    ``title`` names the classifier of the samples.
    """
    figure = new_figure(6.4, 3.4)
    axes = figure.subplots()
    num = int(max(training.max(), samples.max())) + 1
    groups = (("training data", training, DATA_COLOR), ("samples", samples, SAMPLE_COLOR))
    for shift, (name, labels, color) in zip((-0.2, 0.2), groups, strict=True):
        shares = torch.bincount(labels, minlength=num) / len(labels)
        axes.bar(torch.arange(num).numpy() + shift, shares.numpy(), 0.4, label=name, color=color)
    axes.set(xlabel="class", ylabel="share", xticks=range(num), title=f"classes, by {title}")
    axes.margins(y=0.2)  # for the legend
    axes.legend(loc="upper center", ncols=2)
    return figure
