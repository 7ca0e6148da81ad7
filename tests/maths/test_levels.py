"""Noise levels: ladders, the rules of NCSNv2 for choosing them, perturbation."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ncsn.levels import (
    Rho,
    descend,
    geometric,
    langevin_step_size,
    largest_distance,
    log_normal_probabilities,
    noise_level_ratio,
    perturb,
)
from ncsn.sampling import Ancestral, DPMSolver, Euler

LADDERS = {"geometric": geometric, "linear": Rho(1), "rho 7": Rho(7), "rho 13.5": Rho(13.5)}
each_ladder = pytest.mark.parametrize("ladder", LADDERS.values(), ids=LADDERS)


def square_root(sigma_max, sigma_min, num_levels):
    """A user's own ladder: even steps of the square root of sigma."""
    return torch.linspace(sigma_max**0.5, sigma_min**0.5, num_levels) ** 2


@each_ladder
def test_ladders_descend_from_the_largest_level_to_the_smallest(ladder):
    levels = ladder(10.0, 0.01, 7)
    assert levels.shape == (7,)
    assert levels.dtype == torch.float32
    assert (levels.diff() < 0).all()
    assert levels[0] == pytest.approx(10.0)
    assert levels[-1] == pytest.approx(0.01)


@each_ladder
def test_a_ladder_of_one_level_is_that_level(ladder):
    torch.testing.assert_close(ladder(0.3, 0.3, 1), torch.tensor([0.3]))


def test_geometric_ladder_has_a_constant_ratio():
    levels = geometric(10.0, 0.01, 7)
    torch.testing.assert_close(levels[1:] / levels[:-1], torch.full((6,), 1e-3 ** (1 / 6)))
    np.testing.assert_allclose(levels, np.geomspace(10.0, 0.01, 7), rtol=1e-6)


@pytest.mark.parametrize("rho", [0.5, 1.0, 3.0, 7.0, 50.0])
def test_rho_ladder_takes_even_steps_of_the_root_of_sigma(rho):
    levels = Rho(rho)(10.0, 0.01, 7)
    expected = np.linspace(10.0 ** (1 / rho), 0.01 ** (1 / rho), 7) ** rho
    np.testing.assert_allclose(levels, expected, rtol=1e-6)


def test_rho_of_7_is_the_ladder_of_karras():
    # Karras et al. 2022, equation 5 and table 1.
    sigma_max, sigma_min, rho, num = 80.0, 0.002, 7, 18
    i = np.arange(num)
    root_max, root_min = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    expected = (root_max + i / (num - 1) * (root_min - root_max)) ** rho
    np.testing.assert_allclose(Rho()(sigma_max, sigma_min, num), expected, rtol=1e-6)


@pytest.mark.parametrize("rho", [1e3, 1e4])
def test_rho_ladder_becomes_geometric_as_rho_grows(rho):
    # At the share u of the way, ln sigma exceeds that of the geometric ladder by
    # u (1 - u) ln² (sigma_max / sigma_min) / 2 rho, up to terms of order 1 / rho².
    u = torch.linspace(0, 1, 11)
    difference = Rho(rho)(10.0, 0.01, 11).log() - geometric(10.0, 0.01, 11).log()
    expected = u * (1 - u) * math.log(1000.0) ** 2 / (2 * rho)
    torch.testing.assert_close(difference, expected, rtol=0.02, atol=2e-6)


@pytest.mark.parametrize("ladder", [geometric, Rho()], ids=["geometric", "rho"])
@pytest.mark.parametrize(
    "args",
    [
        (1.0, 0.0, 5),
        (1.0, -1.0, 5),
        (0.1, 1.0, 5),
        (1.0, 0.1, 0),
        (1.0, 0.1, 1),
        (float("inf"), 0.1, 5),
        (float("nan"), 0.1, 5),
        (1.0, float("nan"), 5),
    ],
)
def test_impossible_ladders_are_refused(ladder, args):
    with pytest.raises(ValueError, match=r"sigma_max|num_levels"):
        ladder(*args)


@pytest.mark.parametrize("rho", [0.0, -7.0, float("inf"), float("nan")])
def test_impossible_rho_is_refused(rho):
    with pytest.raises(ValueError, match=f"rho.*{rho}"):
        Rho(rho)


