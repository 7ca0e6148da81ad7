"""Posterior samplers on Gaussian priors, whose posterior is known in closed form.

With a Gaussian prior, everything is linear: what each method gets wrong can be worked out. Tests
of samples allow five standard errors, and what the discretisation is said to cost.
"""

import math

import pytest
import torch

from ncsn.exact import Gaussian, GaussianMixture
from ncsn.levels import geometric
from ncsn.random import SampleGenerator
from ncsn.sampling import (
    DPS,
    MMPS,
    Ancestral,
    AnnealedLangevin,
    AnnealedLikelihood,
    Blur,
    Downsampling,
    DPMSolver,
    HiddenBox,
    Mask,
    PiGDM,
    RandomProjection,
    Replacement,
    Resampling,
    SubsampledFourier,
)

SHAPE = (1, 4, 4)
OPERATORS = {
    "mask": HiddenBox(SHAPE, left=2),
    "frequencies": SubsampledFourier(SHAPE, share=0.4),
    "downsampling": Downsampling(SHAPE),
    "blur": Blur(SHAPE, std=0.7),
    "projection": RandomProjection(SHAPE, num=6),
}
each_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
METHODS = (AnnealedLikelihood(), Replacement(), DPS(), DPS(1.0), PiGDM(), MMPS())
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda each: type(each).__name__)


def prior_of(kind, dim=16, std=0.8):
    """A Gaussian: isotropic, or one of whose eigenvalues some are much smaller than others."""
    mean = torch.linspace(-0.5, 0.5, dim, dtype=torch.float64)
    if kind == "isotropic":
        return Gaussian(mean, std**2 * torch.eye(dim))
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Gaussian(mean, root @ root.T / dim)


def flat(score):
    """A score function of points, for images of as many pixels."""
    return lambda x, sigma: score(x.flatten(1), sigma).view_as(x)


def dense(operator):
    """The matrix of an operator, float64."""
    dim = math.prod(operator.shape)
    identity = torch.eye(dim, dtype=torch.float64).view(dim, *operator.shape)
    return operator(identity).flatten(1).T


def problem(prior, operator, noise, num=20):
    """A measurement of one draw of the prior, ``num`` times, and the exact posterior."""
    generator = torch.Generator().manual_seed(2)
    x = prior.sample(1, generator).view(1, *operator.shape)
    y = operator.measure(x, noise, generator)
    return y.expand(num, *y.shape[1:]), prior.posterior(dense(operator), y.flatten(), noise)


@each_operator
@pytest.mark.parametrize("sigma", [0.01, 0.3, 10.0])
@pytest.mark.parametrize(
    ("method", "kind"), [(PiGDM(0.8), "isotropic"), (MMPS(16), "isotropic"), (MMPS(16), "other")]
)
def test_where_a_method_is_exact_it_has_the_score_of_the_posterior(method, kind, sigma, operator):
    prior = prior_of(kind)
    y, posterior = problem(prior, operator, noise=0.2)
    x = (1 + sigma) * torch.randn(20, *SHAPE, dtype=torch.float64)
    sigmas = torch.full((20,), sigma, dtype=torch.float64)
    score = method(flat(prior), operator, y, 0.2)
    exact = flat(posterior)(x, sigmas)
    # Eigenvalues of the blur below 1e-6 count as 1e-6.
    torch.testing.assert_close(score(x, sigmas), exact, rtol=1e-3, atol=1e-4 * exact.std().item())


@each_operator
@pytest.mark.parametrize(
    "method", [AnnealedLikelihood(), DPS(), PiGDM(0.5)], ids=lambda each: type(each).__name__
)
def test_the_error_of_the_score_falls_as_the_square_of_the_noise_level(method, operator):
    # Each replaces the covariance of x_0 given x, of the order of sigma², by something else.
    prior = prior_of("other")
    y, posterior = problem(prior, operator, noise=0.2)
    x, errors = torch.randn(20, *SHAPE, dtype=torch.float64), []
    for sigma in (1e-3, 1e-4):
        sigmas = torch.full((20,), sigma, dtype=torch.float64)
        score = method(flat(prior), operator, y, 0.2)
        errors.append((score(x, sigmas) - flat(posterior)(x, sigmas)).norm().item())
    assert errors[1] / errors[0] < 0.03


