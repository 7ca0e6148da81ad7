"""A folder of PNG and JPEG images."""

import os
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image, ImageOps
from rich.progress import track
from torch import Tensor

from ncsn.data.base import InMemoryDataModule, TensorBatches
from ncsn.data.checks import check_memory, check_range
from ncsn.data.splits import check_split, random_order, split_in_order

SUFFIXES = (".png", ".jpg", ".jpeg")
SPLITS = {"train", "training", "val", "valid", "validation", "test"}  # names that are no classes
DEEP = ("I", "F")  # modes of PIL with more than 8 bits


class ImageFolderDataModule(InMemoryDataModule):
    """The PNG and JPEG images in a folder, read into memory.

    ::

        python -m ncsn fit --config configs/folder.yaml --data.folder images --data.size 64

    If the images are in sub-folders, each of these is a class, numbered in alphabetical order.
    Hidden files and folders are left out, and so is transparency. Images are held as
    uint8, not read by workers: a folder that does not fit into memory is refused.

    Args:
        folder: The folder, searched with all that is in it.
        size: Height and width to which images are resized, the shorter side first, and cropped in
            the centre; by default none, and all images must have one size.
        grayscale: Whether images are grey, with one channel, instead of coloured, with three.
        val_fraction: Share of the images for validation, in [0, 1).
        test_fraction: Share for the test, in [0, 1); 0 to test on the validation data.
        batch_size: Images in a batch, on each device.
        seed: Seed of the split, apart from the seed of the training, in [0, 2**32).
    """

    def __init__(
        self,
        folder: Path,
        size: int | None = None,
        grayscale: bool = False,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size)
        check_split(val_fraction, test_fraction, seed)
        if size is not None:
            check_range("size", size, 1)
        self.folder, self.size, self.mode = Path(folder), size, "L" if grayscale else "RGB"
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed

    def load_splits(self) -> dict[str, TensorBatches]:
        """The images in random order; see :meth:`InMemoryDataModule.load_splits`.

        Raises:
            OSError: If there are no images.
            ValueError: If one of them cannot be read, or sizes differ.
            MemoryError: If they do not fit into memory.
        """
        files, classes = list_images(self.folder)
        order = random_order(len(files), self.seed).tolist()  # read in the order of the splits
        data = self._read([files[i] for i in order])
        labels = torch.tensor([classes[i] for i in order])
        return split_in_order(data, labels, self.val_fraction, self.test_fraction)

    def _read(self, files: Sequence[Path]) -> Tensor:
        """The images of files, uint8, shape ``(n, channels, height, width)``."""
        shape = self._read_one(files[0]).shape
        check_memory(f"--data.folder {self.folder}", len(files) * shape.numel())
        data = torch.empty((len(files), *shape), dtype=torch.uint8)

        def read(i: int) -> None:
            image = self._read_one(files[i])
            if image.shape != shape:
                raise ValueError(
                    f"{files[0]} has {shape[2]}x{shape[1]} pixels and {files[i]} has "
                    f"{image.shape[2]}x{image.shape[1]}: give --data.size to resize all images"
                )
            data[i] = image

        with ThreadPool(min(16, os.cpu_count() or 1)) as pool:
            done = pool.imap(read, range(len(files)))
            silent = bool(rank_zero_only.rank)  # type: ignore[attr-defined]
            for _ in track(done, f"Reading {self.folder}", len(files), disable=silent):
                pass
        return data

    def _read_one(self, file: Path) -> Tensor:
        try:
            image = ImageOps.exif_transpose(Image.open(file))
            if image.mode.startswith(DEEP):
                raise ValueError(f"it has more than 8 bits a channel (PIL's mode {image.mode})")
            image = image.convert(self.mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from error
        if self.size is not None:
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if pixels.ndim == 2 else pixels.movedim(2, 0)


def list_images(folder: Path) -> tuple[list[Path], list[int]]:
    """The images in a folder, in alphabetical order, and their classes.

    Raises:
        OSError: If there are none.
        ValueError: If they are both in sub-folders and beside these, or in sub-folders that are
            splits.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"--data.folder {folder} is not a directory")
    files = []
    for directory, inside, names in os.walk(folder, followlinks=True):
        inside[:] = [name for name in inside if not name.startswith(".")]
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        files += [Path(directory, name) for name in images if not name.startswith(".")]
    files.sort()
    if not files:
        raise FileNotFoundError(f"--data.folder {folder} holds no images ({', '.join(SUFFIXES)})")
    parts = [file.relative_to(folder).parts for file in files]
    tops = [part[0] if len(part) > 1 else "" for part in parts]
    names = sorted(set(tops))
    if "" in names and len(names) > 1:
        raise ValueError(
            f"--data.folder {folder} holds images both in sub-folders, such as {names[1]}, which "
            "would be classes, and beside them: move either away"
        )
    if SPLITS.issuperset(name.lower() for name in names):
        raise ValueError(
            f"--data.folder {folder} has the sub-folders {', '.join(names)}, which are splits, "
            f"not classes: give one of them, such as {folder / names[0]}, which is split at random"
        )
    numbers = {name: number for number, name in enumerate(names)}
    return files, [numbers[name] for name in tops]
