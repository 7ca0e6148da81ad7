"""Exact scores against automatic differentiation, other closed forms and known constants."""

import math

import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import vonmises

from ncsn.exact import Empirical, Gaussian, GaussianMixture, TwoMoons
from ncsn.objectives import denoising_score_matching

COVARIANCE = [[1.0, 0.6], [0.6, 0.5]]
DENSITIES = {
    "gaussian": Gaussian([0.5, -1.0], COVARIANCE),
    "mixture": GaussianMixture([[0.0, 1.0], [2.0, 0.0]], stds=[0.3, 0.7], weights=[3.0, 1.0]),
    "moons": TwoMoons(num_points=128),
    "empirical": Empirical(torch.randn(50, 2, generator=torch.Generator(), dtype=torch.float64)),
}
MATRIX = torch.tensor([[1.0, -0.5], [0.2, 0.8]], dtype=torch.float64)
MEASURED, NOISE = torch.tensor([0.4, 0.9], dtype=torch.float64), 0.6
PRIORS = {name: DENSITIES[name] for name in ("gaussian", "mixture", "empirical")}
POSTERIORS = {
    f"{name}, {num} measured": prior.posterior(MATRIX[:num], MEASURED[:num], NOISE)
    for name, prior in PRIORS.items()
    for num in (1, 2)
}
DENSITIES |= POSTERIORS
each_density = pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES)


