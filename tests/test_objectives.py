"""Closed forms of the denoising score matching loss.

Statistical tests allow five standard errors: a false alarm in 1.7 million runs each, and none
with the fixed seeds.
"""

import pytest
import torch

from ncsn.noise import expand_as
from ncsn.objectives import denoising_score_matching


def mean_and_error(loss):
    """Mean and standard error of the per-example sums of an element-wise loss."""
    sums = loss.flatten(1).sum(1).double()
    return sums.mean().item(), (sums.std() / len(sums) ** 0.5).item()


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0, 30.0])
def test_the_zero_score_leaves_the_noise_whose_mean_square_is_the_dimension(sigma):
    x = torch.randn(20_000, 3)
    loss = denoising_score_matching(
        lambda x, sigma: torch.zeros_like(x), x, torch.full((20_000,), sigma), reduction="none"
    )
    mean, error = mean_and_error(loss)
    assert abs(mean - 3) < 5 * error


@pytest.mark.parametrize("sigma", [0.01, 1.0, 30.0])
def test_one_point_and_its_exact_score_have_no_loss(sigma):
    point = torch.tensor([0.5, -0.25, 1.0])  # exact in binary, so x - point is nearly so

    def score(x, sigma):
        return -(x - point) / expand_as(sigma, x) ** 2

    loss = denoising_score_matching(score, point.expand(1000, 3), torch.full((1000,), sigma))
    assert loss.item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0, 20.0])
@pytest.mark.parametrize("s", [0.3, 2.0])
def test_gaussian_data_and_their_exact_score_have_the_closed_form_loss(s, sigma):
    # For data N(0, s² I) in D dimensions the smallest loss is D s² / (s² + sigma²).
    x = s * torch.randn(50_000, 2)
    loss = denoising_score_matching(
        lambda x, sigma: -x / (s**2 + expand_as(sigma, x) ** 2),
        x,
        torch.full((50_000,), sigma),
        reduction="none",
    )
    mean, error = mean_and_error(loss)
    assert abs(mean - 2 * s**2 / (s**2 + sigma**2)) < 5 * error


def test_the_mean_is_over_the_batch_of_the_sum_over_dimensions():
    x, sigma = torch.randn(7, 1, 4, 4), torch.rand(7) + 0.1

    def losses(reduction):
        generator = torch.Generator().manual_seed(1)
        return denoising_score_matching(
            lambda x, sigma: -x, x, sigma, reduction=reduction, generator=generator
        )

    assert losses("none").shape == x.shape
    assert losses("mean").shape == ()
    torch.testing.assert_close(losses("mean"), losses("none").sum((1, 2, 3)).mean())
