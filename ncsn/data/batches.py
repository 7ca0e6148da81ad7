"""Batches: taken from memory at once, in an order that resumes exactly, on each rank its own."""

import signal
from collections.abc import Iterator
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ncsn.data.checks import check_data, check_labels

Batch = tuple[Tensor, Tensor]


class TensorBatches(Dataset[Batch]):
    """Data and labels in two tensors, from which a batch is taken by one indexing operation.

    Data are uint8 images or float points, ``(n, *event)``, and labels are integers, ``(n,)``.
    """

    num_workers = 0  # processes that read the data; it is in memory

    def __init__(self, data: Tensor, labels: Tensor) -> None:
        self.data, self.labels = data, labels

    @property
    def notes(self) -> dict[str, str]:
        """What to say of an evaluation with this data."""
        if len(self) == len(self.data):
            return {}
        first = f"the first {len(self.data):,} of {len(self):,}"
        return {"training_data": f"{first} images, which are not in memory"}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Batch:
        return self.data[index], self.labels[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of the given examples; the loader prefers this to ``__getitem__``."""
        rows = torch.tensor(indices)
        return self.data[rows], self.labels[rows]

    def count_values(self) -> Tensor:
        """How often each grey value occurs in uint8 images, shape ``(256,)``."""
        parts = self.data.split(max(1, 2**24 // self.data[0].numel()))
        return torch.stack([count_grey_values(part) for part in parts]).sum(0)

    def checked(
        self, name: str, data_shape: tuple[int, ...], dtype: torch.dtype
    ) -> "TensorBatches":
        """The examples as they are stored; see :mod:`ncsn.data.checks`."""
        data = check_data(name, self.data, data_shape, dtype)
        return TensorBatches(data, check_labels(name, self.labels, len(data)))


def count_grey_values(images: Tensor) -> Tensor:
    """How often each grey value occurs in uint8 images, shape ``(256,)``, int64."""
    return torch.bincount(images.flatten(), minlength=256)


class ResumableSampler(DistributedSampler[Batch]):
    """Shards the examples among ranks, and skips those that an interrupted epoch has had.

    Lightning stores the number of batches that an epoch has had, but would repeat them.
    """

    trainer: pl.Trainer | None = None
    batch_size = 0

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]
        # A generator: this runs when the first batch is asked for, and the count is right.
        done = 0
        if self.trainer is not None:
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        yield from islice(super().__iter__(), done * self.batch_size, None)


class LazyLoader(DataLoader[Batch]):
    """Begins when the first batch is asked for, not when Lightning makes the iterator.

    Only then does the sampler know the epoch and the batches it has had, and workers read ahead.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        yield from super().__iter__()


def ignore_signals(worker: int) -> None:
    """Leave signals to the process that has started the worker, which ends it.

    Terminals and clusters send them to all processes of a run.
    """
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


def no_collate(batch: Any) -> Any:
    """Return the batch: :class:`TensorBatches` makes whole batches."""
    return batch