@each_density
@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_the_score_is_the_gradient_of_the_log_density(density, sigma):
    x = 2 * torch.randn(20, 2, dtype=torch.float64)
    x.requires_grad_()
    sigmas = torch.full((20,), sigma, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(density.log_density(x, sigmas).sum(), x)
    torch.testing.assert_close(density(x, sigmas), gradient)


@each_density
def test_densities_integrate_to_one(density):
    steps = torch.linspace(-8, 8, 321, dtype=torch.float64)
    x = torch.cartesian_prod(steps, steps)
    log_density = density.log_density(x, torch.full((len(x),), 0.5))
    assert log_density.exp().sum().item() * 0.05**2 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", POSTERIORS)
def test_posteriors_follow_bayes_rule(name):
    # log p(x | y) - log p(x) - log p(y | x) is - log p(y), for all x.
    prior, num = name.split(", ")
    if prior == "empirical":  # points, which have no density: each is weighted by its likelihood
        prior, points = PRIORS[prior], PRIORS[prior].means + PRIORS[prior].centre
        likelihood = (MEASURED - points @ MATRIX.T)[:, : int(num[0])].square().sum(1)
        weights = (-likelihood / (2 * NOISE**2)).softmax(0)
        torch.testing.assert_close(POSTERIORS[name].log_weights.exp(), weights)
        return
    x, zero = torch.randn(50, 2, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    residual = (MEASURED - x @ MATRIX.T)[:, : int(num[0])]
    joint = PRIORS[prior].log_density(x, zero) - residual.square().sum(1) / (2 * NOISE**2)
    evidence = joint - POSTERIORS[name].log_density(x, zero)
    torch.testing.assert_close(evidence, evidence[:1].expand(50))


@pytest.mark.parametrize("noise", [1e-9, 1e-5, 1.0])
def test_the_posterior_of_all_directions_is_exact_at_any_noise(noise):
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    prior = Gaussian([0.0] * 3, torch.eye(3))
    posterior = prior.posterior(rotation, torch.zeros(3), noise)
    expected = torch.full((3,), noise**2 / (1 + noise**2), dtype=torch.float64)
    torch.testing.assert_close(posterior.eigenvalues, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", POSTERIORS)
def test_samples_of_posteriors_have_its_moments(name):
    posterior = POSTERIORS[name]
    x = posterior.sample(20_000, torch.Generator().manual_seed(0))
    # By Tweedie's formula, for noise so large that the whole density is one point.
    far = torch.zeros(1, 2, dtype=torch.float64)
    mean = far + 1e8 * posterior(far, torch.tensor([1e4], dtype=torch.float64))
    assert ((x.mean(0) - mean).abs() < 5 * x.std(0) / len(x) ** 0.5 + 1e-6).all()


def test_gaussian_agrees_with_that_of_torch():
    x = torch.randn(10, 2, dtype=torch.float64)
    noised = torch.tensor(COVARIANCE, dtype=torch.float64) + 0.3**2 * torch.eye(2)
    mean = torch.tensor([0.5, -1.0], dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(mean, noised).log_prob(x)
    log_density = DENSITIES["gaussian"].log_density(x, torch.full((10,), 0.3))
    torch.testing.assert_close(log_density, expected, rtol=1e-6, atol=1e-6)


def test_moons_agree_with_the_closed_form_in_terms_of_von_mises_distributions():
    # Along an arc |x - c(t)|² = r² + 1 - 2 r cos(t - phi): the integral over t is that of a
    # von Mises density with kappa = r / v.
    x = torch.tensor([1.5, 0.9], dtype=torch.float64) * torch.randn(200, 2, dtype=torch.float64)
    v = 0.1**2 + 0.2**2  # so that kappa is below 50, where SciPy's function is a series

    def log_density_of_arc(points):
        r, phi = points.norm(dim=1), torch.atan2(points[:, 1], points[:, 0])
        kappa = (r / v).numpy()
        mass = vonmises.cdf(math.pi - phi, kappa) - vonmises.cdf(-phi, kappa)
        log_bessel = torch.special.i0e(r / v).log() + r / v  # log I_0(kappa)
        return (
            -(r**2 + 1) / (2 * v) + log_bessel - math.log(math.pi * v) + torch.tensor(mass).log()
        )

    flipped = torch.stack([1 - x[:, 0], 0.5 - x[:, 1]], dim=1)
    arcs = torch.stack([log_density_of_arc(x), log_density_of_arc(flipped)])
    expected = torch.tensor(logsumexp(arcs.numpy(), axis=0)) - math.log(2)
    log_density = TwoMoons(noise=0.1).log_density(x, torch.full((200,), 0.2, dtype=torch.float64))
    near = expected > -15  # far away, the difference of distribution functions is rounded off
    assert near.sum() > 100
    torch.testing.assert_close(log_density[near], expected[near], rtol=0, atol=1e-5)


def test_entropy_of_the_moons():
    steps = torch.linspace(-2, 3, 201, dtype=torch.float64)
    x = torch.cartesian_prod(steps, steps)
    log_density = TwoMoons(num_points=512).log_density(x, torch.zeros(len(x)))
    entropy = -(log_density.exp() * log_density).sum().item() * 0.025**2
    assert entropy == pytest.approx(1.00758, abs=2e-5)


@pytest.mark.parametrize(
    ("sigma", "smallest"), [(0.01, 1.990), (0.1, 1.510), (0.5, 1.103), (2, 0.216), (10, 0.0101)]
)
def test_smallest_loss_on_the_moons(sigma, smallest):
    # Five standard errors, and the rounding of the constants.
    moons = TwoMoons(num_points=512)
    levels = torch.full((20_000,), float(sigma))
    loss = denoising_score_matching(moons, moons.sample(20_000), levels).sum(1)
    assert abs(loss.mean() - smallest) < 5 * loss.std() / 20_000**0.5 + 1e-3 * smallest


def test_samples_have_the_density():
    # The mean of the log density over samples is minus the entropy of the moons.
    moons = TwoMoons(num_points=512)
    log_density = moons.log_density(moons.sample(20_000), torch.zeros(20_000))
    assert abs(log_density.mean() + 1.00758) < 5 * log_density.std() / 20_000**0.5


def test_empirical_score_points_to_the_nearest_example_and_from_far_away_to_the_mean():
    data = torch.randn(100, 1, 4, 4)
    score = Empirical(data)
    x, sigma = data[:7] + 0.01, torch.full((7,), 0.01)
    denoised = x + 0.01**2 * score(x, sigma)
    torch.testing.assert_close(denoised, data[:7], rtol=0, atol=1e-4)
    sigma = torch.full((7,), 1e4)
    denoised = x + 1e8 * score(x, sigma)
    assert (denoised - data.mean(0)).abs().max() < 0.05


def test_chunks_do_not_change_the_result(monkeypatch):
    data, x, sigma = torch.randn(64, 3), torch.randn(10, 3), torch.rand(10) + 0.1
    score = Empirical(data)
    whole = score(x, sigma), score.log_density(x, sigma)
    monkeypatch.setattr(GaussianMixture, "ENTRIES_AT_A_TIME", 200)
    torch.testing.assert_close((score(x, sigma), score.log_density(x, sigma)), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_does_not_change_an_exact_score(dtype):
    score, x, sigma = (
        Empirical(torch.randn(64, 3, dtype=dtype)),
        torch.randn(10, 3),
        torch.ones(10),
    )
    expected = score(x, sigma), score.log_density(x, sigma)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close((score(x, sigma), score.log_density(x, sigma)), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian([0.0], COVARIANCE), "shapes"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "eigenvalue"),
        (lambda: GaussianMixture([[0.0]], stds=-1.0), "stds"),
        (lambda: GaussianMixture([[0.0], [1.0]], weights=[1.0, 0.0]), "weights"),
        (lambda: GaussianMixture(torch.zeros(3)), "means"),
        (lambda: TwoMoons(num_points=0), "num_points"),
    ],
)
def test_impossible_densities_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
