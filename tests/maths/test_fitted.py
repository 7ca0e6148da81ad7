"""Ladders fitted to a score by dynamic programming."""

import itertools
import math

import pytest
import torch

from ncsn.exact import TwoMoons
from ncsn.levels import Listed, Rho, geometric
from ncsn.sampling import Euler, Heun, fit_ladder
from ncsn.sampling.fitted import cheapest_path

MOONS = TwoMoons(num_points=64)
LEVELS = geometric(3.5, 0.02, 20)


def start(num, seed):
    return 3.5 * torch.randn(num, 2, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_steps", [1, 2, 4, 7])
def test_the_cheapest_path_is_that_of_a_search_through_all(num_steps):
    costs = torch.rand(8, 8).triu(1) + torch.full((8, 8), math.inf).tril()
    inner = itertools.combinations(range(1, 7), num_steps - 1)

    def cost(path):
        steps = itertools.pairwise(path)
        return sum(1.15**k * costs[i, j].item() for k, (i, j) in enumerate(steps))

    best = min(((0, *nodes, 7) for nodes in inner), key=cost)
    assert cheapest_path(costs, num_steps, 1.15) == list(best)


@pytest.mark.parametrize("num_levels", [5, 10])
def test_eulers_method_ends_nearer_to_the_flow_on_the_fitted_ladder(num_levels):
    fitted = fit_ladder(MOONS, start(256, 1), LEVELS, num_levels)
    x = start(300, 2)  # other trajectories
    exact = Heun(150, denoise=False, ladder=Rho())(MOONS, x, LEVELS)

    def error(ladder):
        found = Euler(num_levels, denoise=False, ladder=ladder)(MOONS, x, LEVELS)
        return (found - exact).square().sum(1).mean().sqrt().item()

    assert error(fitted) < min(error(geometric), error(Rho()))


def test_a_fitted_ladder_descends_between_the_ends_and_can_be_written_down():
    fitted = fit_ladder(MOONS, start(64, 1), LEVELS, 6)
    levels = fitted(LEVELS[0].item(), LEVELS[-1].item(), 6)
    assert levels[0] == LEVELS[0]
    assert levels[-1] == LEVELS[-1]
    assert (levels.diff() < 0).all()
    again = Listed([float(f"{level:.4g}") for level in fitted.levels])
    torch.testing.assert_close(again(3.5, 0.02, 6), levels, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("args", "text"),
    [((3.5, 0.02, 4), "set num_steps=3"), ((15.0, 0.02, 3), "from 3.5 to 0.02.*15 to 0.02")],
)
def test_a_list_is_refused_where_it_does_not_belong(args, text):
    with pytest.raises(ValueError, match=text):
        Listed([3.5, 0.4, 0.02])(*args)


@pytest.mark.parametrize(
    "options", [{"num_levels": 1}, {"num_levels": 61}, {"num_levels": 5, "growth": 0.0}]
)
def test_impossible_fits_are_refused(options):
    with pytest.raises(ValueError, match=r"num_levels|growth"):
        fit_ladder(MOONS, start(4, 1), LEVELS, **options)
