"""Curl and divergence of score fields, against closed forms.

Statistical tests allow five standard errors.
"""

import math

import pytest
import torch

from ncsn.evaluation.metrics import field_per_level
from ncsn.exact import Gaussian, TwoMoons
from ncsn.levels import expand_as, geometric

LEVELS = geometric(3.0, 0.1, 4)


def linear(matrix):
    """The score field s = M x, at any noise level."""
    return lambda x, sigma: (x.flatten(1) @ matrix.to(x).T).view_as(x)


def rows(score, x):
    return list(field_per_level(score, x, LEVELS, torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("dim", [2, 5, 40])
def test_an_exact_score_has_no_curl_and_no_stein_residual(dim):
    matrix = torch.randn(dim, dim)
    gaussian = Gaussian(torch.zeros(dim), matrix @ matrix.T / dim)
    for row in rows(gaussian, gaussian.sample(4000).float()):
        assert row["curl"] < 1e-4
        error = row["stein_residual_standard_error"]
        assert abs(row["stein_residual"]) < 5 * error
        assert error < 0.1


def test_nor_has_that_of_two_moons():
    for row in rows(TwoMoons(num_points=64), TwoMoons().sample(2000).float()):
        assert row["curl"] < 1e-4
        assert abs(row["stein_residual"]) < 5 * row["stein_residual_standard_error"]


@pytest.mark.parametrize("shape", [(2,), (7,), (1, 5, 5)])
def test_the_curl_of_a_linear_field_is_that_of_its_matrix(shape):
    # Exactly in few dimensions, and by pairs of probes in many.
    dim = math.prod(shape)
    matrix = torch.randn(dim, dim, dtype=torch.float64) / dim
    x = torch.randn(20_000 if dim > 16 else 10, *shape)
    for row, sigma in zip(rows(linear(matrix), x), LEVELS.tolist(), strict=True):
        jacobian = torch.eye(dim) + sigma**2 * matrix
        expected = ((jacobian - jacobian.T) / 2).norm() / jacobian.norm()
        assert abs(row["curl"] - expected) < 5 * row["curl_standard_error"] + 1e-4


@pytest.mark.parametrize("dim", [2, 30])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_stein_residual_says_whether_scores_are_too_short_or_too_long(dim, factor):
    # Of c s*, it is (c² − c) σ² E‖s*‖² / D, which for N(0, I) is (c² − c) σ² / (1 + σ²).
    def score(x, sigma):
        return -factor * x / (1 + expand_as(sigma, x) ** 2)

    for row, sigma in zip(rows(score, torch.randn(4000, dim)), LEVELS.tolist(), strict=True):
        expected = (factor**2 - factor) * sigma**2 / (1 + sigma**2)
        error = row["stein_residual_standard_error"]
        assert abs(row["stein_residual"] - expected) < 5 * error
        assert row["curl"] < 1e-4


def test_it_works_in_inference_mode():
    score = linear(torch.tensor([[-1.0, 0.5], [-0.5, -1.0]]))
    with torch.inference_mode():
        (row, *_) = rows(score, torch.randn(10, 2))
    assert row["curl"] > 0.1


def test_a_constant_score_has_a_jacobian():
    (row, *_) = rows(lambda x, sigma: torch.zeros_like(x), torch.randn(10, 2))
    assert row["curl"] == row["curl_standard_error"] == row["stein_residual"] == 0
