"""Gaussian diffusions against their closed forms.

Statistical tests allow five standard errors: each raises a false alarm once in 1.7 million runs,
and none with the fixed seeds.
"""

import math
from functools import partial

import pytest
import torch

from ncsn.diffusion import (
    GaussianDiffusion,
    ddpm,
    variance_exploding,
    variance_preserving,
    variance_preserving_cosine,
)
from ncsn.levels import geometric

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # Ho et al. 2020, section 4

DIFFUSIONS = {
    "exploding": (variance_exploding(0.01, 50.0), 0.3, 0.8),
    "linear": (variance_preserving(), 0.3, 0.8),
    "cosine": (variance_preserving_cosine(), 0.3, 0.8),
    "ddpm": (ddpm(BETAS), 300, 800),
    "sub-variance-preserving": (  # a user's own: Song et al. 2021, equation 29
        GaussianDiffusion(lambda t: torch.exp(-t), lambda t: 1 - torch.exp(-2 * t)),
        0.3,
        0.8,
    ),
}
each_diffusion = pytest.mark.parametrize(
    ("diffusion", "s", "t"), DIFFUSIONS.values(), ids=DIFFUSIONS
)
preserving = pytest.mark.parametrize("name", ["linear", "cosine", "ddpm"])


def at(t, num=1):
    return torch.full((num,), float(t), dtype=torch.float64)


@each_diffusion
def test_two_transitions_compose_to_the_marginal(diffusion, s, t):
    x_0 = torch.randn(1, 4, dtype=torch.float64)
    mean_s, variance_s = diffusion.marginal(x_0, at(s))
    mean_t, added = diffusion.transition(mean_s, at(s), at(t))
    a = diffusion.alpha(at(t)) / diffusion.alpha(at(s))
    expected = diffusion.marginal(x_0, at(t))
    torch.testing.assert_close(mean_t, expected.mean)
    torch.testing.assert_close(a**2 * variance_s + added, expected.variance)


@each_diffusion
def test_simulated_steps_forward_and_back_have_the_moments_of_the_marginals(diffusion, s, t):
    n = 100_000
    x_0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    x_s = diffusion.marginal(x_0, at(s, n)).sample()
    x_t = diffusion.transition(x_s, at(s, n), at(t, n)).sample()
    # With x_s drawn again from the posterior, the pair (x_s, x_t) has the same distribution.
    back = diffusion.posterior(x_t, x_0, at(s, n), at(t, n)).sample()
    for x, time in ((x_s, s), (x_t, t), (back, s)):
        mean, variance = diffusion.marginal(x_0[:1], at(time))
        assert abs(x.mean() - mean) < 5 * (variance / n).sqrt()
        assert abs(x.var() / variance - 1) < 5 * math.sqrt(2 / n)
    expected = diffusion.alpha(at(t)) / diffusion.alpha(at(s)) * diffusion.sigma(at(s)) ** 2
    for x in (x_s, back):
        products = (x - x.mean()) * (x_t - x_t.mean())
        assert abs(products.mean() - expected) < 5 * products.std() / math.sqrt(n)


@each_diffusion
def test_posterior_agrees_with_bayes_rule_point_by_point(diffusion, s, t):
    # log q(x_s | x_t, x_0) = log q(x_t | x_s) + log q(x_s | x_0) + const.
    x_s = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    x_0, x_t = torch.full_like(x_s, 0.4), torch.full_like(x_s, -0.9)

    def log_density(gaussian, x):
        return -((x - gaussian.mean) ** 2) / (2 * gaussian.variance)

    forward = log_density(diffusion.transition(x_s, at(s, 9), at(t, 9)), x_t)
    joint = forward + log_density(diffusion.marginal(x_0, at(s, 9)), x_s)
    posterior = log_density(diffusion.posterior(x_t, x_0, at(s, 9), at(t, 9)), x_s)
    difference = joint - posterior
    torch.testing.assert_close(difference, difference[:1].expand(9, 1), rtol=1e-6, atol=1e-6)


@preserving
def test_variance_is_preserved_for_data_of_variance_one_and_for_no_other(name):
    diffusion, s, t = DIFFUSIONS[name]
    times = torch.tensor([s, t], dtype=torch.float64)
    torch.testing.assert_close(diffusion.alpha(times) ** 2, 1 - diffusion.sigma(times) ** 2)
    torch.testing.assert_close(diffusion.variance(times), torch.ones(2, dtype=torch.float64))
    assert (diffusion.variance(times, data_variance=2.0) - 1).abs().min() > 1e-3


