"""Solvers of the probability flow: order of convergence, and diffusers as the reference."""

import math

import pytest
import torch
from closed_forms import gaussian_score

from ncsn.levels import Rho, geometric
from ncsn.sampling import DPMSolver, Euler, Heun


def uneven(sigma_max, sigma_min, num_levels):
    """Steps of ln sigma that are long and short in turn."""
    steps = torch.tensor([2.0, 1.0], dtype=torch.float64).repeat(num_levels)[: num_levels - 1]
    shares = torch.cat([torch.zeros(1), steps.cumsum(0) / steps.sum()])
    return (sigma_max * (sigma_min / sigma_max) ** shares).float()


LADDERS = {"geometric": geometric, "rho 7": Rho(7), "rho 3": Rho(3), "uneven": uneven}


@pytest.mark.parametrize("ladder", LADDERS.values(), ids=LADDERS)
@pytest.mark.parametrize(("make", "order"), [(Euler, 1), (Heun, 2), (DPMSolver, 2)])
def test_solvers_converge_at_their_order_on_any_ladder(make, order, ladder):
    # For N(0, s²) the flow is linear: x / sqrt(s² + sigma²) stays constant.
    std, sigma_max, sigma_min = 0.5, 5.0, 1e-2
    levels = geometric(sigma_max, sigma_min, 2)
    x = torch.tensor([[1.0]], dtype=torch.float64)
    exact = ((std**2 + sigma_min**2) / (std**2 + sigma_max**2)) ** 0.5

    def error(num_steps):
        sampler = make(num_steps, denoise=False, ladder=ladder)
        return abs(sampler(gaussian_score(0, std), x, levels).item() - exact)

    assert math.log2(error(161) / error(321)) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("eta", "algorithm"), [(0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")])
@pytest.mark.parametrize(("schedule", "ladder"), [("exponential", geometric), ("karras", Rho(7))])
def test_each_step_of_dpm_solver_is_that_of_diffusers(schedule, ladder, eta, algorithm):
    diffusers = pytest.importorskip("diffusers", reason="needs the extra `dev`")
    theirs = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.01,
        sigma_max=50.0,
        rho=7.0,
        sigma_schedule=schedule,
        algorithm_type=algorithm,
        lower_order_final=False,
    )
    theirs.precondition_outputs = lambda x, denoised, sigma: denoised  # the network's task
    theirs.set_timesteps(12)
    levels, score = theirs.sigmas[:-1], gaussian_score(0.3, 0.7)
    torch.testing.assert_close(levels, ladder(50.0, 0.01, 12))
    x = 50 * torch.randn(4, 3)
    state, generator, expected = x, torch.Generator().manual_seed(2), []
    for sigma, t in zip(levels[:-1], theirs.timesteps[:-1], strict=True):
        denoised = state + sigma**2 * score(state, sigma.expand(4))
        state = theirs.step(denoised, t, state, generator=generator).prev_sample
        expected.append(state)
    states = []
    sampler = DPMSolver(num_steps=12, eta=eta, denoise=False, ladder=ladder)
    generator = torch.Generator().manual_seed(2)
    sampler(score, x, levels, generator, lambda sigma, x: states.append(x))
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)