# A point in three dimensions, the first two of which are measured.
NOISE, STD = 0.1, 1.0
OPERATOR = Mask((3,), torch.tensor([True, True, False]))
Y = torch.tensor([0.9, -0.6])
LEVELS = geometric(20.0, 0.005, 40)


def draw(method, sampler, prior, operator=OPERATOR, y=Y, noise=NOISE, num=20_000, levels=LEVELS):
    """Samples of a posterior by one method and one sampler."""
    score = method(prior, operator, y.expand(num, -1), noise)
    x = sampler.initial(torch.empty(num, *operator.shape), levels)
    return sampler(score, x, levels)


ISOTROPIC = Gaussian([0.0] * 3, STD**2 * torch.eye(3))
SHRINKAGE = STD**2 / (STD**2 + NOISE**2)
MEAN, VARIANCE = SHRINKAGE * Y[0].item(), SHRINKAGE * NOISE**2  # of the posterior of x_1


def fields(sigma):
    """The score b y - p x of x_1 by each method, as (b, p), written down by hand."""
    jacobian, r = STD**2 / (STD**2 + sigma**2), (STD * sigma) ** 2 / (STD**2 + sigma**2)
    prior, exact = 1 / (STD**2 + sigma**2), 1 / (NOISE**2 + r)
    return {
        "annealed": (1 / (NOISE**2 + sigma**2), prior + 1 / (NOISE**2 + sigma**2)),
        "replacement": (1 / (NOISE**2 + sigma**2), 1 / (NOISE**2 + sigma**2)),
        "dps": (jacobian / NOISE**2, prior + jacobian**2 / NOISE**2),
        "pigdm": (jacobian * exact, prior + jacobian**2 * exact),
        "mmps": (jacobian * exact, prior + jacobian**2 * exact),
    }


BY_NAME = {
    "annealed": AnnealedLikelihood(),
    "replacement": Replacement(),
    "dps": DPS(),
    "pigdm": PiGDM(STD),
    "mmps": MMPS(iterations=1),
}
STEPS = 1600
"""So that (1 - g²) (tau / s)² / 4 is well below 2, where DPS diverges."""


def outcome(name, steps=STEPS):
    """Mean and variance of x_1 after ancestral sampling, which is linear: no draws, no error."""
    *path, last = geometric(LEVELS[0].item(), LEVELS[-1].item(), steps).double().tolist()
    mean, variance = 0.0, path[0] ** 2
    for sigma, lower in zip(path, [*path[1:], last], strict=True):
        b, p = fields(sigma)[name]
        share = 1 - (lower / sigma) ** 2
        keep = 1 - share * sigma**2 * p
        mean = keep * mean + share * sigma**2 * b * Y[0].item()
        variance = keep**2 * variance + share * lower**2
    b, p = fields(last)[name]
    keep = 1 - last**2 * p
    return keep * mean + last**2 * b * Y[0].item(), keep**2 * variance


@pytest.mark.parametrize("name", BY_NAME)
def test_samples_are_those_that_the_formulas_of_a_method_give(name):
    x = draw(BY_NAME[name], Ancestral(STEPS), ISOTROPIC, num=1000)[:, 0]
    mean, variance = outcome(name)
    assert abs(x.mean() - mean) < 5 * (variance / len(x)) ** 0.5
    assert abs(x.var() / variance - 1) < 5 * (2 / len(x)) ** 0.5


@pytest.mark.parametrize("name", ["pigdm", "mmps"])
def test_exact_methods_reach_the_posterior_as_the_steps_become_small(name):
    for steps in (200, STEPS):
        mean, variance = outcome(name, steps)
        # Of the variance, steps of ratio g cost a share of about 1 - g, and the Tweedie step the
        # share of the last noise.
        loss = 1 - (LEVELS[-1] / LEVELS[0]).item() ** (1 / (steps - 1))
        assert abs(mean - MEAN) < loss * VARIANCE**0.5
        assert 1 - 1.2 * loss - LEVELS[-1] ** 2 / VARIANCE < variance / VARIANCE < 1


