"""Images that are decoded: into memory if they fit, else when they are asked for, by workers."""

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from multiprocessing.pool import ThreadPool
from typing import Literal, TypeAlias

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from ncsn.data import checks
from ncsn.data.base import InMemoryDataModule
from ncsn.data.batches import Batch, TensorBatches, count_grey_values
from ncsn.data.splits import check_split, random_order, split_in_order, split_sizes
from ncsn.evaluation.codec import is_deep
from ncsn.levels import largest_distance

InMemory: TypeAlias = bool | Literal["auto"]

FIRST, FIRST_BYTES = 4096, 2**30
"""The images that are held in memory where all do not fit: at most so many, and so many bytes."""


class EncodedImages(ABC):
    """Encoded images, and how they become tensors of one size.

    Args:
        option: The option that names them, with its value, for messages.
        size: Height and width, or None for that of the images.
        grayscale: Whether images are grey, with one channel, instead of coloured, with three.
    """

    def __init__(self, option: str, size: int | None, grayscale: bool) -> None:
        self.option, self.size, self.mode = option, size, "L" if grayscale else "RGB"

    @abstractmethod
    def open(self, number: int) -> Image.Image:
        """Open an image."""

    @abstractmethod
    def name(self, number: int) -> str:
        """What an image is called in messages."""

    def decode(self, number: int) -> Tensor:
        """An image, uint8, shape ``(channels, height, width)``.

        Raises:
            ValueError: If it cannot be read.
        """
        try:
            image = self.open(number)
            if is_deep(image):
                raise ValueError(f"it has more than 8 bits a channel (PIL's mode {image.mode})")
            image = ImageOps.exif_transpose(image).convert(self.mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{self.name(number)} cannot be read: {error}") from error
        if self.size is not None:
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if pixels.ndim == 2 else pixels.movedim(2, 0)

    def decode_all(self, numbers: list[int], use: Callable[[int, Tensor], None]) -> None:
        """Decode images in threads, with a progress bar, and call ``use(i, image)`` for each.

        Args:
            numbers: Which, in order.
            use: Called by several threads with an index in ``numbers`` and an image.

        Raises:
            ValueError: If one cannot be read, or is of another size.
        """
        shape = self.decode(numbers[0]).shape

        def read(i: int) -> None:
            image = self.decode(numbers[i])
            if image.shape != shape:
                raise ValueError(
                    f"{self.name(numbers[0])} has {shape[2]}x{shape[1]} pixels and "
                    f"{self.name(numbers[i])} has {image.shape[2]}x{image.shape[1]}: give "
                    "--data.size to resize all images"
                )
            use(i, image)

        with ThreadPool(min(16, os.cpu_count() or 1)) as pool:
            done = pool.imap(read, range(len(numbers)))
            silent = bool(rank_zero_only.rank)  # type: ignore[attr-defined]
            what = f"Reading {self.option.partition(' ')[2]}"
            for _ in track(done, what, len(numbers), disable=silent):
                pass


class LazyImages(TensorBatches):
    """Images that are decoded when they are asked for, and their labels.

    Args:
        encoded: The images.
        numbers: Which of them, shape ``(n,)``.
        labels: Their classes, shape ``(n,)``.
        num_workers: Number of processes that decode them.
        counts: How often each grey value occurs in them, shape ``(256,)``.
    """

    def __init__(
        self,
        encoded: EncodedImages,
        numbers: Tensor,
        labels: Tensor,
        num_workers: int,
        counts: Tensor,
    ) -> None:
        self.encoded, self.numbers, self.labels = encoded, numbers, labels
        self.num_workers, self.counts = num_workers, counts

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Batch:
        return self.encoded.decode(int(self.numbers[index])), self.labels[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of the given examples."""
        images = [self.encoded.decode(number) for number in self.numbers[indices].tolist()]
        return torch.stack(images), self.labels[indices]

    @cached_property
    def data(self) -> Tensor:  # type: ignore[override]
        """The first images, which statistics and comparisons make do with."""
        first = self.encoded.decode(int(self.numbers[0]))
        num = min(len(self), FIRST, max(1, FIRST_BYTES // first.numel()))
        data = torch.empty((num, *first.shape), dtype=torch.uint8)
        self.encoded.decode_all(self.numbers[:num].tolist(), data.__setitem__)
        return data

    def count_values(self) -> Tensor:
        """See :meth:`TensorBatches.count_values`; counted in the first pass over the images."""
        return self.counts

    def checked(self, name: str, data_shape: tuple[int, ...], dtype: torch.dtype) -> TensorBatches:
        """The images themselves, which were checked during the first pass over them."""
        checks.check_size(name, len(self))
        self.labels = checks.check_labels(name, self.labels, len(self))
        return self


class ImageDataModule(InMemoryDataModule):
    """Base of datamodules whose images are decoded.

    They are held in memory as uint8 if they take less than half of what is available. Otherwise
    all are read once, to check and to count them, and then by workers, batch by batch: a training
    is the same in both cases. What needs data in memory, which is the largest distance and what
    samples are compared with, makes do with the first 4,096 of each split, which are in random
    order; the tables of an evaluation say so.

    Args:
        size: Height and width to which images are resized, the shorter side first, and cropped in
            the centre; by default none, and all images must have one size.
        grayscale: Whether images are grey, with one channel, instead of coloured, with three.
        val_fraction: Share of the examples for validation, in (0, 1).
        test_fraction: Share for the test, in [0, 1); 0 to test on the validation data.
        batch_size: Examples in a batch, on each device.
        seed: Seed of the split, apart from the seed of the training, in [0, 2**32).
        in_memory: Whether images are held in memory; ``auto`` to hold them if they fit.
        num_workers: Processes per device that decode images which are not held in memory.
    """

    def __init__(
        self,
        size: int | None = None,
        grayscale: bool = False,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 64,
        seed: int = 0,
        in_memory: InMemory = "auto",
        num_workers: int = 4,
    ) -> None:
        super().__init__(batch_size)
        check_split(val_fraction, test_fraction, seed)
        if size is not None:
            checks.check_range("size", size, 1)
        checks.check_range("num_workers", num_workers, 0)
        self.size, self.grayscale = size, grayscale
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed
        self.in_memory, self.num_workers = in_memory, num_workers

    def split(self, encoded: EncodedImages, labels: Tensor) -> dict[str, TensorBatches]:
        """The images in random order, in memory or not.

        Args:
            encoded: The images.
            labels: Their classes, shape ``(n,)``.

        Raises:
            ValueError: If one of them cannot be read, or sizes differ.
            MemoryError: If they have to be in memory, and do not fit.
        """
        order = random_order(len(labels), self.seed)
        shape, numbers = encoded.decode(int(order[0])).shape, order.tolist()
        needed, in_memory = len(labels) * shape.numel(), self.in_memory
        if in_memory == "auto":
            in_memory = needed <= checks.available_memory() / 2
        fractions = self.val_fraction, self.test_fraction
        if in_memory:
            remedy = "leave out --data.in_memory, and they are read by workers"
            checks.check_memory(encoded.option, needed, remedy)
            data = torch.empty((len(labels), *shape), dtype=torch.uint8)
            encoded.decode_all(numbers, data.__setitem__)
            return split_in_order(data, labels[order], *fractions)
        sizes = split_sizes(len(labels), *fractions)
        counts, lock = torch.zeros(256, dtype=torch.int64), threading.Lock()

        def count(i: int, image: Tensor) -> None:
            if i < sizes[0]:  # a training image
                found = count_grey_values(image)
                with lock:
                    counts.add_(found)

        encoded.decode_all(numbers, count)
        train, val, test = (
            LazyImages(encoded, part, labels[part], self.num_workers, counts)
            for part in order.split(sizes)
        )
        return {"train": train, "val": val, "test": test if self.test_fraction else val}

    @cached_property
    def data_diameter(self) -> float:
        """The largest distance between two of the first 4,096 training images."""
        stored = self.splits["train"].data
        if stored.dtype != torch.uint8:
            return super().data_diameter
        num = min(FIRST, max(1, FIRST_BYTES // stored[0].numel()))
        return largest_distance(self.kind.decode(stored[:num]))
