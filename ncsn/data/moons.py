"""Two moons: the smallest data set on which score matching can be watched."""

from functools import cached_property

import torch
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, OpenUnitInterval, PositiveInt

from ncsn.data.base import InMemoryDataModule, TensorBatches, mean_and_std
from ncsn.exact import TwoMoons
from ncsn.noise import largest_distance

__all__ = ["MoonsDataModule"]


class MoonsDataModule(InMemoryDataModule):
    """scikit-learn's two interleaved half circles with Gaussian noise, in two dimensions.

    The label is the moon. The last part of the points is held out, for validation and for test.

    Args:
        num_points: Number of points in all.
        noise: Standard deviation of the noise around the arcs.
        val_fraction: Share of the points that is held out.
        batch_size: Points in a batch, on each device.
        seed: Seed of the data, apart from the seed of the training.
    """

    def __init__(
        self,
        num_points: PositiveInt = 5000,
        noise: NonNegativeFloat = 0.1,
        val_fraction: OpenUnitInterval = 0.2,
        batch_size: PositiveInt = 128,
        seed: NonNegativeInt = 0,
    ) -> None:
        super().__init__(batch_size)
        self.num_points, self.noise = num_points, noise
        self.val_fraction, self.seed = val_fraction, seed

    def load_splits(self) -> dict[str, TensorBatches]:
        """Points of shape ``(n, 2)``, float32; see :meth:`InMemoryDataModule.load_splits`."""
        from sklearn.datasets import make_moons

        points, moons = make_moons(self.num_points, noise=self.noise, random_state=self.seed)
        data, labels = torch.from_numpy(points).float(), torch.from_numpy(moons)
        num_train = self.num_points - round(self.val_fraction * self.num_points)
        held_out = TensorBatches(data[num_train:], labels[num_train:])
        train = TensorBatches(data[:num_train], labels[:num_train])
        return {"train": train, "val": held_out, "test": held_out}

    data_shape = (2,)

    @cached_property
    def exact(self) -> TwoMoons | None:  # type: ignore[override]
        """The density of the moons; without noise, there is none."""
        return TwoMoons(self.noise, num_points=1024) if self.noise > 0 else None

    @property
    def data_mean(self) -> float:
        """See :attr:`InMemoryDataModule.data_mean`."""
        return self._mean_and_std[0]

    @property
    def data_std(self) -> float:
        """See :attr:`InMemoryDataModule.data_std`."""
        return self._mean_and_std[1]

    @cached_property
    def data_diameter(self) -> float:
        """See :attr:`InMemoryDataModule.data_diameter`."""
        from scipy.spatial import ConvexHull

        points = self.load_splits()["train"].data
        if len(points) < 3:
            return largest_distance(points)
        return largest_distance(points[ConvexHull(points.numpy()).vertices])

    @cached_property
    def _mean_and_std(self) -> tuple[float, float]:
        return mean_and_std(self.load_splits()["train"].data)
