"""Two moons: the smallest data set on which score matching can be watched."""

import math
from functools import cached_property

import torch

from ncsn.data.base import InMemoryDataModule
from ncsn.data.batches import TensorBatches
from ncsn.data.checks import check_range
from ncsn.data.splits import split_in_order
from ncsn.exact import TwoMoons
from ncsn.levels import largest_distance


class MoonsDataModule(InMemoryDataModule):
    """scikit-learn's two interleaved half circles with Gaussian noise, in two dimensions.

    ::

        python -m ncsn fit --config configs/moons.yaml

    The label is the moon. The last part of the points is held out, for validation and for test.

    Args:
        num_points: Number of points, of both splits.
        noise: Standard deviation of the noise around the arcs, in [0, 1e6).
        val_fraction: Share of the points that is held out, in (0, 1).
        batch_size: Points in a batch, on each device.
        seed: Seed of the data, apart from the seed of the training, in [0, 2**32).
    """

    def __init__(
        self,
        num_points: int = 5000,
        noise: float = 0.1,
        val_fraction: float = 0.2,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size)
        check_range("num_points", num_points, 1)
        check_range("noise", noise, 0, 1e6)
        check_range("val_fraction", val_fraction, 0, 1)
        check_range("seed", seed, 0, 2**32)
        self.num_points, self.noise = num_points, noise
        self.val_fraction, self.seed = val_fraction, seed

    def load_splits(self) -> dict[str, TensorBatches]:
        """Points of shape ``(n, 2)``, float32; see :meth:`InMemoryDataModule.load_splits`."""
        from sklearn.datasets import make_moons

        points, moons = make_moons(self.num_points, noise=self.noise, random_state=self.seed)
        data, labels = torch.from_numpy(points).float(), torch.from_numpy(moons)
        return split_in_order(data, labels, self.val_fraction, 0)

    data_shape = (2,)

    @cached_property
    def exact(self) -> TwoMoons | None:  # type: ignore[override]
        """The density of the moons; none for less noise than their points are apart."""
        num_points = 1024
        return TwoMoons(self.noise, num_points) if self.noise > math.pi / num_points else None

    @cached_property
    def data_diameter(self) -> float:
        """See :class:`InMemoryDataModule`."""
        from scipy.spatial import ConvexHull

        points = self.training_data
        if len(points) < 3:
            return largest_distance(points)
        return largest_distance(points[ConvexHull(points.numpy()).vertices])
