"""Pictures of uint8 images: grids, animations, neighbours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import ImageDraw, ImageFont, ImageOps
from PIL.Image import Image
from torch import Tensor

from ncsn.plots.style import Animation, new_figure


def image_grid(images: Tensor, columns: int | None = None, caption: str = "") -> Image:
    """Arrange images in a grid, enlarged by a whole factor so that a cell is about 64 pixels.

    Args:
        images: uint8, shape ``(n, channels, height, width)``.
        columns: Number of images in a row; by default, the grid is nearly square.
        caption: Written above the grid, if there is one.
    """
    from torchvision.transforms.functional import to_pil_image  # brings torch's compiler along
    from torchvision.utils import make_grid

    columns = columns or max(1, round(len(images) ** 0.5))
    factor = max(1, round(64 / images.shape[-1]))
    enlarged = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    grid = to_pil_image(make_grid(enlarged.cpu(), nrow=columns, padding=2, pad_value=128))
    return _with_caption(grid, caption) if caption else grid


def is_png(shape: tuple[int, ...]) -> bool:
    """Whether a PNG can show an example of this shape: grey values or colours."""
    return len(shape) > 1 and shape[0] in (1, 3)


def save_pngs(images: Tensor, directory: Path, first: int = 0) -> None:
    """Write uint8 images, shape ``(n, channels, height, width)``, as ``NUMBER.png``."""
    from torchvision.transforms.functional import to_pil_image

    directory.mkdir(exist_ok=True)
    for number, image in enumerate(images, first):
        to_pil_image(image).save(directory / f"{number:06d}.png")


def _with_caption(image: Image, caption: str) -> Image:
    """An image below a line of black text on white."""
    size = 16
    below = ImageOps.expand(image, (0, 2 * size, 0, 0), "white")
    font = ImageFont.truetype(findfont("DejaVu Sans"), size)  # comes with matplotlib
    ImageDraw.Draw(below).text((image.width / 2, size), caption, "black", font, anchor="mm")
    return below


def animate(frames: Sequence[tuple[str, Tensor]], seconds: float = 4.0) -> Animation:
    """An animation of :func:`image_grid` with captions; after ``seconds`` it rests on its end."""
    durations = [round(1000 * seconds / len(frames))] * (len(frames) - 1) + [2000]
    return Animation([image_grid(frame, caption=name) for name, frame in frames], durations)


def plot_annealing(states: Sequence[tuple[float, Tensor, Tensor]]) -> Figure:
    """Draw samples at several noise levels, one row each, beside their denoised estimates.

    Args:
        states: The noise level, the samples and the estimates, uint8, of shape
            ``(n, channels, height, width)``.
    """
    num = len(states[0][1])
    figure = new_figure(0.99 * num + 1.0, 0.55 * len(states) + 0.6)
    panels = figure.subplots(len(states), 2, squeeze=False)
    for (left, right), (sigma, noisy, denoised) in zip(panels, states, strict=True):
        _show_row(left, noisy, f"{sigma:.3g}")
        _show_row(right, denoised, "")
    panels[0, 0].set_title("state $x$", fontsize="medium")
    panels[0, 1].set_title("denoised, $x + \\sigma^2 s(x, \\sigma)$", fontsize="medium")
    figure.supylabel("noise level $\\sigma$", fontsize="medium")
    return figure


def plot_neighbours(samples: Tensor, neighbours: Tensor, ratio: Tensor) -> Figure:
    """Draw samples above their nearest training examples.

    Args:
        samples: uint8, shape ``(n, channels, height, width)``.
        neighbours: Of each, the nearest first, uint8, shape ``(n, k, channels, height, width)``.
        ratio: Distance to the nearest over that to the second nearest, shape ``(n,)``.
    """
    rows = {"sample": samples, "nearest": neighbours[:, 0], "second": neighbours[:, 1]}
    figure = new_figure(0.9 * len(samples) + 1.0, 3.4)
    first, *_ = panels = figure.subplots(len(rows), 1)
    for axes, (name, images) in zip(panels, rows.items(), strict=True):
        width = _show_row(axes, images, name) / len(images)
    centres = [(i + 0.5) * width for i in range(len(samples))]
    first.set_xticks(centres, [f"{each:.2f}" for each in ratio.tolist()])
    first.xaxis.tick_top()
    first.tick_params(length=0)
    title = "samples nearest to one training image: ratio of the two distances"
    figure.suptitle(title, fontsize="medium")
    return figure


def plot_restorations(rows: Mapping[str, Tensor]) -> Figure:
    """Draw what was measured, and what it may come from: one named row of uint8 images each."""
    num = len(next(iter(rows.values())))
    figure = new_figure(0.9 * num + 1.6, 0.98 * len(rows) + 0.1)
    figure.set_layout_engine("compressed")  # for rows of a fixed aspect
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (name, images) in zip(panels, rows.items(), strict=True):
        _show_row(axes, images, name)
    return figure


def _show_row(axes: Axes, images: Tensor, name: str) -> int:
    """Draw images in one named row; returns its width in pixels."""
    row = image_grid(images, columns=len(images))
    axes.imshow(row)
    axes.set(xticks=[], yticks=[])
    axes.set_ylabel(name, rotation=0, ha="right", va="center")
    return row.width
