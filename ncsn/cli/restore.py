"""Restorations: read what was measured, draw what it may come from, write that."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from ncsn import plots
from ncsn.evaluation import kind_of
from ncsn.evaluation.codec import to_uint8
from ncsn.evaluation.estimate import check_finite
from ncsn.evaluation.files import replacing
from ncsn.evaluation.images import Images
from ncsn.evaluation.samples import read_samples
from ncsn.modules import ScoreModule
from ncsn.random import Stream, global_seed, seeded_generator
from ncsn.sampling import LinearOperator, PosteriorScore

DRAWN = 10
"""Measurements in the picture."""


class Measured(NamedTuple):
    """What was measured.

    Attributes:
        operator: A in y = A x + noise · n.
        y: Measurements, shape ``(n, *measured)``.
        noise: Standard deviation of their noise.
        truth: The data itself, if the measurements are simulated, shape ``(n, *shape)``.
    """

    operator: LinearOperator
    y: Tensor
    noise: float
    truth: Tensor | None


def read_measured(path: Path, operator: LinearOperator, noise: float, simulate: bool) -> Measured:
    """Read measurements, or data to measure; see :func:`ncsn.evaluation.samples.read_samples`.

    Raises:
        ValueError: If they do not fit the operator.
        OSError: If a file cannot be read.
    """
    shape, of = operator.shape, "the data"
    if not simulate and not operator.selects:
        shape, of = operator.measured, "a measurement"
    given = read_samples(path, shape, of, measured=not simulate)
    if given.dtype == torch.uint8:
        given = kind_of(shape).decode(given)
    if simulate:
        y = operator.measure(given, noise, seeded_generator(Stream.MEASUREMENT, global_seed()))
        return Measured(operator, y, noise, given)
    return Measured(operator, operator(given) if operator.selects else given, noise, None)


def draw_restorations(
    module: ScoreModule,
    measured: Measured,
    method: PosteriorScore,
    num_samples: int,
    batch_size: int,
    label: int,
) -> Tensor:
    """Draw ``num_samples`` of each, shape ``(n, num_samples, *data_shape)``.

    Sample k of measurement i has the number i · num_samples + k, on which its noise depends.
    """
    y, total = measured.y.to(module.device), len(measured.y) * num_samples
    starts, steps = range(0, total, batch_size), module.sampler.num_steps_on(module.noise_levels)
    samples: list[Tensor] = []
    with Progress() as progress:
        task = progress.add_task(f"{total:,} samples", total=len(starts) * steps)
        for start in starts:
            numbers = torch.arange(start, min(start + batch_size, total), device=y.device)
            of_each = y[numbers // num_samples]
            drawn = module.draw(
                start,
                start + len(numbers),
                torch.full_like(numbers, label),
                monitor=lambda *_: progress.advance(task),
                modify=lambda score, y=of_each: method(
                    score, measured.operator, y, measured.noise
                ),
            )
            samples.append(drawn.cpu())
    found = torch.cat(samples)
    check_finite(found)
    return found.unflatten(0, (-1, num_samples))


def write_restorations(
    directory: Path, measured: Measured, samples: Tensor, about: dict[str, Any]
) -> None:
    """Write restored.npz, restored.json and, of images and of points in the plane, a picture."""
    kind, std = kind_of(samples.shape[2:]), samples.std(1, correction=samples.shape[1] > 1)
    arrays = {"samples": kind.encode(samples), "mean": samples.mean(1), "std": std}
    arrays["measurement"] = measured.y
    if measured.truth is not None:
        arrays["truth"] = kind.encode(measured.truth)
    with replacing(directory / "restored.json") as file:
        file.write(json.dumps(about, indent=2).encode() + b"\n")
    with replacing(directory / "restored.npz") as file:
        np.savez_compressed(
            file, allow_pickle=False, **{name: each.numpy() for name, each in arrays.items()}
        )
    rank_zero_info(f"{len(samples)} x {samples.shape[1]} samples are in {directory}/restored.npz")
    with plots.optional("picture restored"):
        pictures = {"restored": draw_rows(measured, samples, std)}
        if not isinstance(kind, Images):
            pictures = {
                f"restored_{name}": picture
                for name, picture in kind.draw_samples(samples.flatten(0, 1), None).items()
            }
        for name, picture in pictures.items():
            rank_zero_info(f"They are drawn in {plots.save(picture, directory / name)}")


def draw_rows(measured: Measured, samples: Tensor, std: Tensor) -> plots.Picture:
    """Measurement, three samples, mean, standard deviation and truth of the first images."""
    y, operator = measured.y[:DRAWN], measured.operator
    if len(operator.measured) == 3:
        y = F.interpolate(y, samples.shape[3:], mode="nearest")
    else:  # what is not measured is grey
        y = operator.adjoint(y)
    rows = {"measurement": to_uint8(y)}
    for k, sample in enumerate(samples[:DRAWN, :3].unbind(1), 1):
        rows[f"sample {k}"] = to_uint8(sample)
    rows["mean"] = to_uint8(samples[:DRAWN].mean(1))
    deviation = std[:DRAWN] / std[:DRAWN].max().clamp(min=1e-6)
    rows["std. deviation"] = to_uint8(2 * deviation - 1)
    if measured.truth is not None:
        rows["truth"] = to_uint8(measured.truth[:DRAWN])
    return plots.plot_restorations(rows)
