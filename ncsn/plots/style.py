"""What all pictures share: figures, colours, and how they are written."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from matplotlib.figure import Figure
from PIL.Image import Image

DATA_COLOR, SAMPLE_COLOR = "tab:gray", "tab:blue"


class Animation(NamedTuple):
    """Frames of an animation, and how long each of them is shown, in milliseconds."""

    frames: list[Image]
    durations: list[int]


Picture: TypeAlias = Figure | Image | Animation


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches, without pyplot: no global state and no window."""
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


@contextmanager
def optional(what: str) -> Iterator[None]:
    """Turn a failure to draw or write a picture into a one-line warning."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        warnings.warn(f"{what} left out: {reason}", stacklevel=1)


def save(picture: Picture, path: Path) -> Path:
    """Write a picture as ``path``.png, or an animation as ``path``.gif, and return that path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture, Animation):
        path = path.with_name(f"{path.name.removesuffix('_gif')}.gif")
        first, *rest = picture.frames
        first.save(path, save_all=True, append_images=rest, duration=picture.durations, loop=0)
        return path
    path = path.with_name(f"{path.name}.png")
    if isinstance(picture, Image):
        picture.save(path)
    else:
        picture.savefig(path)
    return path
