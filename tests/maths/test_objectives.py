"""Score matching objectives against closed forms.

Statistical tests allow five standard errors: each raises a false alarm once in 1.7 million runs,
and none with the fixed seeds.
"""

from functools import partial

import pytest
import torch

from ncsn.exact import Gaussian
from ncsn.levels import expand_as, perturb
from ncsn.objectives import (
    denoising_score_matching,
    hyvarinen_score_matching,
    implicit_score_matching,
    score_and_divergence,
    sliced_score_matching,
)

OBJECTIVES = {
    "denoising": denoising_score_matching,
    "implicit": implicit_score_matching,
    "sliced": sliced_score_matching,
    "sliced, plain": partial(sliced_score_matching, variance_reduced=False),
}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def mean_and_error(losses):
    """The loss of a batch, and its standard error."""
    sums = losses.flatten(1).sum(1).double()
    return sums.mean().item(), (sums.std() / len(sums) ** 0.5).item()


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0, 30.0])
def test_the_zero_score_leaves_the_noise_whose_mean_square_is_the_dimension(sigma):
    x = torch.randn(20_000, 3)
    losses = denoising_score_matching(
        lambda x, sigma: torch.zeros_like(x), x, torch.full((20_000,), sigma)
    )
    mean, error = mean_and_error(losses)
    assert abs(mean - 3) < 5 * error


@pytest.mark.parametrize("sigma", [0.01, 1.0, 30.0])
def test_one_point_and_its_exact_score_have_no_loss(sigma):
    point = torch.tensor([0.5, -0.25, 1.0])  # exact in binary, so x - point is nearly so

    def score(x, sigma):
        return -(x - point) / expand_as(sigma, x) ** 2

    losses = denoising_score_matching(score, point.expand(1000, 3), torch.full((1000,), sigma))
    assert mean_and_error(losses)[0] == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("s", [0.3, 2.0])
def test_gaussian_data_and_their_exact_score_have_the_closed_form_loss(s, sigma):
    # For data N(0, s² I) in D dimensions the smallest loss is D s² / (s² + sigma²).
    x = s * torch.randn(50_000, 2)
    losses = denoising_score_matching(
        lambda x, sigma: -x / (s**2 + expand_as(sigma, x) ** 2), x, torch.full((50_000,), sigma)
    )
    mean, error = mean_and_error(losses)
    assert abs(mean - 2 * s**2 / (s**2 + sigma**2)) < 5 * error


