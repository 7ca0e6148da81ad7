"""Data sets of Hugging Face, by name or from a local path."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ncsn.data.arrays import as_examples, as_labels
from ncsn.data.batches import TensorBatches
from ncsn.data.checks import check_memory
from ncsn.data.decoded import EncodedImages, ImageDataModule
from ncsn.data.splits import random_order, split_in_order

FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}


class HuggingFaceDataModule(ImageDataModule):
    """A data set of Hugging Face, with images or numbers.

    ::

        python -m ncsn fit --config configs/folder.yaml --data HuggingFaceDataModule \
            --data.path ylecun/mnist --data.labels label --data.size 28

    It needs the package ``datasets``: ``pip install -e ".[datasets]"``.

    Args:
        path: Name of a data set; or a directory that ``save_to_disk`` wrote, a .parquet, .csv or
            .json file, or a directory of these or of images.
        split: The part to take, as ``load_dataset`` names it, such as ``train``, ``train+test``
            or ``train[:10%]``. It is split at random into training, validation and test data.
        columns: The column of the images or arrays, or those of the numbers, of a point; by
            default, the only one with images, or all but the labels.
        labels: Column of the classes, as integers or names, if there are any.
        config: Name of the configuration of a data set that has several.
        kwargs: See :class:`ncsn.data.decoded.ImageDataModule`.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        columns: list[str] | None = None,
        labels: str | None = None,
        config: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path, self.part, self.config = str(path), split, config
        self.columns, self.labels = columns, labels

    def load_splits(self) -> dict[str, TensorBatches]:
        """The examples in random order; see :meth:`InMemoryDataModule.load_splits`.

        Raises:
            ImportError: If the package ``datasets`` is not installed.
            ValueError: If there is something wrong with the data set.
            MemoryError: If it has to be in memory, and does not fit.
        """
        table, option = self._load(), f"--data.path {self.path}"
        if not len(table):
            raise ValueError(f"{option}, --data.split {self.part}: it has no examples")
        columns = self._find_columns(table)
        labels = torch.zeros(len(table), dtype=torch.int64)
        if self.labels is not None:
            values = np.asarray(table[self.labels][:])
            labels = as_labels(values, f"--data.labels {self.labels}")
        if any(_has_images(table, name) for name in columns):
            if len(columns) > 1:
                raise ValueError(f"{option}: choose one of the columns with --data.columns")
            images = ImageColumn(table, columns[0], option, self.size, self.grayscale)
            return self.split(images, labels)
        if self.size is not None or self.grayscale:
            raise ValueError(f"{option}: --data.size and --data.grayscale are for image columns")
        check_memory(option, 2 * (table.data.nbytes or 0))  # in the file's order and a random one
        found = table.select_columns(columns).with_format("numpy")[:]
        option = f"--data.columns {','.join(columns)}"
        arrays = [as_examples(found[name], option) for name in columns]
        data = arrays[0] if len(arrays) == 1 else torch.cat(arrays, dim=1)
        order = random_order(len(data), self.seed)
        return split_in_order(data[order], labels[order], self.val_fraction, self.test_fraction)

    def _load(self) -> Any:
        """The data set, of class ``datasets.Dataset``."""
        try:
            import datasets
        except ImportError as error:
            raise ImportError(
                'HuggingFaceDataModule needs the package datasets: pip install -e ".[datasets]"'
            ) from error
        path = Path(self.path)
        try:
            if (path / "state.json").is_file():
                if self.part != "train":
                    raise ValueError("it has one part, so leave --data.split out")
                return datasets.load_from_disk(str(path))
            if (path / "dataset_dict.json").is_file():
                return datasets.load_from_disk(str(path))[self.part]
            if path.is_file():
                options = {"data_files": str(path), "split": self.part}
                return datasets.load_dataset(FORMATS[path.suffix.lower()], **options)
            return datasets.load_dataset(self.path, self.config, split=self.part)
        except Exception as error:  # whatever formats, servers and caches may raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"--data.path {self.path}, --data.split {self.part}: cannot be loaded: {reason}"
            ) from error

    def _find_columns(self, table: Any) -> list[str]:
        """The columns of the examples."""
        names = [name for name in table.column_names if name != self.labels]
        images = [name for name in names if _has_images(table, name)]
        columns = self.columns or (images if len(images) == 1 else names)
        for option, name in [("columns", each) for each in columns] + [("labels", self.labels)]:
            if name is not None and name not in table.column_names:
                known = ", ".join(table.column_names)
                raise ValueError(f"--data.{option} {name}: {self.path} has the columns {known}")
        if not columns:
            raise ValueError(f"--data.path {self.path} has no columns but the labels")
        return columns


def _has_images(table: Any, column: str) -> bool:
    """Whether a column is of encoded images."""
    return column in table.features and type(table.features[column]).__name__ == "Image"


class ImageColumn(EncodedImages):
    """The images of a column."""

    def __init__(
        self, table: Any, column: str, option: str, size: int | None, grayscale: bool
    ) -> None:
        super().__init__(option, size, grayscale)
        self.table, self.column = table.select_columns([column]), column

    def open(self, number: int) -> Image.Image:
        """Open an image."""
        image = self.table[number][self.column]
        if image is None:
            raise ValueError("it is missing")
        return image

    def name(self, number: int) -> str:
        """Its number."""
        return f"{self.option}: image {number}"
