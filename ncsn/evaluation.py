"""How good are samples? Every score comes with its floor and its standard error.

A distance between two finite samples is not zero even if they are of the same distribution, so a
score says little by itself. The *floor* is the same score of as many fresh examples of the data,
in the place of the samples: what a perfect model would get. The *standard error* says how much the
score would change with other samples and other reference data
(:func:`ncsn.metrics.standard_errors`).
"""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ncsn.errors import UserError
from ncsn.metrics import (
    FeatureNetwork,
    class_divergence,
    confidence,
    cubic_kernel,
    energy_distance,
    extract_features,
    frechet_distance,
    gaussian_kernel,
    kernel_distance,
    load_inception,
    memorisation_rate,
    nearest_neighbours,
    precision_recall_density_coverage,
    sliced_wasserstein,
    standard_errors,
)
from ncsn.plots import to_uint8

__all__ = ["Report", "Score", "image_scores", "inception_scores", "mean_score", "point_scores"]

Better: TypeAlias = Literal["lower", "higher", "floor"]

FEWEST_IMAGES = 16
"""Half of them must have more neighbours than the balls of precision and recall reach to."""


@dataclass
class Score:
    """A number with what is needed to judge it.

    Attributes:
        title: What it is, for tables and pictures.
        value: The score.
        standard_error: Its standard error; ``None`` if it was not estimated.
        floor: The score of fresh data in the place of the samples; ``None`` if unknown.
        floor_standard_error: Its standard error, likewise; 0 if the floor is known exactly.
        better: Whether ``lower`` or ``higher`` is better, or what is closer to the ``floor``.
    """

    title: str
    value: float
    standard_error: float | None
    floor: float | None
    floor_standard_error: float | None
    better: Better

    @property
    def formatted(self) -> str:
        """The value with its standard error."""
        return _format(self.value, self.standard_error)

    @property
    def formatted_floor(self) -> str:
        """The floor with its standard error, or nothing if it is not known."""
        return "" if self.floor is None else _format(self.floor, self.floor_standard_error)


Scores: TypeAlias = dict[str, Score]