def test_steps_of_ddpm_have_its_betas():
    diffusion = ddpm(BETAS)
    t = torch.arange(1, 1001)
    x = torch.ones(1000, 1, dtype=torch.float64)
    mean, variance = diffusion.transition(x, t - 1, t)
    torch.testing.assert_close(mean[:, 0], (1 - BETAS).sqrt())
    torch.testing.assert_close(variance[:, 0], BETAS)
    # And the posterior variance is Ho et al.'s beta tilde, equation 7.
    alpha_bar = (1 - BETAS).cumprod(0)
    expected = (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * BETAS[1:]
    posterior = diffusion.posterior(x[1:], x[1:], t[1:] - 1, t[1:])
    torch.testing.assert_close(posterior.variance[:, 0], expected)


def test_the_linear_schedule_gives_the_betas_of_ddpm():
    # A step of 1/T at time t has beta(t) / T, up to the square of that. DDPM's times are half a
    # step away from these, which is 1e-5 in beta.
    diffusion = variance_preserving(0.1, 20.0)
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    x = torch.ones(1000, 1, dtype=torch.float64)
    variance = diffusion.transition(x, t - 1e-3, t).variance[:, 0]
    middle = (0.1 + 19.9 * (t - 0.5e-3)) / 1000
    torch.testing.assert_close(variance, -torch.expm1(-middle))
    torch.testing.assert_close(variance, BETAS, rtol=0.011, atol=1.1e-5)


def test_noise_levels_of_the_exploding_diffusion_are_the_geometric_ladder():
    levels = geometric(50.0, 0.01, 11)
    sigma = variance_exploding(0.01, 50.0).sigma(torch.linspace(1, 0, 11))
    torch.testing.assert_close(sigma.float(), levels)


@each_diffusion
def test_a_score_of_noised_data_serves_every_diffusion(diffusion, s, t):
    # Data N(m, v): x_t is N(alpha m, alpha² v + sigma²).
    m, v = 0.5, 0.3
    x_t = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    score = diffusion.score(lambda x, sigma: -(x - m) / (v + sigma[:, None] ** 2), x_t, at(t, 5))
    alpha, sigma = diffusion.alpha(at(t)), diffusion.sigma(at(t))
    torch.testing.assert_close(score, -(x_t - alpha * m) / (alpha**2 * v + sigma**2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianDiffusion(torch.ones_like, lambda t: 2 - t), "must decrease.*0.001"),
        (lambda: GaussianDiffusion(torch.ones_like, lambda t: (t - 0.1).clamp(min=0)), "decrease"),
        (lambda: GaussianDiffusion(lambda t: 1 + t, lambda t: 1 + t), "must decrease"),
        (lambda: GaussianDiffusion(lambda t: 0.5 - t, torch.ones_like), "alpha is out.*0.5"),
        (lambda: GaussianDiffusion(torch.ones_like, lambda t: t - 1), "sigma is out"),
        (lambda: GaussianDiffusion(torch.ones_like, lambda t: t / 0), "sigma is out.*inf|nan"),
        (lambda: variance_exploding(2.0, 1.0), "sigma_min=2.0"),
        (lambda: variance_preserving(3.0, 2.0), "beta_min=3.0"),
        (lambda: variance_preserving_cosine(-1.0), "offset"),
        (lambda: ddpm(torch.tensor([0.1, 1.0])), "beta"),
        (lambda: ddpm(torch.tensor([0.1, 0.0])), "beta"),
    ],
)
def test_impossible_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@each_diffusion
def test_a_step_back_in_time_has_no_variance_and_is_refused(diffusion, s, t):
    x = torch.randn(2, 4)
    for call in (diffusion.transition, partial(diffusion.posterior, x)):
        for later in (t, s):
            with pytest.raises(ValueError, match="needs times s < t, got s="):
                call(x, at(later, 2), at(s, 2))


@pytest.mark.parametrize("t", [-1, 0.5, 1001])
def test_a_time_that_is_no_step_of_ddpm_is_refused(t):
    with pytest.raises(ValueError, match=r"integers from 0 to 1000, got \["):
        ddpm(BETAS).alpha(at(t))
