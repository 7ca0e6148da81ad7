"""A folder of PNG and JPEG images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from ncsn.data.batches import TensorBatches
from ncsn.data.decoded import EncodedImages, ImageDataModule

SUFFIXES = (".png", ".jpg", ".jpeg")
OTHERS = (".bmp", ".gif", ".tif", ".tiff", ".webp")  # images that are left out
SPLITS = {"train", "training", "val", "valid", "validation", "test"}  # names that are no classes


class ImageFolderDataModule(ImageDataModule):
    """The PNG and JPEG images in a folder.

    ::

        python -m ncsn fit --config configs/folder.yaml --data.folder images --data.size 64

    If the images are in sub-folders, each of these is a class, numbered in alphabetical order.
    Hidden files and folders are left out, and so is transparency. Images of other formats are left
    out with a warning.

    Args:
        folder: The folder, searched recursively.
        kwargs: See :class:`ncsn.data.decoded.ImageDataModule`.
    """

    def __init__(self, folder: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = Path(folder)

    def load_splits(self) -> dict[str, TensorBatches]:
        """The images in random order; see :meth:`InMemoryDataModule.load_splits`.

        Raises:
            OSError: If there are no images.
            ValueError: If one of them cannot be read, or sizes differ.
            MemoryError: If they have to be in memory, and do not fit.
        """
        files, classes = list_images(self.folder)
        option = f"--data.folder {self.folder}"
        images = ImageFiles(files, option, self.size, self.grayscale)
        return self.split(images, torch.tensor(classes))


class ImageFiles(EncodedImages):
    """Images in files."""

    def __init__(
        self, files: Sequence[Path], option: str, size: int | None, grayscale: bool
    ) -> None:
        super().__init__(option, size, grayscale)
        # One array: workers would copy the memory of a list, piece by piece.
        self.files = np.array([os.fsencode(file) for file in files])

    def open(self, number: int) -> Image.Image:
        """Open a file."""
        return Image.open(self.name(number))

    def name(self, number: int) -> str:
        """Its path."""
        return os.fsdecode(self.files[number])


def list_images(folder: Path) -> tuple[list[Path], list[int]]:
    """The images in a folder, in alphabetical order, and their classes.

    Raises:
        OSError: If there are none, or a folder cannot be read.
        ValueError: If they are both in sub-folders and beside these, or in sub-folders that are
            splits.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"--data.folder {folder} is not a directory")
    files, others = [], []

    def refuse(error: OSError) -> None:
        raise error

    for directory, inside, names in os.walk(folder, onerror=refuse, followlinks=True):
        inside[:] = [name for name in inside if not name.startswith(".")]
        shown = [Path(directory, name) for name in names if not name.startswith(".")]
        files += [path for path in shown if path.suffix.lower() in SUFFIXES]
        others += [path for path in shown if path.suffix.lower() in OTHERS]
    files.sort()
    if not files:
        raise FileNotFoundError(f"--data.folder {folder} holds no images ({', '.join(SUFFIXES)})")
    if others:
        rank_zero_warn(
            f"--data.folder {folder}: {len(others)} images, such as {min(others)}, are left out, "
            "since they are neither PNG nor JPEG"
        )
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