@dataclass
class Report:
    """The result of an evaluation.

    Attributes:
        about: What was evaluated, and how: checkpoint, sampler, number of samples, seed, ...
        scores: Scores by name.
        levels: One row a noise level; see :func:`ncsn.metrics.losses_per_level`.
    """

    about: dict[str, Any]
    scores: Scores = field(default_factory=dict)
    levels: list[dict[str, float]] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """Write ``evaluation.json`` with everything, ``scores.csv`` and ``levels.csv``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "evaluation.json").write_text(json.dumps(asdict(self), indent=2) + "\n")
        scores = [{"name": name, **asdict(score)} for name, score in self.scores.items()]
        for name, rows in (("scores", scores), ("levels", self.levels)):
            if rows:
                with (directory / f"{name}.csv").open("w", newline="") as file:
                    writer = csv.DictWriter(file, list(rows[0]))
                    writer.writeheader()
                    writer.writerows(rows)

    @classmethod
    def read(cls, directory: Path) -> "Report":
        """Read ``evaluation.json`` again.

        Raises:
            UserError: If it is damaged.
        """
        path = directory / "evaluation.json"
        try:
            content = json.loads(path.read_text())
            scores = {name: Score(**score) for name, score in content["scores"].items()}
            return cls(content["about"], scores, content["levels"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): run the test again") from error


def mean_score(title: str, values: Tensor, floor: Tensor | None = None) -> Score:
    """The mean of independent values, one an example, of which lower is better.

    Args:
        title: What it is.
        values: Shape ``(n,)``.
        floor: The lowest values there can be, for the same examples.
    """

    def mean_and_error(values: Tensor) -> tuple[float, float | None]:
        error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
        return values.mean().item(), error

    lowest: tuple[float | None, float | None] = (None, None)
    if floor is not None:
        lowest = mean_and_error(floor)
    return Score(title, *mean_and_error(values), *lowest, "lower")


def point_scores(samples: Tensor, data: Tensor, fresh: Tensor, *, errors: bool = True) -> Scores:
    """Distances between samples and data, for points.

    Args:
        samples: Shape ``(n, dim)``.
        data: Data that the samples are compared with, shape ``(n, dim)``.
        fresh: Other data, compared with the first for the floor, shape ``(n, dim)``.
        errors: Whether to estimate standard errors, which costs several times as much.

    Raises:
        ValueError: If a sample is not finite.
    """
    _refuse_non_finite(samples)
    # Gretton et al. 2012, section 8: the bandwidth is the median distance.
    kernel = gaussian_kernel(torch.pdist(data[:1000]).median().item())
    return _scores(
        lambda x, y: {
            "sliced_wasserstein": sliced_wasserstein(x, y),
            "energy_distance": energy_distance(x, y),
            "mmd": kernel_distance(x, y, kernel, unbiased=False),
        },
        {
            "sliced_wasserstein": ("sliced Wasserstein-2 distance", "lower"),
            "energy_distance": ("energy distance", "lower"),
            "mmd": ("squared MMD (Gaussian kernel)", "lower"),
        },
        samples,
        fresh,
        data,
        errors=errors,
    )


def image_scores(
    samples: Tensor,
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    network: FeatureNetwork | None,
    *,
    errors: bool = True,
) -> Scores:
    """Distances between samples and training images, fidelity, diversity, classes, copies.

    Samples are rounded to grey values first, as they are when they are written.

    Args:
        samples: Shape ``(n, channels, height, width)``, in [-1, 1].
        train: At least n training images, uint8: n of them, drawn at random, are compared with
            the samples, and all of them are searched for copies.
        train_labels: Their classes.
        test: As many held-out images as samples, for the floor, uint8.
        network: The feature network; without it, only copies are looked for.
        errors: Whether to estimate standard errors, which costs several times as much.

    Raises:
        ValueError: If a sample is not finite, or there are fewer than 16.
    """
    _refuse_non_finite(samples)
    samples = to_uint8(samples)
    near, near_of_test = (
        nearest_neighbours(images.float(), train.float()).distances for images in (samples, test)
    )
    scores = _scores(
        lambda distances: {"memorisation_rate": memorisation_rate(distances)},
        {"memorisation_rate": ("memorisation rate", "lower")},
        near,
        near_of_test,
        errors=errors,
    )
    if network is None:
        return scores
    if len(samples) < FEWEST_IMAGES:
        raise ValueError(
            f"{len(samples)} images are too few to score: take at least {FEWEST_IMAGES}"
        )
    some = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: len(samples)]
    of_samples, of_test, of_train = (
        extract_features(network, images) for images in (samples, test, train[some])
    )
    shares = torch.bincount(train_labels).to(of_samples.features) / len(train_labels)
    fd, kd = f"{network.name}_fd_v{network.version}", f"{network.name}_kd_v{network.version}"
    name = network.name.upper()
    return (
        _scores(
            lambda x, y: {
                fd: frechet_distance(x, y),
                kd: kernel_distance(x, y, cubic_kernel),
                **precision_recall_density_coverage(y, x),
            },
            {
                fd: (f"{name}-FD, features v{network.version}", "lower"),
                kd: (f"{name}-KD, features v{network.version}", "lower"),
                "precision": ("precision", "higher"),
                "recall": ("recall", "higher"),
                "density": ("density", "higher"),
                "coverage": ("coverage", "higher"),
            },
            of_samples.features,
            of_test.features,
            of_train.features,
            errors=errors,
        )
        | _scores(
            lambda logits: {
                "class_divergence": class_divergence(logits, shares),
                "confidence": confidence(logits),
            },
            {
                "class_divergence": ("KL of classes from training's", "lower"),
                "confidence": ("confidence of the classifier", "floor"),
            },
            of_samples.logits,
            of_test.logits,
            errors=errors,
        )
        | scores
    )


def inception_scores(samples: Tensor, train: Tensor, test: Tensor) -> Scores:
    """Inception's FID, whose 2,048 features want tens of thousands of samples.

    Without a standard error, since each evaluation takes minutes.

    Args:
        samples: Shape ``(n, channels, height, width)``, in [-1, 1].
        train: At least n training images, uint8.
        test: As many held-out images as samples, for the floor, uint8.

    Raises:
        UserError: If the network's weights are not at hand.
    """
    network = load_inception().to(samples.device)
    some = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: len(samples)]
    of_samples, of_test, of_train = (
        torch.cat([network(part.expand(-1, 3, -1, -1)) for part in images.split(64)])
        for images in (to_uint8(samples), test, train[some])
    )
    return _scores(
        lambda x, y: {"inception_fid": frechet_distance(x, y)},
        {"inception_fid": ("Inception FID", "lower")},
        of_samples,
        of_test,
        of_train,
        errors=False,
    )


def _scores(
    statistic: Callable[..., dict[str, float]],
    titles: dict[str, tuple[str, Better]],
    samples: Tensor,
    fresh: Tensor,
    *data: Tensor,
    errors: bool,
) -> Scores:
    """Scores of a statistic of the samples (and of data), with that of fresh data as the floor."""
    results = []
    with torch.autocast(samples.device.type, enabled=False):
        for examples in (samples, fresh):
            values = statistic(examples, *data)
            error = standard_errors(statistic, examples, *data) if errors else {}
            results.append({name: (values[name], error.get(name)) for name in values})
    return {
        name: Score(title, *results[0][name], *results[1][name], better)
        for name, (title, better) in titles.items()
    }


def _format(value: float, error: float | None) -> str:
    """A value with as many digits as its standard error allows, and two of that."""
    if not error:
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _refuse_non_finite(samples: Tensor) -> None:
    bad = ~samples.flatten(1).isfinite().all(1)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(samples)} samples are not finite (the first is number "
            f"{int(bad.nonzero()[0])}): lower the sampler's step size, or check the weights"
        )
