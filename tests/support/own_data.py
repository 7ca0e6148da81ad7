"""Data that a user might bring, in the working directory, for the configs that need some."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_points():
    """``points.csv``: 300 points of 5 dimensions."""
    points = np.random.default_rng(0).normal(size=(300, 5))
    np.savetxt("points.csv", points, delimiter=",", header="a,b,c,d,e", comments="")


def write_images():
    """``images``: 300 coloured images of different sizes in two sub-folders, a third JPEG."""
    rng = np.random.default_rng(0)
    for i in range(300):
        folder = Path("images", ("ash", "birch")[i % 2])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(256, size=(16 + i % 3, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{'jpg' if i % 3 else 'png'}")


WRITERS = {"points5d": write_points, "folder": write_images}


def write_data(config):
    """Write what a config reads, if it is no data that comes with a library."""
    WRITERS.get(config, lambda: None)()
