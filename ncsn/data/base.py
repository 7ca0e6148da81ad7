"""A datamodule: statistics, splits, batches, and an order of the data that resumes exactly."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ncsn.data.batches import (
    Batch,
    LazyLoader,
    ResumableSampler,
    TensorBatches,
    ignore_signals,
    no_collate,
)
from ncsn.data.checks import check_range
from ncsn.evaluation import Kind, Reference, kind_of
from ncsn.evaluation.features import (
    FeatureName,
    FeatureNetwork,
    load_features,
    read_features,
)
from ncsn.exact import ExactScore
from ncsn.levels import largest_distance
from ncsn.random import global_seed

REFERENCE_BYTES = 2**28


class InMemoryDataModule(pl.LightningDataModule, ABC):
    """Base class: a subclass says what the data is, this class makes batches of it.

    A batch is ``(x, label)``. Images travel as uint8 and become float32 in [-1, 1] on the device.
    The order of the training data depends on the seed (``--seed_everything``) and the epoch
    alone, and is sharded among ranks. What a subclass does not state of its data is computed from
    the training split.

    Args:
        batch_size: Examples in a batch, on each device, at least 1.

    Attributes:
        data_shape: Shape of one example: (D,) for points, (channels, height, width) for images.
        data_mean: Mean over all values of the data, images in [-1, 1].
        data_std: Standard deviation over all values, likewise.
        data_diameter: Largest distance between two examples, likewise: NCSNv2's choice of σ_max.
            With more than 4,096 examples, the largest that a search finds.
        exact: The density that the data was drawn from, where it is known.
        feature_network: The shipped feature network in which samples are compared, or the file of
            one (``--features``), if any.
    """

    exact: ExactScore | None = None
    feature_network: FeatureName | Path | None = None

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        check_range("batch_size", batch_size, 1)
        self.batch_size = batch_size

    @cached_property
    def data_shape(self) -> tuple[int, ...]:
        """See :class:`InMemoryDataModule`."""
        return tuple(self._loaded["train"].data.shape[1:])

    @cached_property
    def data_mean(self) -> float:
        """See :class:`InMemoryDataModule`."""
        return self._moments[0]

    @cached_property
    def data_std(self) -> float:
        """See :class:`InMemoryDataModule`."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[float, float]:
        """Mean and standard deviation over all values."""
        train = self.splits["train"]
        if train.data.dtype == torch.uint8:
            counts = train.count_values().double()
            values = self.kind.decode(torch.arange(256, dtype=torch.uint8)).double()
            mean = (counts @ values / counts.sum()).item()
            total, num = (counts @ (values - mean).square()).item(), counts.sum().item()
        else:
            num = train.data.numel()
            sums = (part.sum(dtype=torch.float64).item() for part in self._training_parts())
            mean = math.fsum(sums) / num
            squares = ((part - mean).square() for part in self._training_parts())
            total = math.fsum(part.sum(dtype=torch.float64).item() for part in squares)
        return mean, math.sqrt(total / (num - 1))

    @cached_property
    def data_diameter(self) -> float:
        """See :class:`InMemoryDataModule`."""
        stored = self.splits["train"].data
        if len(stored) <= 4096:
            return largest_distance(self.training_data)
        rows, diameter = torch.linspace(0, len(stored) - 1, 64).long(), 0.0
        for _ in range(4):  # from each to the one that is farthest from it
            ends = self.kind.decode(stored[rows]).flatten(1)
            centre = ends.mean(0)  # far from 0, differences of squares would cancel
            parts = [
                torch.cdist(ends - centre, part.flatten(1) - centre)
                for part in self._training_parts()
            ]
            farthest = torch.cat(parts, dim=1).max(1)
            rows, diameter = farthest.indices, farthest.values.max().item()
        return diameter

    def _training_parts(self) -> Iterator[Tensor]:
        """The training examples as the network sees them, a few at a time to save memory."""
        stored = self.splits["train"].data
        return (
            self.kind.decode(part) for part in stored.split(max(1, 2**24 // stored[0].numel()))
        )

    @property
    def training_data(self) -> Tensor:
        """The training examples as the network sees them, float32."""
        return self.kind.decode(self.splits["train"].data)

    @cached_property
    def kind(self) -> Kind:
        """The kind of an example, an image or a point."""
        return kind_of(self.data_shape)

    def reference(self, split: str) -> Reference:
        """What samples are compared with; ``split``, ``"val"`` or ``"test"``, is held out.

        Of each split, the first ``REFERENCE_BYTES``, since a comparison takes several times as
        much memory, on the device.
        """
        train, held_out = self.splits["train"], self.splits[split]
        most = max(1, REFERENCE_BYTES // train.data[0].nbytes)
        notes = train.notes
        if most < len(train.data):
            notes = {"training_data": f"the first {most:,} of {len(train):,} examples"}
        data, held_out_data = (each.data[:most] for each in (train, held_out))
        return Reference(
            data,
            train.labels[: len(data)],
            held_out_data,
            exact=self.exact,
            features=self.features,
            held_out_labels=held_out.labels[: len(held_out_data)],
            notes=notes,
        )

    @cached_property
    def features(self) -> FeatureNetwork | None:
        """The feature network in which samples are compared.

        Raises:
            ValueError: If it is not for such data.
            OSError: If its file cannot be read.
        """
        which = self.feature_network
        if not isinstance(which, Path):
            return load_features(which) if which else None
        if self.kind.stored_dtype.is_floating_point:
            raise ValueError(
                f"--features {which} is for images, and {type(self).__name__} has points"
            )
        network = read_features(which)
        if network.channels != self.data_shape[0]:
            raise ValueError(
                f"--features {which} takes images of {network.channels} channels, and those of "
                f"{type(self).__name__} have {self.data_shape[0]}"
            )
        return network

    @property
    def num_classes(self) -> int:
        """One more than the largest label of all splits, once the data is loaded."""
        return int(max(each.labels.max() for each in self.splits.values())) + 1

    @abstractmethod
    def load_splits(self) -> dict[str, TensorBatches]:
        """The data sets ``"train"``, ``"val"`` and ``"test"``, each in random order.

        Of those held out, the first are compared with samples. Float64 is rounded to float32;
        integers as points, and labels of other types, are converted if nothing is lost.
        """

    @cached_property
    def _loaded(self) -> dict[str, TensorBatches]:
        try:
            splits = self.load_splits()
        except AttributeError as error:  # a property would hide it
            raise RuntimeError(f"{type(self).__name__}.load_splits: {error}") from error
        if not isinstance(splits, dict):
            raise ValueError(f"load_splits must return a dict, got {type(splits).__name__}")
        if missing := {"train", "val", "test"} - splits.keys():
            raise ValueError(f"load_splits returns no data for {', '.join(sorted(missing))}")
        return splits

    @cached_property
    def splits(self) -> dict[str, TensorBatches]:
        """The data sets, loaded once, and checked by :mod:`ncsn.data.checks`."""
        if len(self.data_shape) not in (1, 3):
            raise ValueError(
                f"data_shape must be (dim,) or (channels, height, width), got {self.data_shape}"
            )
        dtype = self.kind.stored_dtype
        loaded = self._loaded.items()
        return {name: each.checked(name, self.data_shape, dtype) for name, each in loaded}

    def setup(self, stage: str) -> None:
        """Load the data, once.

        Raises:
            ValueError: If the data is invalid, or there is less than one batch of it.
        """
        devices = self.trainer.world_size if self.trainer else 1
        num = len(self.splits["train"]) // devices  # loads and checks them
        if stage == "fit" and num < self.batch_size:
            each = f" for each of {devices} devices" if devices > 1 else ""
            raise ValueError(
                f"data.batch_size={self.batch_size} is larger than the {num} training examples"
                f"{each}: lower it"
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
        on_gpu = isinstance(trainer, pl.Trainer) and trainer.strategy.root_device.type == "cuda"
        if shuffle and isinstance(trainer, pl.Trainer):
            sampler.trainer, sampler.batch_size = trainer, self.batch_size
        workers = self.splits[split].num_workers
        return LazyLoader(
            self.splits[split],
            num_workers=workers,
            worker_init_fn=ignore_signals if workers else None,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=shuffle,
            collate_fn=no_collate,
            pin_memory=on_gpu,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turn uint8 images into float32 in [-1, 1], on the device."""
        x, label = batch
        return self.kind.decode(x), label
