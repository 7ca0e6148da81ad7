"""Densities in the plane to draw data from, whose scores are known exactly.

Each is a curve or a pattern, finely divided into points, with Gaussian noise around them: a
Gaussian mixture. The data is drawn from this mixture, so its density and score are exact.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ncsn.data.base import InMemoryDataModule
from ncsn.data.batches import TensorBatches
from ncsn.data.checks import check_range
from ncsn.data.splits import split_in_order
from ncsn.exact import GaussianMixture, TwoMoons

ToyName: TypeAlias = Literal[
    "moons", "circles", "swiss_roll", "checkerboard", "pinwheel", "rings", "gaussians"
]


class ToyDataModule(InMemoryDataModule):
    """Points in the plane, within about 4 of the origin, from a density that is known.

    ::

        python -m ncsn fit --config configs/moons_ncsn.yaml --data ToyDataModule --data.name rings

    The label is the part that a point belongs to: moon, circle, square, arm, ring, Gaussian. The
    last part of the points is held out, for validation and for test.

    Args:
        name: ``moons``: two half circles, as of scikit-learn. ``circles``: two, of radius 1/2
            and 1. ``rings``: four, of radius 1/2, 1, 3/2, 2. ``swiss_roll``: a spiral.
            ``checkerboard``: eight squares of side 1. ``pinwheel``: five bent arms.
            ``gaussians``: eight, on a circle of radius 2.
        num_points: Number of points, of both splits.
        noise: Standard deviation of the noise, in [0.05, 1).
        val_fraction: Share of the points that is held out, in (0, 1).
        batch_size: Points in a batch, on each device.
        seed: Seed of the data, apart from the seed of the training, in [0, 2**32).
    """

    def __init__(
        self,
        name: ToyName = "moons",
        num_points: int = 5000,
        noise: float = 0.1,
        val_fraction: float = 0.2,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size)
        if name not in get_args(ToyName):
            raise ValueError(f"data.name must be one of {', '.join(SHAPES)}, got {name}")
        check_range("num_points", num_points, 1)
        check_range("noise", noise, 0.05, 1)  # well above the distance of the points of a shape
        check_range("val_fraction", val_fraction, 0, 1)
        check_range("seed", seed, 0, 2**32)
        self.shape, self.num_points, self.noise = SHAPES[name], num_points, noise
        self.val_fraction, self.seed = val_fraction, seed

    @cached_property
    def exact(self) -> GaussianMixture:  # type: ignore[override]
        """The density that the points are drawn from."""
        return GaussianMixture(self.shape(1).flatten(0, 1), self.noise)

    def load_splits(self) -> dict[str, TensorBatches]:
        """Points of shape ``(n, 2)``, float32; see :meth:`InMemoryDataModule.load_splits`."""
        generator = torch.Generator().manual_seed(self.seed)
        parts = self.shape(1)
        labels = torch.randint(len(parts), (self.num_points,), generator=generator)
        places = torch.randint(parts.shape[1], (self.num_points,), generator=generator)
        noise = torch.randn(self.num_points, 2, generator=generator, dtype=torch.float64)
        data = (parts[labels, places] + self.noise * noise).float()
        return split_in_order(data, labels, self.val_fraction, 0)


def _midpoints(num: int, low: float, high: float) -> Tensor:
    """Midpoints of ``num`` equal parts of an interval."""
    return low + (high - low) * (torch.arange(num, dtype=torch.float64) + 0.5) / num


def _polar(radius: Tensor | float, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)


def _moons(resolution: int) -> Tensor:
    moons = TwoMoons(num_points=1024 * resolution)
    return (moons.means + moons.centre).view(2, -1, 2)


def _rings(radii: tuple[float, ...], resolution: int) -> Tensor:
    angle = _midpoints(512 * resolution, 0, 2 * math.pi)
    return torch.stack([_polar(radius, angle) for radius in radii])


def _swiss_roll(resolution: int) -> Tensor:
    """One and a half turns of a spiral, as scikit-learn's roll from the side, a seventh as big."""
    angle = _midpoints(1024 * resolution, 1.5 * math.pi, 4.5 * math.pi)
    return _polar(angle / 7, angle)[None]


def _checkerboard(resolution: int) -> Tensor:
    """The eight squares of [-2, 2]² whose column and row have an even sum."""
    side = _midpoints(16 * resolution, -2, -1)
    corners = [[i, j] for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    return torch.tensor(corners, dtype=torch.float64)[:, None] + torch.cartesian_prod(side, side)


def _pinwheel(resolution: int) -> Tensor:
    """Five arms; the radius is N(2, 0.6²) within 2.5 deviations, and the angle grows with it."""
    tail = 0.5 * math.erfc(2.5 / math.sqrt(2))
    quantiles = _midpoints(512 * resolution, tail, 1 - tail)
    radius = 1 + 0.3 * torch.special.ndtri(quantiles)
    turns = 2 * math.pi / 5 * torch.arange(5, dtype=torch.float64)
    return _polar(2 * radius, turns[:, None] + 0.25 * radius.exp())


def _gaussians(resolution: int) -> Tensor:
    angle = 2 * math.pi / 8 * torch.arange(8, dtype=torch.float64)
    return _polar(2.0, angle)[:, None]


SHAPES: dict[str, Callable[[int], Tensor]] = {
    "moons": _moons,
    "circles": lambda resolution: _rings((0.5, 1.0), resolution),
    "swiss_roll": _swiss_roll,
    "checkerboard": _checkerboard,
    "pinwheel": _pinwheel,
    "rings": lambda resolution: _rings((0.5, 1.0, 1.5, 2.0), resolution),
    "gaussians": _gaussians,
}
"""Points in each part of a shape, ``(parts, points, 2)``, as many as the resolution asks for."""
