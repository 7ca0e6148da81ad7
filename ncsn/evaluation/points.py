"""Points: float32 everywhere; compared by distances, and with the exact density if it is known."""

import math
from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor

from ncsn import plots
from ncsn.evaluation.estimate import (
    Better,
    Estimate,
    Estimates,
    check_finite,
    estimate_all,
    estimate_mean,
)
from ncsn.evaluation.kinds import Evaluation, Kind, Model, Pictures, Reference
from ncsn.evaluation.metrics import (
    energy_distance,
    gaussian_kernel,
    kernel_distance,
    measure_levels,
    sliced_wasserstein,
)
from ncsn.levels import ScoreFunction
from ncsn.random import Stream, seeded_generator

MIN_POINTS = 4  # so that halves have two, which differ

TITLES: dict[str, tuple[str, Better]] = {
    "sliced_wasserstein": ("sliced Wasserstein-2 distance", "lower"),
    "energy_distance": ("energy distance", "lower"),
    "mmd": ("squared MMD (Gaussian kernel)", "lower"),
}


class Points(Kind):
    """Points of shape ``(dim,)``.

    Samples are compared with fresh points where the density is known, else with training data, and
    held-out data gives the floor.
    """

    stored_dtype = torch.float32
    num_samples = 5000
    num_likelihood_examples = 1000

    def encode(self, x: Tensor) -> Tensor:
        """The points themselves."""
        return x

    def decode(self, stored: Tensor) -> Tensor:
        """The points themselves."""
        return stored

    def max_samples(self, reference: Reference) -> float:
        """No limit, where fresh data can be drawn."""
        return math.inf if reference.exact is not None else super().max_samples(reference)

    def likelihood(self, nll: Tensor, x: Tensor, reference: Reference) -> Estimates:
        """In nats, and the excess over the true density of the same points."""
        title = "negative log likelihood (nats)"
        if reference.exact is None:
            return {"nll": estimate_mean(title, nll)}
        exact = reference.exact.to(x.device)
        floor = -exact.log_density(x, x.new_zeros(len(x))).to(nll)
        excess = estimate_mean("the same, above the true density's", nll - floor)
        excess.floor = excess.floor_standard_error = 0.0
        return {"nll": estimate_mean(title, nll, floor), "excess_nll": excess}

    def compare(self, samples: Tensor, reference: Reference, *, errors: bool = True) -> Estimates:
        """See :func:`compare_points`."""
        return compare_points(samples, *_two_sets(reference, samples), errors=errors)

    def distance(self, samples: Tensor, reference: Reference) -> Estimate:
        """The sliced Wasserstein distance."""
        (found,) = compare_points(
            samples, *_two_sets(reference, samples), names=["sliced_wasserstein"]
        ).values()
        return found

    def evaluate(self, model: Model | None, samples: Tensor, reference: Reference) -> Evaluation:
        """Distances, and the excess of the model's loss over the exact score's."""
        pictures: Pictures = {}
        data, fresh = _two_sets(reference, samples)
        estimates = compare_points(samples, data, fresh)
        if model is None or reference.exact is None:
            return estimates, [], pictures
        references = {"exact": reference.exact.to(samples.device)}
        levels, excess = measure_levels(model.score, references, fresh[:2000], model.noise_levels)
        assert excess is not None
        title = "excess loss per dim., mean of levels"
        estimates["excess_loss"] = estimate_mean(title, excess, torch.zeros_like(excess))
        with plots.optional("picture levels"):
            pictures["levels"] = plots.plot_levels({"model": levels})
        if samples.shape[1] == 2:
            test = reference.held_out.to(samples)
            with plots.optional("picture fields"):
                pictures["fields"] = _draw_fields(model, references["exact"], test)
        return estimates, levels, pictures

    def draw_samples(
        self,
        samples: Tensor,
        label: Tensor | None,
        reference: Reference | None = None,
        model: Model | None = None,
        when: str = "",
    ) -> Pictures:
        """In the plane: data, samples, their density, and the score field."""
        if samples.shape[1] != 2:
            return {}
        title = f"samples ({len(samples):,} points{when})"
        data = None if reference is None else reference.held_out
        pictures: Pictures = {"samples": plots.plot_samples(data, samples.cpu(), title)}
        if model is not None and data is not None:
            x = plots.plane_grid(data, num=22).to(samples.device)
            fields = [(s.item(), model.score(x, s.expand(len(x)))) for s in _three_levels(model)]
            pictures["score"] = plots.plot_score_fields(data, x, fields, when)
        return pictures


def compare_points(
    samples: Tensor,
    data: Tensor,
    fresh: Tensor,
    *,
    errors: bool = True,
    names: Collection[str] = TITLES,
) -> Estimates:
    """Distances between samples and data, and between fresh data and data, for the floor.

    All are points, of shape ``(n, dim)``; see :func:`ncsn.evaluation.estimate.estimate_all`.
    ``names`` are the distances that are wanted.

    Raises:
        ValueError: If a sample is not finite, or there are too few for standard errors.
    """
    check_finite(samples)
    if errors and len(samples) < MIN_POINTS:
        raise ValueError(
            f"{len(samples)} points are too few to compare: take at least {MIN_POINTS}"
        )
    # Gretton et al. 2012, section 8: the bandwidth is the median distance. Points may coincide.
    apart = torch.pdist(data[:1000])
    apart = apart[apart > 0]
    kernel = gaussian_kernel(apart.median().item() if len(apart) else 1.0)
    distances: dict[str, Callable[[Tensor, Tensor], float]] = {
        "sliced_wasserstein": sliced_wasserstein,
        "energy_distance": energy_distance,
        "mmd": partial(kernel_distance, kernel=kernel, unbiased=False),
    }
    return estimate_all(
        lambda x, y: {name: distances[name](x, y) for name in names},
        {name: TITLES[name] for name in names},
        samples,
        fresh,
        data,
        errors=errors,
        distance=True,
    )


def _two_sets(reference: Reference, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of data, as many points as there are samples."""
    num = len(samples)
    if reference.exact is None:
        first, second = reference.train[:num], reference.held_out[:num]
    else:
        device = next(reference.exact.buffers()).device
        generator = seeded_generator(Stream.TEST, device=device)
        first, second = (reference.exact.sample(num, generator) for _ in range(2))
    return first.to(samples), second.to(samples)


def _three_levels(model: Model) -> Tensor:
    """The first, the middle and the last noise level, or the only one."""
    num = len(model.noise_levels)
    return model.noise_levels[torch.linspace(0, num - 1, min(3, num)).round().long()]


def _draw_fields(model: Model, exact: ScoreFunction, test: Tensor) -> plots.Picture:
    """Learned and exact score at three levels."""
    x = plots.plane_grid(test, num=64)
    fields = []
    for level in _three_levels(model):
        sigma = level.expand(len(x))
        fields.append((level.item(), model.score(x, sigma), exact(x, sigma)))
    return plots.plot_fields(test, x, fields)
