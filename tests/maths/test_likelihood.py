"""The likelihood along the probability flow, against exact densities.

Statistical tests allow five standard errors.
"""

import math
from functools import partial

import pytest
import torch
from closed_forms import COVARIANCE, GAUSSIAN

from ncsn.exact import Empirical, Gaussian, GaussianMixture, TwoMoons
from ncsn.sampling import log_density
from ncsn.sampling.likelihood import LogDensity, log_probability


def test_log_density_of_a_gaussian():
    mean = torch.tensor([0.5, -1.0])
    x = mean + torch.randn(200, 2) @ torch.linalg.cholesky(COVARIANCE).T
    expected = GAUSSIAN.log_density(x.double(), torch.full((200,), 0.01))
    errors = []
    for num_steps in (40, 80):
        found = log_density(GAUSSIAN, x.double(), GAUSSIAN, 100.0, 0.01, num_steps)
        errors.append((found.value - expected).abs())
    assert errors[1].max() < 1e-3
    # The stated error is that of the finer grid, for a method of fourth order.
    assert found.error.max() == pytest.approx((errors[0] - errors[1]).max().item() / 15, rel=0.5)


def test_the_estimate_by_hutchinson_is_unbiased():
    x = torch.tensor([[1.0, 0.5]]).expand(2000, 2)
    arguments = (GAUSSIAN, 100.0, 0.05, 20)
    exact = log_density(GAUSSIAN, x[:1], *arguments).value
    estimate = log_density(GAUSSIAN, x, *arguments, exact_divergence=False).value
    assert abs(estimate.mean() - exact) < 5 * estimate.std() / 2000**0.5
    assert estimate.std() > 0.01  # it does vary


def test_the_estimate_by_hutchinson_is_the_same_from_the_same_generator():
    before, x = torch.get_rng_state(), torch.randn(5, 2, generator=torch.Generator())
    options = {"num_steps": 4, "exact_divergence": False}
    values = [
        log_density(GAUSSIAN, x, GAUSSIAN, 10.0, 0.1, **options, generator=torch.Generator()).value
        for _ in range(2)
    ]
    assert torch.equal(*values)
    assert torch.equal(before, torch.get_rng_state())


def test_log_density_of_the_moons_gives_their_entropy():
    moons = TwoMoons(num_points=128)
    x = moons.sample(1000)
    found = log_density(moons, x, moons, 100.0, 0.01, num_steps=64)
    expected = moons.log_density(x, torch.full((1000,), 0.01))
    assert (found.value - expected).abs().mean() < 1e-3
    assert found.error.mean() < 1e-3
    entropy = 1.00758
    assert abs(-found.value.mean() - entropy) < 5 * found.value.std() / 1000**0.5


@pytest.mark.parametrize("arguments", [(1.0, 2.0), (1.0, 0.0), (1.0, 0.1, 3), (1.0, 0.1, 0)])
def test_impossible_flows_are_refused(arguments):
    with pytest.raises(ValueError, match=r"sigma_min=|num_steps"):
        log_density(GAUSSIAN, torch.zeros(1, 2), GAUSSIAN, *arguments)


def test_the_training_data_as_prior_costs_less_than_any_gaussian():
    # NCSNv2's sigma_max for moons, at which they still differ from a Gaussian.
    moons, sigma_max, generator = TwoMoons(num_points=128), 3.5, torch.Generator().manual_seed(0)
    train, x = moons.sample(4000, generator), moons.sample(100, generator)
    expected = moons.log_density(x, torch.full((100,), 0.01))

    def errors(prior):
        found = log_density(moons, x, prior, sigma_max, 0.01, num_steps=32)
        return (found.value - expected).abs(), found.error

    (exact, stated), (empirical, _) = errors(moons), errors(Empirical(train))
    gaussian, _ = errors(Gaussian(train.mean(0), train.T.cov().diag().diag()))
    assert exact.max() <= stated.max()
    assert empirical.mean() < 1e-3
    assert empirical.max() < 0.01
    assert gaussian.mean() > 5 * empirical.mean()


# ---- discrete data ----


def bound(model, x, values, counts, sigma, num_steps=32):
    """The bound with the model's exact density at level sigma as the flow finds it."""
    density = partial(
        log_density, model, prior=model, sigma_max=50.0, sigma_min=sigma, num_steps=num_steps
    )
    return log_probability(density, x, values, counts, sigma, torch.Generator().manual_seed(1))


def states_of(values, dim):
    """All points of a grid, shape ``(len(values) ** dim, dim)``."""
    return torch.cartesian_prod(*[values] * dim).view(-1, dim)


@pytest.mark.parametrize("dim", [1, 2])
def test_independent_values_cost_their_entropy(dim):
    values = torch.linspace(-1, 1, 17, dtype=torch.float64)
    x = states_of(values, dim)
    found = bound(GaussianMixture(x), x, values, torch.ones(17), 0.02)
    bits = -found.value / (dim * math.log(2))
    assert bits.mean().item() == pytest.approx(math.log2(17), abs=2e-3)
    assert bits.std() < 0.01  # the decoder is exact, so it is the same for each draw


@pytest.mark.parametrize(("sigma", "gap"), [(0.05, 0.01), (0.3, 1.5)])
def test_dependent_values_cost_at_least_their_entropy_and_little_more_at_small_noise(sigma, gap):
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([-1.0, -0.5, 0.25, 1.0], dtype=torch.float64)
    states = states_of(values, 3)
    p = torch.randn(64, generator=generator, dtype=torch.float64).mul(1.5).exp()
    p /= p.sum()
    marginal = torch.stack([(p * (states == v).sum(1)).sum() for v in values])
    rows = p.multinomial(800, replacement=True, generator=generator)
    found = bound(GaussianMixture(states, weights=p), states[rows], values, marginal, sigma)
    excess = -found.value + p.log()[rows]
    error = excess.std().item() / 800**0.5
    assert -4 * error < excess.mean() < gap + 4 * error
    if sigma > 0.1:  # neighbours are confused, which the decoder makes up for only in part
        assert excess.mean() > 4 * error


def test_the_probabilities_of_all_values_sum_to_at_most_one_for_a_wrong_model_too():
    # Kraft's inequality; it fails if the decoder's probabilities sum to more than one.
    values = torch.linspace(-1, 1, 17, dtype=torch.float64)
    x, counts = values.repeat_interleave(500)[:, None], torch.arange(1, 18)
    for std in (0.0, 0.05, 1.0):
        wrong = GaussianMixture(torch.tensor([[-0.5], [0.3]]).double(), stds=std)
        logs = log_probability(
            lambda z, model=wrong: LogDensity(
                model.log_density(z, z.new_full((len(z),), 0.1)), z.new_zeros(len(z))
            ),
            *(x, values, counts, 0.1, torch.Generator().manual_seed(0)),
        ).value.view(17, 500)
        assert logs.mean(1).exp().sum() < 1.02


def test_values_that_are_not_on_the_grid_are_refused():
    values = torch.tensor([-1.0, 0.0, 1.0])
    for x in (0.5, 2.0, -2.0):
        with pytest.raises(ValueError, match="x must consist of the 3 values"):
            log_probability(lambda z: None, torch.tensor([[0.0], [x]]), values, torch.ones(3), 0.1)
