"""Pictures of points in the plane: samples, densities, score fields."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from torch import Tensor

from ncsn.plots.style import DATA_COLOR, SAMPLE_COLOR, new_figure

PANEL_AREA = 11.0  # square inches
BINS_PER_INCH = 11


def plot_samples(data: Tensor | None, samples: Tensor, title: str) -> Figure:
    """Draw data, ``(n, 2)``, if any, beside samples, ``(m, 2)``: the points, and their density."""
    clouds = [(samples.cpu(), SAMPLE_COLOR, title)]
    if data is not None:
        clouds.insert(0, (data.cpu(), DATA_COLOR, f"data ({len(data):,} points)"))
    window = clouds[0][0]
    width, height = _panel_size(window)
    figure = new_figure(width * len(clouds) + 0.9, 2 * height)
    above, below = figure.subplots(2, len(clouds), squeeze=False, sharex=True, sharey=True)
    bins = [round(size * BINS_PER_INCH) for size in (width, height)]
    extent = torch.stack(_window(window), dim=1).flatten().tolist()
    area = (extent[1] - extent[0]) * (extent[3] - extent[2]) / math.prod(bins)  # of a bin
    histograms = [  # also of the points outside
        torch.histogramdd(points, bins, range=extent).hist / (len(points) * area)
        for points, *_ in clouds
    ]
    highest = max(float(hist.max()) for hist in histograms)
    for i, (points, color, name) in enumerate(clouds):
        above[i].scatter(points[:, 0], points[:, 1], s=3, c=color, linewidths=0)
        above[i].set_title(name)
        image = below[i].imshow(
            histograms[i].T, origin="lower", extent=extent, vmin=0, vmax=highest, cmap="viridis"
        )
        below[i].set_title("density")
        for axes in (above[i], below[i]):
            _plane(axes, window)
            axes.label_outer()
    # Beside all panels, so that those below stand under those above.
    figure.colorbar(image, ax=[*above, *below], label="density", shrink=0.5, anchor=(0, 0))
    return figure


def plot_score_fields(
    data: Tensor, x: Tensor, fields: Sequence[tuple[float, Tensor]], when: str = ""
) -> Figure:
    """Draw score fields as arrows over the data; the colour shows their length.

    Args:
        data: Points of the data, shape ``(n, 2)``.
        x: Where the scores were evaluated, shape ``(m, 2)``.
        fields: For each panel, the noise level and the score, shape ``(m, 2)``.
        when: What the titles add to the noise level.
    """
    data, x = data.cpu(), x.cpu()
    width, height = _panel_size(data)
    figure = new_figure((width + 0.9) * len(fields), height + 0.5)
    for axes, (sigma, score) in zip(
        figure.subplots(1, len(fields), squeeze=False)[0], fields, strict=True
    ):
        axes.scatter(data[:, 0], data[:, 1], s=2, c=DATA_COLOR, linewidths=0, alpha=0.4)
        arrows = _arrows(axes, x, score.cpu(), scale=28)
        figure.colorbar(arrows, ax=axes, label="$\\|s_\\theta(x, \\sigma)\\|$")
        axes.set_title(f"score at $\\sigma$ = {sigma:.3g}{when}")
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
    width, height = _panel_size(data)
    figure = new_figure(3 * width + 1.6, height * len(fields) + 0.5)
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
            axes.label_outer()
    return figure


def _arrows(axes: Axes, x: Tensor, score: Tensor, **options: Any) -> Quiver:
    length = score.norm(dim=1)
    direction = score / length.clamp(min=1e-12)[:, None]
    return axes.quiver(*x.T, *direction.T, length, cmap="viridis", angles="xy", **options)


def _window(data: Tensor) -> tuple[Tensor, Tensor]:
    low, high = data.amin(dim=0), data.amax(dim=0)
    margin = 0.15 * (high - low)
    return low - margin, high + margin


def _panel_size(data: Tensor) -> tuple[float, float]:
    """Inches of a panel: of the shape of the window, within limits, and always of one area."""
    low, high = _window(data)
    ratio = ((high - low)[0] / (high - low)[1]).clamp(0.5, 2.0).item()
    return (PANEL_AREA * ratio) ** 0.5, (PANEL_AREA / ratio) ** 0.5


def _plane(axes: Axes, data: Tensor) -> None:
    xlim, ylim = zip(*(corner.tolist() for corner in _window(data)), strict=True)
    axes.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal", xlim=xlim, ylim=ylim)
    axes.grid(alpha=0.3)