def test_diffusion_posterior_sampling_halves_the_variance():
    # Where s is small against tau: dv/du = 2 v / s² - 1 in u = sigma², along which v falls to
    # s² / 2, half of the variance that it should have. To the order of (s / tau)² and of a step.
    mean, variance = outcome("dps")
    assert variance / VARIANCE == pytest.approx(0.5, abs=0.02)
    assert abs(mean - MEAN) < NOISE / STD * VARIANCE**0.5


def test_replacement_ignores_the_prior_of_what_is_measured():
    # N(y, s²) instead of the posterior: a share of (s / tau)² too wide, and y not shrunk.
    mean, variance = outcome("replacement")
    assert abs(mean - Y[0]) < 0.01 * NOISE
    assert variance == pytest.approx(NOISE**2, rel=0.01)


def test_langevin_forgets_the_error_of_the_annealed_likelihood_and_ancestral_does_not():
    # Above tau, the prior's pull to 0 is added to a likelihood that knows of no prior.
    mean, variance = outcome("annealed")
    assert mean < MEAN - 0.05 * VARIANCE**0.5
    assert variance < 0.95 * VARIANCE
    # Langevin dynamics with a share a forgets a level within L steps while a sigma² / v is above
    # 1 / L. What is left of the error, (sigma / s)², is of the order of 1 / (a L) = 0.05.
    x = draw(AnnealedLikelihood(), AnnealedLangevin(100), ISOTROPIC, num=4000)[:, 0]
    assert abs(x.mean() - MEAN) < VARIANCE**0.5 * (5 / 4000**0.5 + 0.05)
    assert abs(x.var() / VARIANCE - 1) < 5 * (2 / 4000) ** 0.5 + 0.05


def test_steps_of_fixed_length_are_those_of_the_paper_in_a_variance_preserving_chain():
    # In v = x / sqrt(1 + sigma²), a step adds -zeta' times the gradient of |r|², over |r|.
    zeta, levels = 0.7, geometric(2.0, 1.5, 2)
    g = (levels[1] / levels[0]).item()
    y, alpha = Y.expand(5, -1), (1 + levels[0] ** 2) ** -0.5
    v = torch.randn(5, 3, requires_grad=True)
    denoised = v / alpha + 4.0 * ISOTROPIC(v / alpha, levels[:1].expand(5))
    length = (y - OPERATOR(denoised)).norm(dim=1)
    (gradient,) = torch.autograd.grad((length**2).sum(), v)
    expected = -zeta * (1 - g**2) * gradient / length[:, None] / alpha
    x = (v / alpha).detach()
    sampler, generator = Ancestral(denoise=False), torch.Generator()
    plain = sampler(ISOTROPIC, x, levels, generator.manual_seed(3))
    score = DPS(zeta)(ISOTROPIC, OPERATOR, y, NOISE)
    guided = sampler(score, x, levels, generator.manual_seed(3))
    torch.testing.assert_close(guided - plain, expected, rtol=1e-3, atol=1e-5)


def test_steps_of_fixed_length_reach_the_measurement_and_stay_within_one_of_it():
    # At the end, a step moves A x by 2 zeta (1 - g²), forwards or back.
    method, steps = DPS(0.5), 400
    assert not method.denoises
    x = draw(method, Ancestral(steps, denoise=False), ISOTROPIC, num=500)
    g = (LEVELS[-1] / LEVELS[0]).item() ** (1 / (steps - 1))
    distance = (x[:, :2] - Y).norm(dim=1)
    # And the noise of the last level, by which D(x) follows y and not x.
    assert distance.quantile(0.99) < 2 * 0.5 * (1 - g**2) + 5 * LEVELS[-1]


CORRELATED = Gaussian([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]])
FIRST = Mask((2,), torch.tensor([True, False]))


