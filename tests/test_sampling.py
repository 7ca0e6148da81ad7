"""Samplers against closed forms, with exact scores.

Statistical tests allow five standard errors: a false alarm in 1.7 million runs each, and none
with the fixed seeds.
"""

import pytest
import torch

from ncsn.noise import SampleGenerator, expand_as, geometric_noise_levels
from ncsn.sampling import AnnealedLangevin, DPMSolver, Langevin, langevin_dynamics, tweedie


def gaussian_score(mean, std):
    """The exact score of N(mean, std² I) noised at level sigma."""
    return lambda x, sigma: -(x - mean) / (std**2 + expand_as(sigma, x) ** 2)


def mixture_score(x, sigma):
    """The exact score of 0.8 N(-2, 0.1²) + 0.2 N(2, 0.1²), noised at level sigma."""
    means, weights = torch.tensor([-2.0, 2.0]), torch.tensor([0.8, 0.2])
    v = 0.1**2 + sigma[:, None] ** 2
    responsibility = (weights.log() - (x - means) ** 2 / (2 * v)).softmax(dim=1)
    return ((means - x) * responsibility).sum(dim=1, keepdim=True) / v


def assert_variance(x, expected):
    n = x.numel()
    assert abs(x.var().item() / expected - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("eta", [0.1, 1.0, 3.0])
def test_langevin_dynamics_on_a_gaussian_has_its_closed_form_variance(eta):
    # x <- (1 - eta / 2v) x + sqrt(eta) z has the stationary variance v / (1 - eta / 4v).
    std, sigma = 0.8, 0.6
    v = std**2 + sigma**2
    x = langevin_dynamics(
        gaussian_score(0, std), 0.5 * torch.randn(100_000, 1), sigma, eta, num_steps=200
    )
    assert_variance(x, v / (1 - eta / (4 * v)))


def test_annealing_finds_the_weights_of_a_mixture_and_plain_langevin_does_not():
    levels = geometric_noise_levels(10.0, 0.05, 30)
    n = 4000

    def weight(sampler):
        x = sampler.initial(torch.empty(n, 1), levels)
        return (sampler(mixture_score, x, levels) < 0).float().mean().item()

    annealed = weight(AnnealedLangevin(steps_per_level=50))
    plain = weight(Langevin(step_size=0.4 * 0.05**2, num_steps=1500, prior="uniform"))
    assert abs(annealed - 0.8) < 5 * (0.8 * 0.2 / n) ** 0.5 + 0.01  # 0.01: its own bias
    assert abs(plain - 0.5) < 0.1  # it stays where it started


def test_annealed_langevin_reaches_a_gaussian_and_removes_its_noise():
    levels = geometric_noise_levels(10.0, 0.1, 20)
    sampler = AnnealedLangevin(steps_per_level=100, step_size=None)
    x = sampler(gaussian_score(1.5, 0.5), 10 * torch.randn(20_000, 2), levels)
    assert abs(x.mean().item() - 1.5) < 5 * 0.5 / 40_000**0.5
    # The last level's chain has variance v / (1 - a sigma²/2v); Tweedie shrinks by 0.25 / v.
    v, eta = 0.5**2 + 0.1**2, 0.4 * 0.1**2
    assert_variance(x, v / (1 - eta / (4 * v)) * (0.5**2 / v) ** 2)


def test_step_size_of_annealed_langevin_is_the_users_epsilon():
    # One step at each level from x = 0 with a zero score: the variances of the noise add up.
    levels = geometric_noise_levels(2.0, 0.5, 3)
    sampler = AnnealedLangevin(steps_per_level=1, step_size=0.3, denoise=False)
    x = sampler(lambda x, sigma: torch.zeros_like(x), torch.zeros(100_000, 1), levels)
    assert_variance(x, sum(0.3 * sigma**2 / 4 for sigma in levels.tolist()))


def test_dpm_solver_converges_at_second_order():
    # For N(0, s²) the flow is linear: x(0) = x(sigma_max) s / sqrt(s² + sigma_max²).
    std, sigma_max, sigma_min = 0.5, 5.0, 1e-3
    levels = geometric_noise_levels(sigma_max, sigma_min, 2)
    x = torch.tensor([[1.0]])
    # The solver ends with the denoiser at sigma_min.
    v_max, v_min = std**2 + sigma_max**2, std**2 + sigma_min**2
    exact = (v_min / v_max) ** 0.5 * std**2 / v_min
    errors = [
        abs(DPMSolver(steps)(gaussian_score(0, std), x, levels).item() - exact)
        for steps in (41, 81)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


def test_tweedie_is_the_posterior_mean():
    x = torch.randn(10, 3)
    v = 0.7**2 + 0.4**2
    expected = (0.7**2 * x + 0.4**2 * 2.0) / v
    torch.testing.assert_close(tweedie(gaussian_score(2.0, 0.7), x, 0.4), expected)


SAMPLERS = [Langevin(0.01, 7), AnnealedLangevin(5), AnnealedLangevin(5, denoise=False)]
SAMPLERS += [DPMSolver(9), AnnealedLangevin(3, prior="uniform")]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_number_of_evaluations_is_as_stated_and_each_is_reported(sampler):
    levels = geometric_noise_levels(1.0, 0.1, 4)
    calls, reports = [], []

    def score(x, sigma):
        calls.append(sigma)
        return -x

    x = sampler.initial(torch.empty(2, 1), levels)
    sampler(score, x, levels, monitor=lambda sigma, x: reports.append(sigma))
    assert len(calls) == len(reports) == sampler.num_evaluations(4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sample_i_is_the_same_in_any_batch_and_the_global_state_is_left_alone(sampler):
    levels = geometric_noise_levels(1.0, 0.1, 4)
    before = torch.get_rng_state()

    def sample(start, stop):
        generator = SampleGenerator(3, start, stop)
        x = sampler.initial(torch.empty(stop - start, 2), levels, generator)
        return sampler(gaussian_score(0, 1), x, levels, generator)

    assert torch.equal(torch.cat([sample(0, 30), sample(30, 100)]), sample(0, 100))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Langevin(step_size=0),
        lambda: Langevin(num_steps=0),
        lambda: AnnealedLangevin(steps_per_level=0),
        lambda: AnnealedLangevin(step_size=-1.0),
        lambda: AnnealedLangevin(step_size=float("nan")),
        lambda: DPMSolver(num_steps=1),
        lambda: Langevin(prior="gaussian"),
    ],
)
def test_impossible_samplers_are_refused(make):
    with pytest.raises(ValueError, match=r"step|prior"):
        make()