@each_objective
def test_losses_have_the_shape_of_the_data_and_are_the_same_from_the_same_noise(objective):
    x, sigma = torch.randn(7, 1, 4, 4), torch.rand(7) + 0.1
    losses = [
        objective(lambda x, sigma: -x, x, sigma, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert losses[0].shape == x.shape
    assert torch.equal(*losses)


def test_the_denoising_loss_of_an_element_is_its_squared_residual():
    x, sigma = torch.randn(7, 1, 4, 4), torch.rand(7) + 0.1
    x_sigma, z = perturb(x, sigma, torch.Generator().manual_seed(1))
    losses = denoising_score_matching(
        lambda x, sigma: -x, x, sigma, torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(losses, (z - expand_as(sigma, x) * x_sigma) ** 2)


# The data of the tests below: N(m, C) in two dimensions, noised at the level SIGMA.
MEAN, COVARIANCE = torch.tensor([0.5, -1.0]), torch.tensor([[1.0, 0.3], [0.3, 0.5]])
SIGMA = 0.6
NOISED = COVARIANCE + SIGMA**2 * torch.eye(2)


def gaussian_data(n):
    return MEAN + torch.randn(n, 2) @ torch.linalg.cholesky(COVARIANCE).T


def affine_score(matrix, shift):
    return lambda x, sigma: x @ matrix.T + shift


@each_objective
def test_objectives_are_the_fisher_divergence_plus_the_stated_constant(objective):
    # 2 sigma² J + D - sigma² E|grad log q|², for a wrong affine score s = A x + b.
    n, matrix, shift = 200_000, torch.tensor([[-1.0, 0.4], [0.1, -0.3]]), torch.tensor([0.2, 0.7])
    precision = NOISED.inverse()
    # s - grad log q is affine too: (A + P)(x - m) + A m + b.
    slope, offset = matrix + precision, matrix @ MEAN + shift
    fisher = 0.5 * ((slope @ NOISED @ slope.T).trace() + offset.square().sum())
    expected = 2 * SIGMA**2 * fisher + 2 - SIGMA**2 * precision.trace()
    x, sigma = gaussian_data(n), torch.full((n,), SIGMA)
    mean, error = mean_and_error(objective(affine_score(matrix, shift), x, sigma))
    assert abs(mean - expected.item()) < 5 * error


@each_objective
def test_objectives_have_the_score_as_their_minimiser(objective):
    # An affine score makes every objective a quadratic: Newton's method ends after one step.
    n = 50_000
    x, sigma = gaussian_data(n), torch.full((n,), SIGMA)
    parameters = torch.zeros(6, requires_grad=True)

    def loss(p):
        generator, score = torch.Generator().manual_seed(1), affine_score(p[:4].view(2, 2), p[4:])
        return objective(score, x, sigma, generator=generator).flatten(1).sum(1).mean()

    (gradient,) = torch.autograd.grad(loss(parameters), parameters)
    hessian = torch.autograd.functional.hessian(loss, parameters)
    minimiser = -torch.linalg.solve(hessian, gradient)
    exact = Gaussian(MEAN, COVARIANCE)
    points = torch.randn(100, 2)
    found = affine_score(minimiser[:4].view(2, 2), minimiser[4:])(points, None)
    expected = exact(points, torch.full((100,), SIGMA))
    assert (found - expected).square().mean() / expected.square().mean() < 2e-3


def test_variance_reduced_sliced_score_matching_has_less_variance():
    # For D >> 1 the square of v . s has the variance of a chi square, and |s|² has none.
    x, sigma = torch.randn(5_000, 50), torch.ones(5_000)

    def variance(objective):
        return objective(lambda x, s: -x / 2, x, sigma).sum(1).var()

    assert variance(OBJECTIVES["sliced"]) < 0.5 * variance(OBJECTIVES["sliced, plain"])


@pytest.mark.parametrize("v", [None, torch.ones(3, 2)])
def test_a_score_that_does_not_depend_on_x_has_no_divergence(v):
    x, sigma = torch.randn(3, 2), torch.ones(3)
    _, terms = score_and_divergence(lambda x, sigma: torch.ones(3, 2), x, sigma, v)
    assert torch.equal(terms, torch.zeros(3, 2))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_divergence_of_a_quadratic_field_exact_and_estimated_in_any_gradient_mode(mode):
    with mode():
        x, sigma = torch.randn(6, 1, 2, 2), torch.ones(6)
        s, exact = score_and_divergence(lambda x, sigma: x**2, x, sigma)
        torch.testing.assert_close((s, exact), (x**2, 2 * x))
        # The Jacobian is diagonal, so signs give the divergence without error.
        _, estimate = score_and_divergence(lambda x, sigma: x**2, x, sigma, torch.ones_like(x))
        torch.testing.assert_close(estimate, 2 * x)
    assert not x.requires_grad


def hyvarinen(score, x, sigma, generator=None):
    """The noise-free objective as a config names it: the level is for the network alone."""
    return hyvarinen_score_matching(score, x, torch.full_like(sigma, SIGMA), generator)


each_clean = pytest.mark.parametrize(
    "objective",
    [implicit_score_matching, sliced_score_matching, OBJECTIVES["sliced, plain"], hyvarinen],
    ids=["implicit", "sliced", "sliced, plain", "hyvarinen"],
)


@each_clean
def test_without_noise_they_are_the_fisher_divergence_of_the_data_itself(objective):
    # E[|s|² + 2 div s] of s = A x + b, in closed form.
    n, matrix, shift = 200_000, torch.tensor([[-1.0, 0.4], [0.1, -0.3]]), torch.tensor([0.2, 0.7])
    offset = matrix @ MEAN + shift
    square = (matrix @ COVARIANCE @ matrix.T).trace() + offset.square().sum()
    expected = square + 2 * matrix.trace()
    losses = objective(affine_score(matrix, shift), gaussian_data(n), torch.zeros(n))
    mean, error = mean_and_error(losses)
    assert abs(mean - expected.item()) < 5 * error


@each_clean
def test_a_linear_score_fitted_without_noise_is_that_of_the_gaussian_data(objective):
    # -C^-1 (x - m). The minimiser of the exact form is minus the inverse of the sample covariance,
    # off by sqrt(2 / n) of each eigenvalue, 0.6 % here; slices add about as much. At most 5 times
    # that: 3 % of the score's norm.
    n = 50_000
    x, parameters = gaussian_data(n), torch.zeros(6, requires_grad=True)

    def loss(p):
        generator, score = torch.Generator().manual_seed(1), affine_score(p[:4].view(2, 2), p[4:])
        losses = objective(score, x, torch.zeros(n), generator=generator)
        return losses.flatten(1).sum(1).mean()

    (gradient,) = torch.autograd.grad(loss(parameters), parameters)
    hessian = torch.autograd.functional.hessian(loss, parameters)
    p = -torch.linalg.solve(hessian, gradient)
    points = gaussian_data(1000)
    expected = -(points - MEAN) @ COVARIANCE.inverse()
    found = affine_score(p[:4].view(2, 2), p[4:])(points, None)
    assert (found - expected).norm() / expected.norm() < 0.03
