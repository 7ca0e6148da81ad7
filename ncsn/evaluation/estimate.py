"""Measured numbers, each with its floor and its standard error.

A distance between two finite samples is not zero even if they are of the same distribution, so a
number says little by itself. The *floor* is the same number with fresh examples of the data in
place of the samples: what a perfect model would get. The *standard error* says how much the number
would change with other samples and other reference data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Better: TypeAlias = Literal["lower", "higher", "floor"]
Values: TypeAlias = dict[str, float]

MIN_SAMPLES = 16  # half of them must have more neighbours than the balls of precision reach to


@dataclass
class Estimate:
    """A number with its floor and its standard error.

    Attributes:
        title: What it is, for tables and pictures.
        value: The number.
        standard_error: Its standard error; ``None`` if it was not estimated.
        floor: The number for fresh data in place of the samples; ``None`` if unknown.
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
        """The floor with its standard error; empty if it is not known."""
        return "" if self.floor is None else _format(self.floor, self.floor_standard_error)


Estimates: TypeAlias = dict[str, Estimate]


def estimate_mean(title: str, values: Tensor, floor: Tensor | None = None) -> Estimate:
    """The mean of independent values, shape ``(n,)``, of which lower is better.

    ``floor`` has the lowest possible values for the same examples.
    """

    def mean_and_error(values: Tensor) -> tuple[float, float | None]:
        error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
        return values.mean().item(), error

    estimate = Estimate(title, *mean_and_error(values), None, None, "lower")
    if floor is not None:
        estimate.floor, estimate.floor_standard_error = mean_and_error(floor)
    return estimate


def estimate_all(
    statistic: Callable[..., Values],
    titles: dict[str, tuple[str, Better]],
    samples: Tensor,
    fresh: Tensor,
    *data: Tensor,
    errors: bool = True,
    distance: bool = False,
    num_splits: int = 20,
) -> Estimates:
    """Estimates from a statistic of the samples (and of data), with fresh data for the floor.

    Args:
        statistic: Called as ``statistic(samples, *data)``.
        titles: Title and direction of each of its numbers.
        samples: Shape ``(n, ...)``.
        fresh: Data in place of the samples, shape ``(n, ...)``.
        data: What the samples are compared with.
        errors: Whether to estimate standard errors, which costs many times as much.
        distance: See :func:`standard_errors`.
        num_splits: Likewise.
    """
    results = []
    with torch.autocast(samples.device.type, enabled=False):
        for examples in (samples, fresh):
            values, error = statistic(examples, *data), {}
            if errors:
                error = standard_errors(
                    statistic, examples, *data, distance=distance, num_splits=num_splits
                )
            results.append({name: (values[name], error.get(name)) for name in values})
    return {
        name: Estimate(title, *results[0][name], *results[1][name], better)
        for name, (title, better) in titles.items()
    }


def standard_errors(
    statistic: Callable[..., Values],
    *samples: Tensor,
    distance: bool = False,
    num_splits: int = 20,
) -> Values:
    """Standard errors of statistics of independent samples, from random splits into halves.

    Let θ and θ' be the statistic of the two halves of a split, which are independent samples::

        E[(θ − θ')² / 4] = Var θ_{n/2} / 2.

    For a mean or a share of examples, Var θ_{n/2} = 2 Var θ_n, so this is the variance. A distance
    also has a part whose variance falls as 1/n²; it is all there is between equal distributions.
    The part of degree k in the Hoeffding decomposition of θ counts 2^{k−1} times in the
    expectation above, and 2^{k−1} − 1 times in the variance over splits of (θ + θ')/2. Their
    difference is the variance, and the second alone a lower bound for k <= 2. At the floor the
    difference is noisy and its positive part too large, so the second is subtracted 1.5 times:
    over repeated draws, errors are then right within a quarter at the floor and away from it.

    Unlike the bootstrap, splits repeat no example, which would break nearest-neighbour statistics.

    Source: Efron & Stein 1981, "The Jackknife Estimate of Variance", for the decomposition; Shao &
    Wu 1989, "A General Theory for Jackknife Variance Estimation", for halves.

    Args:
        statistic: Called with a half of each sample.
        samples: Each of shape ``(n, ...)``; the global random state is left alone.
        distance: Whether the statistic is a distance between samples.
        num_splits: Number of splits; the errors are known to about 1 / √(2 · num_splits).
    """
    generator = torch.Generator().manual_seed(0)
    halves: tuple[list[Values], list[Values]] = [], []
    for _ in range(num_splits):
        rows = [torch.randperm(len(sample), generator=generator) for sample in samples]
        for side, values in enumerate(halves):
            parts = (
                sample[row[side * (len(row) // 2) :][: len(row) // 2].to(sample.device)]
                for sample, row in zip(samples, rows, strict=True)
            )
            values.append(statistic(*parts))
    errors = {}
    for name in halves[0][0]:
        first, second = (
            torch.tensor([each[name] for each in values], dtype=torch.float64) for values in halves
        )
        variance = (first - second).square().mean() / 4
        if distance:
            excess = ((first + second) / 2).var()
            variance = torch.maximum(variance - 1.5 * excess, excess)
        errors[name] = variance.sqrt().item()
    return errors


def check_finite(samples: Tensor) -> None:
    """Raise a ``ValueError`` if a sample is not finite."""
    bad = ~samples.flatten(1).isfinite().all(1)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(samples)} samples are not finite (the first is number "
            f"{int(bad.nonzero()[0])}): lower the sampler's step size, or check the weights"
        )


def _format(value: float, error: float | None) -> str:
    """A value, rounded to two significant digits of its standard error."""
    if not error or not math.isfinite(error):
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"
