"""Densities in the plane: the data is drawn from them, and their scores are exact."""

import math
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import ive, ndtr
from sklearn.datasets import make_swiss_roll

from ncsn.data import MoonsDataModule, ToyDataModule
from ncsn.data.toys import SHAPES, ToyName
from ncsn.exact import GaussianMixture, TwoMoons

PARTS = {
    "moons": 2,
    "circles": 2,
    "swiss_roll": 1,
    "checkerboard": 8,
    "pinwheel": 5,
    "rings": 4,
    "gaussians": 8,
}
each = pytest.mark.parametrize("name", PARTS)


def grid(step=0.08):
    line = torch.arange(-4, 4, step, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def log_density(name, x, noise=0.1, sigma=0.0):
    exact = ToyDataModule(name, noise=noise).exact
    return exact.log_density(x, torch.full((len(x),), sigma, dtype=torch.float64))


@cache
def on_grid(name):
    return log_density(name, grid())


def test_all_shapes_have_a_name():
    assert set(get_args(ToyName)) == set(SHAPES) == set(PARTS)


@each
def test_a_density_integrates_to_one_within_its_stated_range(name):
    x = grid()
    mass = on_grid(name).exp() * 0.08**2
    assert mass.sum().item() == pytest.approx(1, abs=1e-4)
    assert mass[x.norm(dim=1) < 4].sum() > 0.99


@each
def test_the_score_is_the_gradient_of_the_log_density(name):
    exact = ToyDataModule(name).exact
    x = 2 * torch.randn(20, 2, dtype=torch.float64)
    x.requires_grad_()
    sigma = torch.full((20,), 0.3, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(exact.log_density(x, sigma).sum(), x)
    torch.testing.assert_close(exact(x, sigma), gradient)


@each
def test_points_are_drawn_from_the_density(name):
    # Mean and variance of the log density over points, against integrals of the density; one
    # failure in a million by chance.
    data = ToyDataModule(name, num_points=4000, val_fraction=0.5)
    x, of_grid = grid(), on_grid(name)
    weight = of_grid.exp() / of_grid.exp().sum()
    mean = (weight * of_grid).sum()
    deviation = (weight * (of_grid - mean).square()).sum().sqrt()
    for split in ("train", "val"):
        points = data.splits[split].data.double()
        of_points = log_density(name, points)
        assert abs(of_points.mean() - mean) < 5 * deviation / len(points) ** 0.5
        error = 5 * points.std(0) / len(points) ** 0.5
        assert ((points.mean(0) - weight @ x).abs() < error).all()


@each
def test_each_part_has_its_label_and_an_equal_share(name):
    data = ToyDataModule(name, num_points=8000)
    assert data.num_classes == PARTS[name]
    labels = torch.cat([data.splits[split].labels for split in ("train", "val")])
    share = 1 / PARTS[name]
    error = 5 * math.sqrt(share * (1 - share) / 8000)
    assert labels.bincount() / 8000 == pytest.approx(share, abs=error + 1e-9)


@each
def test_points_of_a_part_lie_near_it(name):
    train = ToyDataModule(name).splits["train"]
    distance = torch.cdist(train.data.double(), SHAPES[name](1).flatten(0, 1))
    distance = distance.view(len(train), PARTS[name], -1).amin(2)
    assert distance.gather(1, train.labels[:, None]).max() < 0.5  # five standard deviations


def test_the_rings_have_the_closed_form_of_a_circle_with_noise():
    # Noise of variance v around a circle of radius R: exp(-(r² + R²) / 2v) I_0(r R / v) / 2 pi v.
    x, v = grid(0.2), 0.1**2 + 0.2**2
    r = x.norm(dim=1).numpy()
    for name, radii in {"circles": (0.5, 1), "rings": (0.5, 1, 1.5, 2)}.items():
        densities = [
            np.exp(-((r - R) ** 2) / (2 * v)) * ive(0, r * R / v) / (2 * math.pi * v)
            for R in radii
        ]
        found = log_density(name, x, sigma=0.2).exp().numpy()
        np.testing.assert_allclose(found, np.mean(densities, axis=0), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_the_checkerboard_has_the_closed_form_of_squares_with_noise(noise):
    x = grid(0.2).numpy()

    def side(u, i):
        return ndtr((u + 2 - i) / noise) - ndtr((u + 1 - i) / noise)

    squares = [
        side(x[:, 0], i) * side(x[:, 1], j) for i in range(4) for j in range(4) if (i + j) % 2 == 0
    ]
    found = log_density("checkerboard", torch.tensor(x), noise=noise).exp().numpy()
    np.testing.assert_allclose(found, np.sum(squares, axis=0) / 8, rtol=0.01, atol=1e-3)


@each
def test_a_finer_division_of_a_shape_has_the_same_density(name):
    x = ToyDataModule(name, noise=0.05).splits["val"].data[:100].double()
    finer = GaussianMixture(SHAPES[name](2).flatten(0, 1), 0.05)
    zero = torch.zeros(len(x), dtype=torch.float64)
    difference = finer.log_density(x, zero) - log_density(name, x, noise=0.05)
    assert difference.abs().mean() < 0.01  # at edges; data is drawn from the coarser one


def test_the_swiss_roll_is_that_of_scikit_learn_from_the_side():
    roll = torch.tensor(make_swiss_roll(500, noise=0, random_state=0)[0][:, [0, 2]]) / 7
    assert torch.cdist(roll, SHAPES["swiss_roll"](1)[0]).amin(1).max() < 0.01


def test_the_points_depend_on_the_seed_alone():
    first = ToyDataModule("rings", seed=1).splits["train"].data
    torch.manual_seed(17)
    assert torch.equal(first, ToyDataModule("rings", seed=1).splits["train"].data)
    assert not torch.equal(first, ToyDataModule("rings", seed=2).splits["train"].data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "moon"}, "data.name must be one of moons, circles, .*, got moon"),
        ({"noise": 0.01}, r"data.noise must be at least 0\.05 and below 1, got 0\.01"),
        ({"num_points": 0}, "data.num_points must be at least 1"),
        ({"val_fraction": 1.0}, r"data.val_fraction .* got 1\.0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ToyDataModule(**options)


@pytest.mark.parametrize("noise", [0.0035, 0.01, 0.1])
def test_the_likelihood_of_two_moons_is_that_of_finer_arcs_or_unknown(noise):
    """In the mean; at the very ends of the arcs, single points differ by up to 0.02."""
    data = MoonsDataModule(num_points=200, noise=noise)
    data.setup("fit")
    x, sigma = data.training_data.double(), torch.zeros(len(data.training_data)).double()
    coarse, finer = data.exact.double(), TwoMoons(noise, num_points=40_000).double()
    found, expected = (each.log_density(x, sigma).mean() for each in (coarse, finer))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert MoonsDataModule(noise=0.002).exact is None