@pytest.mark.parametrize(("num_resamples", "bias"), [(1, 0.6), (20, 0.1)])
def test_inpainting_keeps_known_values_and_resampling_brings_the_others_to_their_conditional(
    num_resamples, bias
):
    # x_2 given x_1 = 1.5 is N(1.2, 0.36).
    known, levels = torch.tensor([1.5]), geometric(20.0, 0.02, 60)
    sampler = Resampling(num_resamples=num_resamples)
    x = draw(Replacement(), sampler, CORRELATED, FIRST, known, 0.0, 4000, levels)
    torch.testing.assert_close(x[:, 0], known.expand(4000))
    assert abs(x[:, 1].mean() - 1.2) < bias
    assert abs(x[:, 1].std() - 0.6) < bias
    if num_resamples == 1:  # replacement alone is known to fall short
        assert x[:, 1].mean() < 1.0


def test_moment_matching_needs_no_resampling():
    x = draw(
        MMPS(1),
        Ancestral(),
        CORRELATED,
        FIRST,
        torch.tensor([1.5]),
        0.0,
        4000,
        geometric(20.0, 0.02, 60),
    )
    assert abs(x[:, 1].mean() - 1.2) < 5 * 0.6 / 4000**0.5 + 0.03
    assert abs(x[:, 1].std() / 0.6 - 1) < 5 / 8000**0.5 + 0.08


def test_a_mixture_is_sampled_from_its_posterior_by_the_exact_score_of_it():
    prior = GaussianMixture([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]], stds=[0.2, 0.4, 0.3])
    posterior = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([0.8]), 0.3)
    levels = geometric(20.0, 0.01, 10)
    x = DPMSolver(100, eta=1.0)(posterior, 20 * torch.randn(4000, 2), levels)
    exact = posterior.sample(4000)
    for k in range(2):
        errors = (x[:, k].var() + exact[:, k].var()).sqrt() / 4000**0.5
        assert abs(x[:, k].mean() - exact[:, k].mean()) < 5 * errors
    assert (
        abs((x[:, 1] > 0).float().mean() - (exact[:, 1] > 0).float().mean()) < 5 * 0.5 / 2000**0.5
    )


@each_method
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_score_is_the_same_whether_the_caller_wants_gradients_or_not(method, context):
    x, sigma = torch.randn(4, 3), torch.rand(4) + 0.1
    expected = method(ISOTROPIC, OPERATOR, Y.expand(4, -1), NOISE)(x, sigma)
    with context():
        score = method(ISOTROPIC, OPERATOR, 1 * Y.expand(4, -1), NOISE)
        found = score(1 * x, 1 * sigma)
        assert not found.requires_grad
    torch.testing.assert_close(found, expected)


@each_method
def test_sample_i_does_not_depend_on_its_batch(method):
    prior = GaussianMixture([[0.0] * 3, [1.0] * 3], stds=[0.3, 0.5])
    y, levels = torch.randn(30, 2), geometric(5.0, 0.05, 12)

    def sample(start, stop):
        generator, sampler = SampleGenerator(3, start, stop), Ancestral()
        x = sampler.initial(torch.empty(stop - start, 3), levels, generator)
        return sampler(method(prior, OPERATOR, y[start:stop], 0.5), x, levels, generator)

    parts = torch.cat([sample(0, 10), sample(10, 11), sample(11, 30)])
    torch.testing.assert_close(parts, sample(0, 30), rtol=1e-4, atol=1e-4)


@each_method
def test_images_keep_their_shape_and_dtype(method):
    score = method(lambda x, sigma: -x, OPERATORS["downsampling"], torch.zeros(2, 1, 2, 2), 0.1)
    x = score(torch.randn(2, *SHAPE), torch.ones(2))
    assert (x.shape, x.dtype) == ((2, *SHAPE), torch.float32)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DPS(step_size=0.0),
        lambda: DPS()(ISOTROPIC, OPERATOR, Y[None], 0.0),
        lambda: PiGDM(data_std=-1.0),
        lambda: MMPS(iterations=0),
        lambda: MMPS()(ISOTROPIC, OPERATOR, Y[None], -0.1),
        lambda: Resampling(num_resamples=0),
        lambda: ISOTROPIC.posterior(torch.eye(3), torch.zeros(3), 0.0),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(ValueError, match=r"step_size|data_std|iterations|noise|num_resamples"):
        make()
