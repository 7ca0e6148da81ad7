"""Standard errors against the spread of repeated draws."""

import pytest
import torch

from ncsn.evaluation import standard_errors
from ncsn.evaluation.metrics import (
    class_divergence,
    confidence,
    cubic_kernel,
    energy_distance,
    frechet_distance,
    gaussian_kernel,
    kernel_distance,
    precision_recall_density_coverage,
    sliced_wasserstein,
)


def test_the_standard_error_of_a_mean_is_that_of_textbooks():
    x = torch.randn(2000)
    error = standard_errors(lambda x: {"mean": x.mean().item()}, x, num_splits=400)
    # Of 400 splits, a standard deviation is known to 1 / sqrt(800) = 3.5 %.
    assert error["mean"] == pytest.approx((x.std() / 2000**0.5).item(), rel=0.15)


def points(x, y):
    return {
        "sliced_wasserstein": sliced_wasserstein(x, y),
        "energy_distance": energy_distance(x, y),
        "mmd": kernel_distance(x, y, gaussian_kernel(1.5), unbiased=False),
    }


def features(x, y):
    return {"fd": frechet_distance(x, y), "kd": kernel_distance(x, y, cubic_kernel)}


def manifolds(x, y):
    return precision_recall_density_coverage(y, x)


def divergence(logits):
    return {"class_divergence": class_divergence(logits, torch.full((10,), 0.1))}


def confidences(logits):
    return {"confidence": confidence(logits)}


def two_sets(num, dim, shift=0.0, scale=1.0):
    return lambda: (scale * torch.randn(num, dim) + shift, torch.randn(num, dim))


def logits(tilt):
    return lambda: (torch.randn(400, 10) + tilt * torch.arange(10),)


CASES = {
    "points at the floor": (points, two_sets(200, 2), True),
    "points near the floor": (points, two_sets(200, 2, shift=0.3), True),
    "points away from it": (points, two_sets(200, 2, shift=0.8), True),
    "features at the floor": (features, two_sets(300, 8), True),
    "features away from it": (features, two_sets(300, 8, scale=0.6), True),
    "manifolds at the floor": (manifolds, two_sets(300, 8), False),
    "manifolds away from it": (manifolds, two_sets(300, 8, scale=0.8), False),
    "classes at the floor": (divergence, logits(0.0), True),
    "classes away from it": (divergence, logits(0.2), True),
    "confidence": (confidences, logits(0.1), False),
}


@pytest.mark.parametrize(("statistic", "draw", "distance"), CASES.values(), ids=CASES)
def test_standard_errors_are_those_of_repeated_draws(statistic, draw, distance):
    # Of 400 values, a standard deviation is known to 3.5 %.
    values = [statistic(*draw()) for _ in range(400)]
    errors = [standard_errors(statistic, *draw(), distance=distance) for _ in range(30)]
    for name in values[0]:
        spread = torch.tensor([each[name] for each in values], dtype=torch.float64).std().item()
        error = sum(each[name] for each in errors) / len(errors)
        assert error == pytest.approx(spread, rel=0.25), name
