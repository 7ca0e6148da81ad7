"""A datamodule for data that fits into memory, batched without touching single examples."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, cast

import lightning.pytorch as pl
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ncsn.errors import UserError
from ncsn.exact import ExactScore
from ncsn.metrics.features import FeatureName
from ncsn.noise import global_seed

__all__ = ["InMemoryDataModule", "TensorBatches"]

Batch = tuple[Tensor, Tensor]


class TensorBatches(Dataset[Batch]):
    """Data and labels in two tensors, from which a batch is taken by one indexing operation.

    Args:
        data: Shape ``(n, *event)``: uint8 images or float points.
        labels: Shape ``(n,)``, integers.
    """

    def __init__(self, data: Tensor, labels: Tensor) -> None:
        self.data, self.labels = data, labels

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Batch:
        return self.data[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of the given examples; the loader prefers this to ``__getitem__``."""
        rows = torch.tensor(indices)
        return self.data[rows], self.labels[rows]


class ResumableSampler(DistributedSampler[Batch]):
    """Shares the examples out among ranks, and leaves out those that an epoch has had.

    Lightning counts the batches of an epoch and stores their number in checkpoints, but a run that
    goes on from the middle of an epoch would get its first batches again.
    """

    trainer: pl.Trainer | None = None
    batch_size = 0

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        # A generator: this runs when the first batch is asked for, and the count is right.
        done = 0
        if self.trainer is not None:
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        yield from islice(super().__iter__(), done * self.batch_size, None)


def as_is(batch: Any) -> Any:
    """Collate nothing: :class:`TensorBatches` returns whole batches."""
    return batch


class InMemoryDataModule(pl.LightningDataModule, ABC):
    """Base class: a subclass says what the data is, this class makes batches of it.

    A batch is ``(x, label)``. Images travel as uint8 and become float32 in [-1, 1] on the device.
    The order of the training data depends on the seed (``--seed_everything``) and the epoch
    alone, and is shared out among ranks.

    Args:
        batch_size: Examples in a batch, on each device.
    """

    def __init__(self, batch_size: PositiveInt) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.splits: dict[str, TensorBatches] = {}

    @property
    @abstractmethod
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one example: (D,) for points, (channels, height, width) for images."""

    @property
    @abstractmethod
    def data_mean(self) -> float:
        """Mean over all values of the data, images in [-1, 1]."""

    @property
    @abstractmethod
    def data_std(self) -> float:
        """Standard deviation over all values of the data, images in [-1, 1]."""

    @property
    @abstractmethod
    def data_diameter(self) -> float:
        """Largest distance between two examples, images in [-1, 1]: NCSNv2's choice of σ_max."""

    exact: ExactScore | None = None
    """The density that the data was drawn from, where it is known."""

    feature_network: FeatureName | None = None
    """The shipped feature network in which samples are judged."""

    @property
    def num_classes(self) -> int:
        """Number of classes, once the data is loaded: one more than the largest label."""
        return int(self.splits["train"].labels.max()) + 1

    @abstractmethod
    def load_splits(self) -> dict[str, TensorBatches]:
        """The data sets ``"train"``, ``"val"`` and ``"test"``."""

    def setup(self, stage: str) -> None:
        """Load the data, once.

        Raises:
            UserError: If a split is empty or there are fewer training examples than a batch takes.
        """
        if self.splits:
            return
        self.splits = self.load_splits()
        for name, examples in self.splits.items():
            if not len(examples):
                raise UserError(f"the {name} data is empty: change data.val_fraction")
        if len(self.splits["train"]) < self.batch_size:
            raise UserError(
                f"data.batch_size={self.batch_size} is larger than the "
                f"{len(self.splits['train'])} training examples: lower it"
            )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of equal size; the remainder of an epoch is left out."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The held-out examples, in order."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test examples, in order."""
        return self._loader("test", shuffle=False)

    def _loader(self, split: str, *, shuffle: bool) -> DataLoader[Batch]:
        # An explicit DistributedSampler, also for one process: it takes the order from the seed
        # and the epoch instead of the global random state, and Lightning leaves it alone.
        trainer = self.trainer
        sampler = ResumableSampler(
            self.splits[split],
            num_replicas=trainer.world_size if trainer else 1,
            rank=trainer.global_rank if trainer else 0,
            shuffle=shuffle,
            seed=global_seed(),
            drop_last=shuffle,
        )
        if shuffle and isinstance(trainer, pl.Trainer):
            sampler.trainer, sampler.batch_size = trainer, self.batch_size
        return DataLoader(
            self.splits[split],
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=shuffle,
            collate_fn=as_is,
            pin_memory=torch.cuda.is_available(),
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn uint8 images into float32 in [-1, 1], on the device."""
        x, label = batch
        return self.to_float(x), label

    @staticmethod
    def to_float(x: Tensor) -> Tensor:
        """uint8 images as float32 in [-1, 1]; points as they are."""
        return x.float() / 127.5 - 1 if x.dtype == torch.uint8 else x


def mean_and_std(x: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over all values; uint8 images are taken as [-1, 1]."""
    values = x.double() / 127.5 - 1 if x.dtype == torch.uint8 else x.double()
    return cast(float, values.mean().item()), cast(float, values.std().item())
