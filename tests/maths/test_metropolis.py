"""Metropolis-adjusted Langevin dynamics against closed forms, with exact scores.

Statistical tests allow five standard errors: each raises a false alarm once in 1.7 million runs,
and none with the fixed seeds. Chains start from the density that they should keep, so what is
tested is that they keep it, and not how fast they mix.
"""

import math
from itertools import pairwise

import pytest
import torch
from closed_forms import assert_variance, gaussian_score

from ncsn.exact import GaussianMixture, TwoMoons
from ncsn.levels import geometric
from ncsn.sampling import (
    IPNDM,
    AnnealedLangevin,
    Corrected,
    DPMSolver,
    Euler,
    Langevin,
    MetropolisLangevin,
    SASolver,
)
from ncsn.sampling.langevin import epsilon_from_share
from ncsn.sampling.metropolis import gauss_lobatto, line_integral, metropolis_share

MOONS = TwoMoons(noise=0.1, num_points=16)
MIXTURE = GaussianMixture([[-1.0, 0.0], [1.0, 0.5], [0.2, -1.0]], [0.3, 0.5, 0.2], [1, 2, 3])


def noised(density, num, sigma, seed=0):
    """Points of a density noised at level sigma, float32."""
    generator = torch.Generator().manual_seed(seed)
    x = density.sample(num, generator).float()
    return x + sigma * torch.empty_like(x).normal_(generator=generator)


def log_density(density, x, sigma):
    return density.log_density(x.double(), torch.full((len(x),), sigma, dtype=torch.float64))


def integrate(density, x, x_new, sigma, num_nodes):
    """The line integral of a density's score between points."""

    def score(x, sigma):
        return density(x, torch.full((len(x),), sigma, dtype=x.dtype))

    ends = x, x_new
    return line_integral(score, ends, tuple(score(y, sigma) for y in ends), sigma, num_nodes)


def assert_same_mean(x, y):
    """The means of two independent samples, shape ``(n, ...)``, within five standard errors."""
    error = (x.var(0) / len(x) + y.var(0) / len(y)).sqrt()
    assert ((x.mean(0) - y.mean(0)).abs() < 5 * error).all()


# ---- the line integral ----


@pytest.mark.parametrize("num_nodes", range(2, 8))
def test_the_quadrature_is_exact_up_to_its_degree_and_has_its_error_above(num_nodes):
    nodes = gauss_lobatto(num_nodes)
    assert nodes[0][0] == 0
    assert nodes[-1][0] == 1
    for degree in range(2 * num_nodes - 2):
        assert sum(w * t**degree for t, w in nodes) == pytest.approx(1 / (degree + 1), abs=1e-14)
    # The next power has the constant derivative (2n - 2)!, so the error is that of the docstring.
    n, degree = num_nodes, 2 * num_nodes - 2
    error = 1 / (degree + 1) - sum(w * t**degree for t, w in nodes)
    constant = n * (n - 1) ** 3 * math.factorial(n - 2) ** 4
    constant /= (2 * n - 1) * math.factorial(degree) ** 3
    assert error == pytest.approx(-constant * math.factorial(degree), rel=1e-6)
    assert {3: 2880, 4: 1_512_000}.get(n, 1 / constant) == pytest.approx(1 / constant)


@pytest.mark.parametrize("num_nodes", [2, 3, 4])
def test_the_integral_of_a_score_is_the_difference_of_log_densities_to_its_order(num_nodes):
    # Half the length has 2^(2n - 1) times less error.
    x, errors = noised(MIXTURE, 500, 0.2).double(), []
    d = torch.randn_like(x)
    for length in (0.2, 0.1):
        expected = log_density(MIXTURE, x + length * d, 0.2) - log_density(MIXTURE, x, 0.2)
        found = integrate(MIXTURE, x, x + length * d, 0.2, num_nodes)
        errors.append((found - expected).abs().median().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2 * num_nodes - 1, abs=0.4)


def test_around_a_closed_path_a_score_has_no_work_and_a_rotation_its_circulation():
    corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    corners = corners.double()[:, None]  # points of a batch of one

    def work(field):
        return sum(
            line_integral(field, ends, (field(ends[0], 1.0), field(ends[1], 1.0)), 1.0, 25).item()
            for ends in pairwise(corners)
        )

    def gradient(x, sigma):
        return MIXTURE(x, torch.full((len(x),), sigma, dtype=x.dtype))

    assert work(gradient) == pytest.approx(0, abs=1e-5)
    # (-y, x) has the curl 2, and the rectangle the area 2.
    assert work(lambda x, _: torch.stack([-x[:, 1], x[:, 0]], dim=1)) == pytest.approx(4)
    # Any field's work changes its sign with the direction, also where the rule has an error.
    there, back = (
        integrate(MIXTURE, *ends, 0.1, 5) for ends in (corners[[0, 2]], corners[[2, 0]])
    )
    torch.testing.assert_close(there, -back)