@pytest.mark.parametrize(
    "levels",
    [
        torch.linspace(0.1, 1.0, 5),  # ascending
        torch.linspace(1.0, 0.0, 5),  # down to zero
        torch.linspace(1.0, 0.1, 4),  # too few
        torch.full((5,), 1.0),
        torch.tensor([1.0, 0.8, float("nan"), 0.2, 0.1]),
        torch.linspace(1.0, 0.1, 5)[:, None],
        [1.0, 0.8, 0.5, 0.2, 0.1],
        None,
    ],
)
def test_what_is_not_a_ladder_is_refused_by_its_name(levels):
    def broken(sigma_max, sigma_min, num_levels):
        return levels

    with pytest.raises(ValueError, match="broken must return 5 descending noise levels"):
        descend(broken, 1.0, 0.1, 5)
    with pytest.raises(ValueError, match="broken"):
        Euler(5, ladder=broken).path(geometric(1.0, 0.1, 3))


def test_levels_are_float32_whatever_a_ladder_computes_in():
    def double(sigma_max, sigma_min, num_levels):
        return torch.linspace(sigma_max, sigma_min, num_levels, dtype=torch.float64)

    assert descend(double, 1.0, 0.1, 5).dtype == torch.float32


@pytest.mark.parametrize("make", [Euler, Ancestral, DPMSolver])
def test_samplers_visit_the_levels_of_any_ladder(make):
    training = geometric(10.0, 0.1, 50)
    path = make(num_steps=6, ladder=square_root).path(training)
    assert path == pytest.approx(square_root(10.0, 0.1, 6).tolist())
    assert make(num_steps=6).path(training) == pytest.approx(geometric(10.0, 0.1, 6).tolist())
    visited = []
    sampler = make(num_steps=6, ladder=square_root)
    sampler(
        lambda x, sigma: -x / (1 + sigma[:, None] ** 2),
        torch.randn(3, 2),
        training,
        monitor=lambda sigma, x: visited.append(sigma),
    )
    assert visited == [*path[1:], path[-1]]  # the last one is the Tweedie step


def test_log_normal_probabilities_are_a_normal_density_of_log_sigma():
    levels = geometric(50.0, 0.01, 40)
    density = stats.norm(-0.4, 1.2).pdf(np.log(levels.double().numpy()))
    probabilities = log_normal_probabilities(levels, -0.4, 1.2)
    np.testing.assert_allclose(probabilities, density / density.sum(), rtol=1e-4, atol=1e-10)


def test_largest_distance_is_that_of_all_pairs():
    x = torch.randn(2500, 1, 3, 3)  # more than two chunks
    assert largest_distance(x) == pytest.approx(torch.pdist(x.flatten(1)).max().item())


def test_the_largest_distance_does_not_depend_on_where_the_data_is():
    x = torch.randn(1000, 2)
    assert largest_distance(x + 1e4) == pytest.approx(largest_distance(x), rel=1e-2)


def test_ratio_of_neighbouring_levels_is_that_of_the_paper():
    # Song & Ermon 2020, section 3.2: for large D, sqrt(2D) (gamma - 1) = 3 gamma, nearly.
    for dim in (784, 3072, 10**6):
        gamma = noise_level_ratio(dim)
        assert gamma == pytest.approx(1 / (1 - 3 / (2 * dim) ** 0.5), rel=1e-3)
    with pytest.raises(ValueError, match="num_levels"):
        noise_level_ratio(2)


@pytest.mark.parametrize(
    ("sigma_max", "num_levels", "step_lr"),
    [(50.0, 232, 6.2e-6), (90.0, 500, 3.3e-6)],  # the settings for CIFAR-10 and CelebA
)
def test_langevin_step_size_is_that_of_the_paper(sigma_max, num_levels, step_lr):
    levels = geometric(sigma_max, 0.01, num_levels).tolist()
    a = langevin_step_size(levels, steps_per_level=5)
    assert a * 0.01**2 == pytest.approx(step_lr, abs=0.05e-6)


def test_langevin_step_size_brings_the_variance_of_one_point_closest_to_the_next_level():
    # Iterate the variance of a chain at sigma_i = 1 that starts at gamma².
    levels, steps = geometric(10.0, 0.1, 12).tolist(), 7

    def variance(a):
        v = (levels[0] / levels[1]) ** 2
        for _ in range(steps):
            v = (1 - a) ** 2 * v + 2 * a
        return v

    a = langevin_step_size(levels, steps)
    assert 1 < variance(a) < min(variance(0.9 * a), variance(1.1 * a))


def test_langevin_step_size_needs_two_levels():
    with pytest.raises(ValueError, match="epsilon"):
        langevin_step_size([0.1], 5)


def test_perturb_adds_noise_of_the_level_of_each_example():
    x = torch.randn(3, 2, 5)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    x_sigma, z = perturb(x, sigma)
    torch.testing.assert_close((x_sigma - x) / sigma[:, None, None], z, rtol=1e-4, atol=1e-5)
