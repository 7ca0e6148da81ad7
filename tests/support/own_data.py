"""Data that a user might bring, in the working directory, for the configs that need some."""

import numpy as np


def write_points():
    """``points.csv``: 300 points of 5 dimensions."""
    points = np.random.default_rng(0).normal(size=(300, 5))
    np.savetxt("points.csv", points, delimiter=",", header="a,b,c,d,e", comments="")


WRITERS = {"points5d": write_points}


def write_data(config):
    """Write what a config reads, if it is no data that comes with a library."""
    WRITERS.get(config, lambda: None)()