# ---- the chain ----


@pytest.mark.parametrize("eta", [0.1, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("num_nodes", [2, 4])
def test_on_a_gaussian_the_variance_is_exact_for_any_step_size(eta, num_nodes):
    # Where plain Langevin has v / (1 - eta / 4v), and diverges from eta = 4v on.
    v = 0.8**2 + 0.6**2
    sampler = MetropolisLangevin(50, eta, num_nodes, denoise=False)
    x = sampler(gaussian_score(0, 0.8), v**0.5 * torch.randn(100_000, 1), torch.tensor([0.6]))
    assert_variance(x, v)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_gaussian_in_many_dimensions_accepts_what_theory_says(share):
    # 2 Phi(-sqrt(D eta^3) / 8) in the limit; at D = 1000 it is right to 1 %.
    dim, num, normal = 1000, 2000, torch.distributions.Normal(0, 1)
    sampler = MetropolisLangevin(5, epsilon_from_share(share, 1.0), denoise=False)
    sampler(gaussian_score(0, 0), torch.randn(num, dim), torch.ones(1))
    expected = 2 * normal.cdf(-torch.tensor(dim * (2 * share) ** 3).sqrt() / 8).item()
    (rate,) = sampler.acceptance.values()
    assert abs(rate.item() - expected) < 0.01 + 5 * (0.25 / num) ** 0.5


def test_the_best_share_accepts_0_574():
    dim = 1000
    sampler = MetropolisLangevin(5, epsilon_from_share(metropolis_share(dim), 1.0), denoise=False)
    sampler(gaussian_score(0, 0), torch.randn(2000, dim), torch.ones(1))
    assert sampler.acceptance[1.0].item() == pytest.approx(0.574, abs=0.01 + 5 * 0.5 / 2000**0.5)


STEPS = {"small": 0.3, "large": 1.5, "beyond Langevin's limit": 6.0}


@pytest.mark.parametrize("share", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("density", [MOONS, MIXTURE], ids=["moons", "mixture"])
def test_the_density_of_an_exact_score_is_kept_at_any_step_size(density, share):
    # Means of log density, coordinates and their squares. The step is 0.6 to 12 times sigma².
    sigma, num = 0.1, 8000
    sampler = MetropolisLangevin(20, epsilon_from_share(share, sigma), 7, denoise=False)
    start, fresh = noised(density, num, sigma), noised(density, num, sigma, seed=1)
    x = sampler(density, start, torch.tensor([sigma]), torch.Generator().manual_seed(2))
    assert 0.01 < sampler.acceptance[torch.tensor(sigma).item()] < 1
    assert not torch.equal(x, start)
    assert_same_mean(log_density(density, x, sigma), log_density(density, fresh, sigma))
    assert_same_mean(torch.cat([x, x**2], 1), torch.cat([fresh, fresh**2], 1))


@pytest.mark.parametrize("density", [MOONS, MIXTURE], ids=["moons", "mixture"])
def test_plain_langevin_does_not_keep_it(density):
    sigma, num = 0.1, 8000
    sampler = Langevin(epsilon_from_share(3.0, sigma), 20)
    x = sampler(density, noised(density, num, sigma), torch.tensor([sigma]))
    fresh = noised(density, num, sigma, seed=1)
    found, expected = (log_density(density, y, sigma) for y in (x, fresh))
    error = (found.var() / num + expected.var() / num).sqrt()
    assert found.mean() < expected.mean() - 10 * error  # the samples are too wide


def test_one_step_is_reversible():
    # From the stationary density, (x, x') and (x', x) have one distribution:
    # E f(x) g(x') = E g(x) f(x').
    sigma, num = 0.1, 200_000
    sampler = MetropolisLangevin(1, epsilon_from_share(1.5, sigma), 6, denoise=False)
    x = noised(MIXTURE, num, sigma)
    x_new = sampler(MIXTURE, x, torch.tensor([sigma]))
    f, g = (lambda x: x[:, 0].sin(), lambda x: (x[:, 0] + 2 * x[:, 1]).exp().clamp(max=9))
    difference = f(x) * g(x_new) - g(x) * f(x_new)
    assert abs(difference.mean()) < 5 * difference.std() / num**0.5
    difference = x[:, 0] ** 3 * x_new[:, 1] - x_new[:, 0] ** 3 * x[:, 1]
    assert abs(difference.mean()) < 5 * difference.std() / num**0.5


def test_a_chain_finds_its_way_from_anywhere():
    levels = geometric(10.0, 0.05, 20)
    sampler = MetropolisLangevin(20, num_nodes=3, denoise=False)
    x = sampler.initial(torch.empty(4000, 2), levels)
    x = sampler(MIXTURE, x, levels)
    fresh = noised(MIXTURE, 4000, 0.05)
    assert sorted(sampler.acceptance, reverse=True) == levels.tolist()
    # The weights of the modes freeze at some level, hence 0.02.
    assert ((x.mean(0) - fresh.mean(0)).abs() < 5 * fresh.std(0) / 2000**0.5 + 0.02).all()


def test_a_proposal_that_is_not_finite_is_rejected():
    def wall(x, sigma):
        return torch.where(x.abs() < 1, -x, torch.nan)

    sampler = MetropolisLangevin(50, 1.0, denoise=False)
    x = sampler(wall, torch.zeros(1000, 1), torch.ones(1))
    assert (x.abs() < 1).all()
    assert 0 < sampler.acceptance[1.0] < 1


def test_evaluations_are_n_minus_1_a_step_and_one_more_at_each_level():
    levels = geometric(1.0, 0.1, 3)
    for num_nodes in (2, 4):
        sampler = MetropolisLangevin(5, num_nodes=num_nodes, denoise=False)
        sampler(MIXTURE, torch.randn(4, 2), levels)
        assert sampler.num_evaluations == 3 * (5 * (num_nodes - 1) + 1)


def test_nothing_is_copied_to_the_host():
    # A tensor without data cannot be: reading a number of it raises.
    x, levels = torch.empty(8, 2, device="meta"), geometric(1.0, 0.1, 3)
    for sampler in (MetropolisLangevin(2), Corrected(Euler(), MetropolisLangevin(2))):
        y = sampler(lambda x, sigma: -x, x, levels)
        assert y.device.type == "meta"
        assert all(rate.device.type == "meta" for rate in sampler.acceptance.values())


# ---- as a corrector ----


def test_a_corrector_takes_its_steps_at_the_end_of_each_level():
    levels, reports = geometric(1.0, 0.1, 3), []
    _, middle, last = levels.tolist()
    sampler = Corrected(AnnealedLangevin(2, denoise=False), MetropolisLangevin(3))
    sampler(MIXTURE, torch.randn(4, 2), levels, monitor=lambda sigma, x: reports.append(sigma))
    assert reports == [1.0] * 5 + [middle] * 5 + [last] * 5
    assert list(sampler.acceptance) == [1.0, middle, last]
    sampler = Corrected(Euler(4), MetropolisLangevin(1))
    assert sampler.path(levels)[1::2] == Euler(4).path(levels)[1:]
    assert sampler.denoise


def test_the_share_of_accepted_proposals_is_that_of_the_corrector():
    sampler = Corrected(MetropolisLangevin(3), MetropolisLangevin(3))
    sampler(MIXTURE, torch.randn(4, 2), geometric(1.0, 0.1, 3))
    assert all(rate <= 1 for rate in sampler.acceptance.values())
    sampler = Corrected(MetropolisLangevin(3), AnnealedLangevin(2))
    sampler(MIXTURE, torch.randn(4, 2), geometric(1.0, 0.1, 3))
    assert len(sampler.acceptance) == 3


class Shift(AnnealedLangevin):
    """A corrector that moves the states far away, once at each level."""

    def __init__(self):
        super().__init__(steps_per_level=1)

    def step(self, score, x, sigma, sigma_next, generator):
        return x + 100


@pytest.mark.parametrize("predictor", [Euler(4), IPNDM(4), SASolver(4, 0.0, 1, 1)], ids=str)
def test_a_predictor_goes_on_from_where_the_corrector_has_moved_the_states(predictor):
    # Without a score, D(x) = x, and a predictor that does not extrapolate it leaves x alone.
    levels = geometric(1.0, 0.1, 4)
    x = Corrected(predictor, Shift())(lambda x, sigma: 0 * x, torch.zeros(3, 2), levels)
    torch.testing.assert_close(x, torch.full((3, 2), 300.0))


@pytest.mark.parametrize("predictor", [Euler(5), DPMSolver(5), Langevin(0.02, 30)], ids=str)
def test_a_corrector_removes_what_a_crude_sampler_gets_wrong(predictor):
    # The Gaussian has the variance v at the last level; five steps are far from it.
    levels, v = geometric(10.0, 0.1, 10), 0.1**2 + 0.1**2
    corrector = MetropolisLangevin(60, epsilon_from_share(1.0, 10.0))
    errors = []
    for sampler in (predictor, Corrected(predictor, corrector)):
        sampler.denoise = False
        x = sampler.initial(torch.empty(50_000, 1), levels)
        x = sampler(gaussian_score(0, 0.1), x, levels)
        errors.append(abs(x.var().item() / v - 1))
    assert errors[0] > 0.05
    assert errors[1] < 5 * (2 / 50_000) ** 0.5


def test_impossible_ones_are_refused():
    with pytest.raises(ValueError, match="num_nodes must be at least 2"):
        MetropolisLangevin(num_nodes=1)
    with pytest.raises(ValueError, match="epsilon"):
        MetropolisLangevin(epsilon=-1.0)
