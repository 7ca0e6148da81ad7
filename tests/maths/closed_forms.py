"""Exact scores for the tests of samplers."""

import torch

from ncsn.exact import Gaussian
from ncsn.levels import expand_as

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]])
GAUSSIAN = Gaussian([0.5, -1.0], COVARIANCE)


def gaussian_score(mean, std):
    """The exact score of N(mean, std² I) noised at level sigma."""
    return lambda x, sigma: -(x - mean) / (std**2 + expand_as(sigma, x) ** 2)


def assert_variance(x, expected):
    """Within five standard errors of the variance of normal numbers."""
    assert abs(x.var().item() / expected - 1) < 5 * (2 / x.numel()) ** 0.5
