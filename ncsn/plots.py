"""Pictures: from tensors to PNG and GIF files. Nothing here knows of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "by_class",
    "image_grid",
    "plot_annealing",
    "plot_classes",
    "plot_comparison",
    "plot_fields",
    "plot_levels",
    "plot_losses",
    "plot_neighbours",
    "plot_samples",
    "plot_score_field",
    "save_gif",
    "save_grid",
    "to_uint8",
]

DATA_COLOR, SAMPLE_COLOR = "tab:gray", "tab:blue"


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8: x / 2 + 1/2, clamped to [0, 1], times 255."""
    return (images / 2 + 0.5).clamp(0, 1).mul(255).round().byte()


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Arrange images in a grid, enlarged by a whole factor so that a cell is about 64 pixels.

    Args:
        images: Shape ``(n, channels, height, width)``, in [-1, 1].
        columns: Number of images in a row.

    Returns:
        The grid, uint8, shape ``(3, grid_height, grid_width)``.
    """
    factor = max(1, round(64 / images.shape[-1]))
    enlarged = to_uint8(images).repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    return make_grid(enlarged.cpu(), nrow=columns, padding=2, pad_value=128)


def square_columns(num: int) -> int:
    """Number of columns that makes a grid of ``num`` images as square as it can be."""
    return max(1, round(num**0.5))


def by_class(samples: Tensor, label: Tensor | None) -> Tensor:
    """Samples in the order of their classes: a hundred of ten classes make a row of each."""
    return samples if label is None else samples[label.argsort(stable=True)]


def save_grid(images: Tensor, path: Path) -> None:
    """Write images of shape ``(n, channels, height, width)`` in [-1, 1] as a square-ish grid."""
    to_pil_image(image_grid(images, square_columns(len(images)))).save(path)


def save_gif(frames: Sequence[Tensor], path: Path, seconds: float = 4.0) -> None:
    """Write batches of images, one a frame, as an animated GIF that rests on its last frame.

    Args:
        frames: Each of shape ``(n, channels, height, width)``, in [-1, 1].
        path: The file to write.
        seconds: Length of the animation before it rests.
    """
    columns = square_columns(len(frames[0]))
    pictures = [to_pil_image(image_grid(frame, columns)) for frame in frames]
    durations = [round(1000 * seconds / len(frames))] * (len(frames) - 1) + [2000]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def plot_annealing(states: Sequence[tuple[float, Tensor]]) -> "Figure":
    """Draw how samples come out of the noise, one row a noise level.

    Args:
        states: The noise level and the samples at its end, shape
            ``(n, channels, height, width)``; each row is shown as it is, clamped to [-1, 1].
    """
    num = len(states[0][1])
    figure = _figure(0.8 * num + 1.0, 0.8 * len(states) + 0.4)
    rows = figure.subplots(len(states), 1, squeeze=False)[:, 0]
    for axes, (sigma, images) in zip(rows, states, strict=True):
        axes.imshow(image_grid(images, columns=num).permute(1, 2, 0).numpy())
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(f"{sigma:.3g}", rotation=0, ha="right", va="center")
    figure.supylabel("noise level $\\sigma$", fontsize="medium")
    return figure


def plot_samples(data: Tensor | None, samples: Tensor, title: str) -> "Figure":
    """Draw points of the data, samples, and the density of the samples, on the same axes.

    Args:
        data: Shape ``(n, 2)``; without it, the samples alone are drawn.
        samples: Shape ``(m, 2)``.
        title: Title of the samples.
    """
    samples = samples.cpu()
    clouds = [(samples, SAMPLE_COLOR, title)]
    if data is not None:
        clouds.insert(0, (data.cpu(), DATA_COLOR, f"data ({len(data):,} points)"))
    window = clouds[0][0]
    figure = _figure(4.3 * (len(clouds) + 1), 3.2)
    *panels, density_panel = figure.subplots(1, len(clouds) + 1, sharex=True, sharey=True)
    for axes, (points, color, name) in zip(panels, clouds, strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=3, c=color, linewidths=0)
        axes.set_title(name)
        _plane(axes, window)
    _plane(density_panel, window)
    *_, density = density_panel.hist2d(
        samples[:, 0].numpy(),
        samples[:, 1].numpy(),
        bins=(48, 36),
        range=[density_panel.get_xlim(), density_panel.get_ylim()],
        density=True,
    )
    figure.colorbar(density, ax=density_panel, label="density")
    density_panel.set_title("density of the samples")
    return figure


def plot_score_field(data: Tensor, x: Tensor, score: Tensor, title: str) -> "Figure":
    """Draw a score field as arrows over the data; the colour tells their length.

    Args:
        data: Points of the data, shape ``(n, 2)``.
        x: Where the score was evaluated, shape ``(m, 2)``.
        score: Shape ``(m, 2)``.
        title: Title of the picture.
    """
    data, x, score = data.cpu(), x.cpu(), score.cpu()
    length = score.norm(dim=1)
    direction = score / length.clamp(min=1e-12)[:, None]
    figure = _figure(7.2, 4.2)
    axes = figure.subplots()
    axes.scatter(data[:, 0], data[:, 1], s=2, c=DATA_COLOR, linewidths=0, alpha=0.4)
    arrows = axes.quiver(
        x[:, 0],
        x[:, 1],
        direction[:, 0],
        direction[:, 1],
        length,
        cmap="viridis",
        angles="xy",
        scale=32,
    )
    figure.colorbar(arrows, label="$\\|s_\\theta(x, \\sigma)\\|$")
    axes.set_title(title)
    _plane(axes, data)
    return figure


def plane_grid(data: Tensor, num: int = 28) -> Tensor:
    """A regular grid of points over the window in which 2-D data is drawn, ``(num**2, 2)``."""
    low, high = _window(data)
    steps = torch.linspace(0, 1, num, device=data.device)
    return low + (high - low) * torch.cartesian_prod(steps, steps)


def plot_fields(
    data: Tensor, x: Tensor, fields: Sequence[tuple[float, Tensor, Tensor]]
) -> "Figure":
    """Draw learned beside exact score fields, and where they differ; one row a noise level.

    Args:
        data: Points of the data, shape ``(n, 2)``.
        x: A grid made by :func:`plane_grid`, shape ``(m, 2)``.
        fields: Noise level, learned score and exact score, shapes ``(m, 2)``, for each row.
    """
    data, x = data.cpu(), x.cpu()
    num = round(len(x) ** 0.5)
    arrows = torch.arange(len(x)).view(num, num)[:: num // 16, :: num // 16].flatten()
    figure = _figure(12.0, 2.5 * len(fields))
    panels = figure.subplots(len(fields), 3, squeeze=False, sharex=True, sharey=True)
    for row, (sigma, learned, exact) in zip(panels, fields, strict=True):
        learned, exact = learned.cpu().float(), exact.cpu().float()
        for axes, score, name in ((row[0], learned, "learned"), (row[1], exact, "exact")):
            direction = score / score.norm(dim=1, keepdim=True).clamp(min=1e-12)
            axes.scatter(data[:, 0], data[:, 1], s=1, c=DATA_COLOR, linewidths=0, alpha=0.4)
            drawn = axes.quiver(
                *x[arrows].T,
                *direction[arrows].T,
                score.norm(dim=1)[arrows],
                cmap="viridis",
                angles="xy",
                scale=24,
                clim=(0, exact.norm(dim=1).max().item()),
            )
            axes.set_title(f"{name} score, $\\sigma$ = {sigma:.3g}")
        figure.colorbar(drawn, ax=row[1], label="$\\|s\\|$")
        error = (sigma * (learned - exact)).norm(dim=1).view(num, num).T.numpy()
        low, high = x.amin(0).tolist(), x.amax(0).tolist()
        drawn = row[2].imshow(
            error,
            origin="lower",
            extent=(low[0], high[0], low[1], high[1]),
            norm="log",
            cmap="magma",
        )
        row[2].scatter(data[:, 0], data[:, 1], s=1, c="white", linewidths=0, alpha=0.3)
        row[2].set_title("error")
        figure.colorbar(drawn, ax=row[2], label="$\\sigma\\,\\|s_\\theta - s^*\\|$")
        for axes in row:
            _plane(axes, data)
    return figure


LEVEL_STYLES = {
    "exact": ("exact score", ":"),
    "empirical_train": ("empirical score of the training set", "--"),
    "empirical_test": ("empirical score of the test set", ":"),
}


def plot_levels(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> "Figure":
    """Draw the loss at each noise level, beside the smallest that can be had.

    Args:
        runs: Rows of :func:`ncsn.metrics.losses_per_level` for each model; references are drawn
            for the first.
    """
    figure = _figure(6.4, 4.2)
    _levels(figure.subplots(), runs)
    return figure


def plot_comparison(
    curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
    levels: Mapping[str, Sequence[Mapping[str, float]]],
) -> "Figure":
    """Draw metrics of several runs over epochs, and their losses at each noise level.

    Args:
        curves: For each metric and each run, pairs of an epoch and a value.
        levels: For each run, rows of :func:`ncsn.metrics.losses_per_level`.
    """
    num = len(curves) + bool(levels)
    figure = _figure(4.8 * num, 4.0)
    panels = figure.subplots(1, num, squeeze=False)[0]
    for axes, (metric, runs) in zip(panels, sorted(curves.items()), strict=False):
        for name, curve in runs.items():
            axes.plot([x for x, _ in curve], [y for _, y in curve], marker=".", label=name)
        axes.set(xlabel="epoch", ylabel=metric, yscale="log")
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    if levels:
        _levels(panels[-1], levels)
    return figure


def _levels(axes: "Axes", runs: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    for i, (name, rows) in enumerate(runs.items()):
        sigma = [row["sigma"] for row in rows]
        axes.errorbar(
            sigma,
            [row["loss"] for row in rows],
            yerr=[2 * row["loss_standard_error"] for row in rows],
            marker=".",
            label=f"{name} (± 2 standard errors)",
        )
        for key, (title, style) in LEVEL_STYLES.items():
            if i == 0 and key in rows[0]:
                values = [row[key] for row in rows]
                axes.plot(sigma, values, style, color="black", label=title)
    axes.set(xscale="log", yscale="log", xlabel="noise level $\\sigma$")
    # The references may be many decades away.
    losses = [row["loss"] for rows in runs.values() for row in rows]
    axes.set_ylim(min(losses) / 3, 3 * max(losses))
    axes.set_ylabel("loss per dimension, $\\|\\sigma s + z\\|^2 / D$")
    axes.grid(alpha=0.3, which="both")
    axes.legend()


def plot_neighbours(samples: Tensor, neighbours: Tensor, ratio: Tensor) -> "Figure":
    """Draw samples above their nearest training examples.

    Args:
        samples: Shape ``(n, channels, height, width)``, in [-1, 1].
        neighbours: The nearest training examples of each, shape
            ``(n, k, channels, height, width)``.
        ratio: Distance to the nearest over that to the second nearest, shape ``(n,)``.
    """
    rows = {"sample": samples, "nearest": neighbours[:, 0], "second": neighbours[:, 1]}
    figure = _figure(0.9 * len(samples) + 1.0, 3.4)
    for i, (axes, (name, images)) in enumerate(
        zip(figure.subplots(len(rows), 1), rows.items(), strict=True)
    ):
        grid = image_grid(images, columns=len(images)).permute(1, 2, 0)
        axes.imshow(grid.numpy())
        width = grid.shape[1] / len(images)
        centres = [(j + 0.5) * width for j in range(len(images))]
        axes.set(xticks=centres if i == 0 else [], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        if i == 0:
            axes.xaxis.tick_top()
            axes.set_xticklabels([f"{each:.2f}" for each in ratio.tolist()])
            axes.tick_params(length=0)
    figure.suptitle(
        "samples nearest to one training image: ratio of the two distances", fontsize="medium"
    )
    return figure


def plot_classes(training: Tensor, samples: Tensor, title: str) -> "Figure":
    """Draw how often each class comes in the training data and in samples.

    Args:
        training: Labels, shape ``(n,)``.
        samples: Classes of the samples by a classifier, shape ``(m,)``.
        title: The classifier.
    """
    figure = _figure(6.4, 3.4)
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


def plot_losses(curves: Mapping[str, Sequence[tuple[int, float]]]) -> "Figure":
    """Draw losses over epochs.

    Args:
        curves: For each name, pairs of an epoch and a loss.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for name, points in curves.items():
        marker = "." if len(points) < 30 else None
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, marker=marker)
    finite = [loss for points in curves.values() for _, loss in points if loss > 0]
    scale = "log" if finite and max(finite) > 5 * min(finite) else "linear"
    axes.set(xlabel="epoch", ylabel="weighted DSM loss", yscale=scale)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def _figure(width: float, height: float) -> "Figure":
    # matplotlib without pyplot: no global state, no window, and half a second less to import.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _window(data: Tensor) -> tuple[Tensor, Tensor]:
    low, high = data.amin(dim=0), data.amax(dim=0)
    margin = 0.15 * (high - low)
    return low - margin, high + margin


def _plane(axes: "Axes", data: Tensor) -> None:
    low, high = (corner.tolist() for corner in _window(data))
    axes.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.grid(alpha=0.3)
