"""Multistep methods: their weights, their orders, and what they are at order 1."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from closed_forms import gaussian_score
from scipy.integrate import quad
from test_flow import LADDERS

from ncsn.exact import GaussianMixture
from ncsn.levels import Rho, geometric
from ncsn.sampling import IPNDM, Ancestral, DPMSolver, Euler, Heun, SASolver
from ncsn.sampling.multistep import adams_weights

MIXTURE = GaussianMixture([[1.0, 0.0], [-0.5, 0.8], [0.0, -1.2]], [0.6, 0.8, 0.5], [1, 2, 1])
FLOW = partial(SASolver, eta=0.0)
END = {"denoise": False, "ladder": Rho(7)}


def test_even_steps_have_the_weights_of_adams_and_bashforth():
    weights = adams_weights([3, 2, 1, 0], 3, 4, lambda t: 1.0)
    np.testing.assert_allclose(weights, np.array([55, -59, 37, -9]) / 24, rtol=1e-12)
    weights = adams_weights([4, 3, 2, 1], 3, 4, lambda t: 1.0)  # and of Moulton
    np.testing.assert_allclose(weights, np.array([9, 19, -5, 1]) / 24, rtol=1e-12)


@pytest.mark.parametrize("rate", [0, 1, 2.5])
def test_weights_integrate_cubics_on_uneven_times_against_any_kernel(rate):
    times, start, stop = [1.0, 0.7, 0.1, -1.0], 1.0, 2.9
    weights = adams_weights(times, start, stop, lambda t: np.exp(-rate * (stop - t)))
    for power in range(4):
        expected = quad(lambda t, p=power: t**p * math.exp(-rate * (stop - t)), start, stop)[0]
        found = sum(w * t**power for w, t in zip(weights, times, strict=True))
        assert found == pytest.approx(expected, rel=1e-9)


METHODS = {  # with the order of the global error
    "Euler": (Euler, 1),
    "Heun": (Heun, 2),
    "DPM-Solver++(2M)": (DPMSolver, 2),
    **{f"iPNDM-{k}": (partial(IPNDM, order=k), k) for k in (2, 3, 4)},
    **{f"predictor {k}": (partial(FLOW, order=k, corrector_order=0), k) for k in (2, 3, 4)},
    # A corrector repairs a predictor that is one order below it, and no more.
    **{
        f"{k}, corrector {k + 1}": (partial(FLOW, order=k, corrector_order=k + 1), k + 1)
        for k in (1, 2, 3)
    },
    "1, corrector 3": (partial(FLOW, order=1, corrector_order=3), 2),
}


@pytest.fixture(scope="module")
def flow():
    """Ends of a ladder, starting points, and where the probability flow takes them."""
    # From so far up that the first steps, of lower order, are along straight lines.
    levels = geometric(1e3, 0.2, 2)
    x = 1e3 * torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    exact = IPNDM(2561, **END)(MIXTURE, x, levels)
    other = FLOW(2561, order=4, corrector_order=0, **END)(MIXTURE, x, levels)
    # In different variables, of different quantities, and nearly the same.
    torch.testing.assert_close(exact, other, rtol=0, atol=2e-9)
    return levels, x, exact


@pytest.mark.parametrize("ladder", ["rho 7", "uneven"])
@pytest.mark.parametrize(("make", "order"), METHODS.values(), ids=METHODS)
def test_the_observed_order_on_a_mixture_is_that_of_the_method(make, order, ladder, flow):
    levels, x, exact = flow

    def error(num_steps):
        sampler = make(num_steps, **END | {"ladder": LADDERS[ladder]})
        return (sampler(MIXTURE, x, levels) - exact).square().mean().sqrt().item()

    assert math.log2(error(161) / error(321)) == pytest.approx(order, abs=0.5)


def test_at_order_1_they_are_euler_and_ancestral_sampling():
    levels, x, score = geometric(5.0, 0.1, 8), torch.randn(4, 3), gaussian_score(0.3, 0.7)

    def run(sampler):
        return sampler(score, x, levels, torch.Generator().manual_seed(2))

    first_order = partial(SASolver, None, order=1, corrector_order=0)
    torch.testing.assert_close(run(IPNDM(None, order=1)), run(Euler()))
    torch.testing.assert_close(run(first_order(eta=0)), run(Euler()))
    torch.testing.assert_close(run(first_order(eta=1)), run(Ancestral()))


def test_the_corrector_keeps_the_noise_of_its_step():
    # Noise drawn twice would count twice: the marginal variance would be too large.
    levels = geometric(50.0, 0.1, 40)
    x = 50 * torch.randn(20_000, 1)
    x = SASolver(None, eta=1.0, denoise=False)(gaussian_score(0, 1), x, levels)
    assert x.var().item() == pytest.approx(1.01, abs=5 * 1.01 * (2 / 20_000) ** 0.5 + 0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda: IPNDM(order=0),
        lambda: IPNDM(order=5),
        lambda: SASolver(order=0),
        lambda: SASolver(corrector_order=5),
        lambda: SASolver(eta=-1.0),
    ],
)
def test_impossible_orders_are_refused(make):
    with pytest.raises(ValueError, match=r"order|eta"):
        make()
