"""Pictures of points in the plane: samples, densities, score fields."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from torch import Tensor

from ncsn.plots.style import DATA_COLOR, SAMPLE_COLOR, new_figure


def plot_samples(data: Tensor | None, samples: Tensor, title: str) -> Figure:
    """Draw data, ``(n, 2)``, if any, samples, ``(m, 2)``, and the density of the samples."""
    samples = samples.cpu()
    clouds = [(samples, SAMPLE_COLOR, title)]
    if data is not None:
        clouds.insert(0, (data.cpu(), DATA_COLOR, f"data ({len(data):,} points)"))
    window = clouds[0][0]
    figure = new_figure(4.3 * (len(clouds) + 1), 3.2)
    *panels, density_panel = figure.subplots(1, len(clouds) + 1, sharex=True, sharey=True)
    for axes, (points, color, name) in zip(panels, clouds, strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=3, c=color, linewidths=0)
        axes.set_title(name)
        _plane(axes, window)
    _plane(density_panel, window)
    limits = [density_panel.get_xlim(), density_panel.get_ylim()]
    *_, density = density_panel.hist2d(
        *samples.T.numpy(), bins=(48, 36), range=limits, density=True
    )
    figure.colorbar(density, ax=density_panel, label="density")
    density_panel.set_title("density of the samples")
    return figure


def plot_score_field(data: Tensor, x: Tensor, score: Tensor, title: str) -> Figure:
    """Draw a score field as arrows over the data; the colour shows their length.

    Args:
        data: Points of the data, shape ``(n, 2)``.
        x: Where the score was evaluated, shape ``(m, 2)``.
        score: Its values, shape ``(m, 2)``.
        title: Title of the picture.
    """
    data, x, score = data.cpu(), x.cpu(), score.cpu()
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    axes.scatter(data[:, 0], data[:, 1], s=2, c=DATA_COLOR, linewidths=0, alpha=0.4)
    arrows = _arrows(axes, x, score, scale=32)
    figure.colorbar(arrows, label="$\\|s_\\theta(x, \\sigma)\\|$")
    axes.set_title(title)
    _plane(axes, data)
    return figure


def plane_grid(data: Tensor, num: int = 28) -> Tensor:
    """A regular grid of points over the window in which 2-D data is drawn, ``(num**2, 2)``."""
    low, high = _window(data)
    steps = torch.linspace(0, 1, num, device=data.device)
    return low + (high - low) * torch.cartesian_prod(steps, steps)


def plot_fields(data: Tensor, x: Tensor, fields: Sequence[tuple[float, Tensor, Tensor]]) -> Figure:
    """Draw learned and exact score fields, and where they differ; one row per noise level.

    Args:
        data: Points of the data, shape ``(n, 2)``.
        x: A grid made by :func:`plane_grid`, shape ``(m, 2)``.
        fields: Noise level, learned score and exact score, shapes ``(m, 2)``, for each row.
    """
    data, x = data.cpu(), x.cpu()
    num = round(len(x) ** 0.5)
    arrows = torch.arange(len(x)).view(num, num)[:: num // 16, :: num // 16].flatten()
    figure = new_figure(12.0, 2.5 * len(fields))
    panels = figure.subplots(len(fields), 3, squeeze=False, sharex=True, sharey=True)
    for row, (sigma, learned, exact) in zip(panels, fields, strict=True):
        learned, exact = learned.cpu().float(), exact.cpu().float()
        for axes, score, name in ((row[0], learned, "learned"), (row[1], exact, "exact")):
            axes.scatter(data[:, 0], data[:, 1], s=1, c=DATA_COLOR, linewidths=0, alpha=0.4)
            limits = (0, exact.norm(dim=1).max().item())
            drawn = _arrows(axes, x[arrows], score[arrows], scale=24, clim=limits)
            axes.set_title(f"{name} score, $\\sigma$ = {sigma:.3g}")
        figure.colorbar(drawn, ax=row[1], label="$\\|s\\|$")
        error = (sigma * (learned - exact)).norm(dim=1).clamp(min=1e-9).view(num, num).T.numpy()
        extent = torch.stack([x.amin(0), x.amax(0)], dim=1).flatten().tolist()
        drawn = row[2].imshow(error, origin="lower", extent=extent, norm="log", cmap="magma")
        row[2].scatter(data[:, 0], data[:, 1], s=1, c="white", linewidths=0, alpha=0.3)
        row[2].set_title("error")
        figure.colorbar(drawn, ax=row[2], label="$\\sigma\\,\\|s_\\theta - s^*\\|$")
        for axes in row:
            _plane(axes, data)
    return figure


def _arrows(axes: Axes, x: Tensor, score: Tensor, **options: Any) -> Quiver:
    length = score.norm(dim=1)
    direction = score / length.clamp(min=1e-12)[:, None]
    return axes.quiver(*x.T, *direction.T, length, cmap="viridis", angles="xy", **options)


def _window(data: Tensor) -> tuple[Tensor, Tensor]:
    low, high = data.amin(dim=0), data.amax(dim=0)
    margin = 0.15 * (high - low)
    return low - margin, high + margin


def _plane(axes: Axes, data: Tensor) -> None:
    xlim, ylim = zip(*(corner.tolist() for corner in _window(data)), strict=True)
    axes.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=xlim, ylim=ylim)
    axes.grid(alpha=0.3)
