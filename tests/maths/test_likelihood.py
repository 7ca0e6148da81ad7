"""The likelihood along the probability flow, against exact densities.

Statistical tests allow five standard errors.
"""

import pytest
import torch
from closed_forms import COVARIANCE, GAUSSIAN

from ncsn.exact import TwoMoons
from ncsn.sampling import log_density


def test_log_density_of_a_gaussian():
    mean = torch.tensor([0.5, -1.0])
    x = mean + torch.randn(200, 2) @ torch.linalg.cholesky(COVARIANCE).T
    expected = GAUSSIAN.log_density(x.double(), torch.full((200,), 0.01))
    errors = []
    for num_steps in (40, 80):
        found = log_density(
            GAUSSIAN, x.double(), 100.0, 0.01, num_steps, prior_mean=mean, prior_std=0.75**0.5
        )
        errors.append((found.value - expected).abs())
    assert errors[1].max() < 1e-3
    # The stated error is that of the finer grid, for a method of fourth order.
    assert found.error.max() == pytest.approx((errors[0] - errors[1]).max().item() / 15, rel=0.5)


def test_the_estimate_by_hutchinson_is_unbiased():
    x = torch.tensor([[1.0, 0.5]]).expand(2000, 2)
    arguments = (100.0, 0.05, 20)
    exact = log_density(GAUSSIAN, x[:1], *arguments).value
    estimate = log_density(GAUSSIAN, x, *arguments, exact_divergence=False).value
    assert abs(estimate.mean() - exact) < 5 * estimate.std() / 2000**0.5
    assert estimate.std() > 0.01  # it does vary


def test_the_estimate_by_hutchinson_is_the_same_from_the_same_generator():
    before, x = torch.get_rng_state(), torch.randn(5, 2, generator=torch.Generator())
    options = {"num_steps": 4, "exact_divergence": False}
    values = [
        log_density(GAUSSIAN, x, 10.0, 0.1, **options, generator=torch.Generator()).value
        for _ in range(2)
    ]
    assert torch.equal(*values)
    assert torch.equal(before, torch.get_rng_state())


def test_log_density_of_the_moons_gives_their_entropy():
    moons = TwoMoons(num_points=128)
    x = moons.sample(1000)
    mean, std = x.mean(0), x.std(0).mean().item()
    found = log_density(moons, x, 100.0, 0.01, num_steps=64, prior_mean=mean, prior_std=std)
    expected = moons.log_density(x, torch.full((1000,), 0.01))
    assert (found.value - expected).abs().mean() < 1e-3
    assert found.error.mean() < 1e-3
    entropy = 1.00758
    assert abs(-found.value.mean() - entropy) < 5 * found.value.std() / 1000**0.5


@pytest.mark.parametrize("arguments", [(1.0, 2.0), (1.0, 0.0), (1.0, 0.1, 3), (1.0, 0.1, 0)])
def test_impossible_flows_are_refused(arguments):
    with pytest.raises(ValueError, match=r"sigma_min=|num_steps"):
        log_density(GAUSSIAN, torch.zeros(1, 2), *arguments)
