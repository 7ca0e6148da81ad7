"""Metrics against other implementations, closed forms, and degradations that they must see."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestNeighbors
from torchmetrics.image.kid import KernelInceptionDistance

from ncsn.evaluation import standard_errors
from ncsn.evaluation.estimate import estimate_mean
from ncsn.evaluation.metrics import (
    class_divergence,
    class_shares,
    confidence,
    cubic_kernel,
    distances,
    energy_distance,
    frechet_distance,
    gaussian_kernel,
    kernel_distance,
    losses_per_level,
    memorisation_rate,
    nearest_neighbours,
    precision_recall_density_coverage,
    sliced_wasserstein,
)
from ncsn.exact import Empirical, Gaussian, TwoMoons
from ncsn.levels import geometric


def two_sets(n=60, dim=3):
    return torch.randn(n, dim), 0.8 * torch.randn(n, dim) + 0.3


# ---- against other implementations ----


def test_sliced_wasserstein_agrees_with_pot():
    x, y = (each.double().numpy() for each in two_sets(200))
    theirs = ot.sliced_wasserstein_distance(x, y, n_projections=20_000, seed=0)
    ours = sliced_wasserstein(torch.tensor(x), torch.tensor(y), num_directions=20_000)
    assert ours == pytest.approx(theirs, rel=0.02)  # other directions, 20,000 of them


def test_sliced_wasserstein_on_a_line_is_the_wasserstein_distance():
    x, y = two_sets(dim=1)
    theirs = ot.emd2_1d(x[:, 0].numpy(), y[:, 0].numpy()) ** 0.5
    assert sliced_wasserstein(x, y) == pytest.approx(theirs, rel=1e-4)


def test_energy_distance_agrees_with_scipy():
    x, y = two_sets(dim=1)
    theirs = stats.energy_distance(x[:, 0], y[:, 0]) ** 2  # theirs is the square root
    assert energy_distance(x, y) == pytest.approx(theirs, rel=1e-4)


def test_kernel_distance_agrees_with_torchmetrics():
    class Given(torch.nn.Module):
        num_features = 3

        def forward(self, features):
            return features

    x, y = two_sets()
    theirs = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=len(x))
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    ours = kernel_distance(x, y, cubic_kernel)
    assert ours == pytest.approx(theirs.compute()[0].item(), rel=1e-4)


def test_manifold_metrics_agree_with_balls_counted_by_scikit_learn():
    real, samples = (each.numpy() for each in two_sets(80, dim=2))
    k = 4

    def radii(x):
        return NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, -1]

    distances = np.linalg.norm(real[:, None] - samples, axis=-1)
    in_real, in_samples = distances < radii(real)[:, None], distances < radii(samples)
    expected = {
        "precision": in_real.any(0).mean(),
        "recall": in_samples.any(1).mean(),
        "density": in_real.sum() / (k * len(samples)),
        "coverage": in_real.any(1).mean(),
    }
    found = precision_recall_density_coverage(torch.tensor(real), torch.tensor(samples), k)
    assert found == pytest.approx(expected)


def test_nearest_neighbours_agree_with_scikit_learn():
    x, data = torch.randn(20, 1, 3, 3), torch.randn(100, 1, 3, 3)
    found = nearest_neighbours(x, data, k=3)
    expected = NearestNeighbors(n_neighbors=3).fit(data.flatten(1)).kneighbors(x.flatten(1))
    torch.testing.assert_close(found.distances, torch.tensor(expected[0]).float())
    np.testing.assert_array_equal(found.indices, expected[1])


# ---- closed forms ----


def test_frechet_distance_of_gaussians():
    # Diagonal covariances: |m1 - m2|² + sum (s1 - s2)². Whitened, the samples have them exactly.
    z = torch.randn(500, 3, dtype=torch.float64)
    z = z - z.mean(0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T.cov()).T)
    mean, stds = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([2.0, 0.5, 1.0])
    expected = (mean.square() + (stds - 1) ** 2).sum().item()
    assert frechet_distance(z, mean + stds * z) == pytest.approx(expected)


def test_kernel_distance_of_gaussians():
    # E k(X, Y) of N(0, 1) and N(m, 1) under a Gaussian kernel of bandwidth h.
    h, m, n = 0.7, 1.0, 2000
    x, y = torch.randn(n, 1), m + torch.randn(n, 1)

    def mean(shift):
        return h / math.sqrt(h**2 + 2) * math.exp(-(shift**2) / (2 * (h**2 + 2)))

    found = kernel_distance(x, y, gaussian_kernel(h))
    error = standard_errors(
        lambda x, y: {"d": kernel_distance(x, y, gaussian_kernel(h))}, x, y, distance=True
    )
    assert abs(found - 2 * (mean(0) - mean(m))) < 5 * error["d"]


def test_identical_sets_are_at_distance_zero_and_cover_each_other():
    x = torch.randn(100, 4)
    assert sliced_wasserstein(x, x) == 0
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert kernel_distance(x, x, cubic_kernel, unbiased=False) == 0
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    found = precision_recall_density_coverage(x, x)
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)


def test_the_unbiased_kernel_distance_is_zero_in_the_mean():
    draws = torch.randn(400, 2, 50, 2)
    values = torch.tensor([kernel_distance(x, y, cubic_kernel) for x, y in draws])
    assert (values < 0).any()
    assert abs(values.mean()) < 5 * values.std() / 400**0.5


def test_class_divergence_and_confidence_of_classifiers():
    shares = torch.full((10,), 0.1)
    assert class_divergence(torch.eye(10).repeat(3, 1), shares) == pytest.approx(0, abs=1e-6)
    one_class = torch.eye(10)[[3] * 20]
    assert class_divergence(one_class, shares) == pytest.approx(math.log(10))
    assert confidence(torch.zeros(5, 4)) == pytest.approx(0.25)


def test_copies_are_counted():
    data = torch.randn(50, 6)
    samples = torch.cat([data[:10] + 1e-3, torch.randn(30, 6)])
    assert memorisation_rate(nearest_neighbours(samples, data).distances) == 0.25


# ---- memory and random state ----


def test_chunks_do_not_change_a_result(monkeypatch):
    x, y = two_sets()

    def results():
        return (
            energy_distance(x, y),
            kernel_distance(x, y, cubic_kernel),
            precision_recall_density_coverage(x, y),
            nearest_neighbours(x, y).distances.sum().item(),
        )

    whole = results()
    monkeypatch.setattr(distances, "PAIRS_AT_A_TIME", 130)
    for first, second in zip(whole, results(), strict=True):
        assert first == pytest.approx(second)


def test_metrics_leave_the_random_state_alone():
    x, y = two_sets()
    before = torch.get_rng_state()
    frechet_distance(x, y)
    standard_errors(lambda x, y: {"d": sliced_wasserstein(x, y)}, x, y)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sliced_wasserstein(torch.zeros(3, 2), torch.zeros(4, 2)), "same shape"),
        (lambda: precision_recall_density_coverage(torch.zeros(5, 2), torch.zeros(9, 2)), "5"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- losses ----


def test_the_excess_loss_is_the_fisher_divergence_and_the_difference_of_losses():
    # A Gaussian of variance 1 learned as one of variance 1.5: s - s* is linear.
    exact = Gaussian([0.0, 0.0], torch.eye(2))
    learned = Gaussian([0.0, 0.0], 1.5 * torch.eye(2))
    x, levels = exact.sample(50_000).float(), geometric(2.0, 0.2, 3)
    for row in losses_per_level(learned, {"exact": exact}, x, levels):
        v = 1 + row["sigma"] ** 2
        expected = row["sigma"] ** 2 * v * (1 / v - 1 / (v + 0.5)) ** 2
        assert abs(row["excess"] - expected) < 5 * row["excess_standard_error"]
        assert row["loss"] - row["exact"] == pytest.approx(row["excess"], abs=0.02)
        # The loss of the exact score is D v / (v + sigma²), per dimension.
        assert abs(row["exact"] - 1 / v) < 5 * 2**0.5 / 50_000**0.5


def test_empirical_scores_bracket_the_loss():
    # The test points' own score knows the answers; that of the training points does not.
    moons = TwoMoons(num_points=128)
    train, test = moons.sample(500).float(), moons.sample(500).float()
    references = {"train": Empirical(train), "test": Empirical(test)}
    x = test.repeat(20, 1)  # many draws of the noise
    for row in losses_per_level(moons, references, x, geometric(1.0, 0.2, 3)):
        assert row["test"] < row["loss"] < row["train"]


# ---- classes and examples that are missing or twice there ----


def test_a_class_that_nobody_has_changes_nothing():
    shares = torch.tensor([0.5, 0.5, 0.0])
    assert class_divergence(torch.eye(3)[[0, 1, 1, 0]], shares) == 0
    assert class_divergence(torch.eye(3)[[0, 0]], shares) == pytest.approx(math.log(2))
    assert class_divergence(torch.eye(3)[[0, 2]], shares) == math.inf


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_samples_of_a_class_that_the_training_set_lacks_have_a_finite_divergence(missing):
    # 100 examples of each of two classes, and half of one of the third: one of ten samples is of
    # that, and the others are shared as they should be.
    present = [c for c in range(3) if c != missing]
    shares = class_shares(torch.tensor(present * 100), num_classes=3)
    assert shares[missing].item() == pytest.approx(0.5 / 200.5)
    found = class_divergence(torch.eye(3)[[missing] * 2 + present * 9], shares)
    expected = 0.1 * math.log(0.1 / (0.5 / 200.5)) + 0.9 * math.log(0.45 / (100 / 200.5))
    assert found == pytest.approx(expected, rel=1e-5)


def test_shares_of_classes_without_a_gap_are_their_frequencies():
    labels = torch.tensor([0, 1, 1, 2])
    torch.testing.assert_close(class_shares(labels, 3), torch.tensor([0.25, 0.5, 0.25]))
    assert len(class_shares(labels, 2)) == 3  # more classes than the classifier knows


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_copy_of_an_example_that_is_twice_in_the_data_counts(noise):
    images = torch.randint(256, (50, 1, 4, 4)).float()
    data = torch.cat([images, images[:10]])
    samples = torch.cat([images[5:10] + noise, torch.randint(256, (15, 1, 4, 4)).float()])
    near = nearest_neighbours(samples, data)
    assert memorisation_rate(near.distances) == 0.25
    torch.testing.assert_close(data[near.indices[:5, 0]], images[5:10])


def test_data_of_one_example_has_no_second_nearest():
    with pytest.raises(ValueError, match="1 different examples, but 2"):
        nearest_neighbours(torch.zeros(3, 2), torch.ones(8, 2))


def test_a_mean_that_is_not_finite_is_printed():
    assert estimate_mean("likelihood", torch.tensor([1.0, math.inf, 2.0])).formatted == "inf"
