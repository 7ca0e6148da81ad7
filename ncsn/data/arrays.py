"""Points and images from a file: .npy, .npz, .pt, CSV."""

import pickle
import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ncsn.data.base import InMemoryDataModule
from ncsn.data.batches import TensorBatches
from ncsn.data.checks import check_memory
from ncsn.data.splits import check_split, random_order, split_in_order
from ncsn.evaluation.files import is_number

Arrays: TypeAlias = dict[str, Any]
"""NumPy arrays or tensors by their names in a file."""

FIRST = ""
"""The first column of a CSV, whatever its name."""

UNREADABLE = (ValueError, EOFError, RuntimeError, zipfile.BadZipFile)


class ArrayDataModule(InMemoryDataModule):
    """Points of any dimension, or images, from one file.

    ::

        python -m ncsn fit --config configs/points5d.yaml --data.path points.csv

    - ``.npy``: an array.
    - ``.npz``, ``.pt``: an array, or some by name, of which ``key`` chooses one.
    - ``.csv``: a point in each line. A first line without numbers names the columns, which else
      are ``0``, ``1`` and so on.

    Arrays of shape (n,) and (n, dim) are points; uint8 arrays of shape (n, height, width), (n,
    height, width, channels) or (n, channels, height, width) are grey or coloured images.

    Args:
        path: The file.
        key: Name of the array of examples, where a file has several.
        labels: Classes of the examples, if there are any, as integers or names: the name of
            another array in the file, of a column, or of another file.
        val_fraction: Share of the examples for validation, in (0, 1).
        test_fraction: Share for the test, in [0, 1); 0 to test on the validation data.
        batch_size: Examples in a batch, on each device.
        seed: Seed of the split, apart from the seed of the training, in [0, 2**32).
    """

    def __init__(
        self,
        path: Path,
        key: str | None = None,
        labels: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size)
        check_split(val_fraction, test_fraction, seed)
        self.path, self.key, self.labels = Path(path), key, labels
        self.val_fraction, self.test_fraction, self.seed = val_fraction, test_fraction, seed

    def load_splits(self) -> dict[str, TensorBatches]:
        """The examples in random order; see :meth:`InMemoryDataModule.load_splits`.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If there is something wrong with what it holds.
            MemoryError: If it does not fit into memory.
        """
        option = f"--data.path {self.path}"
        arrays = read_arrays(self.path, option, text=self.labels)
        labels = self._find_labels(arrays)
        data = as_examples(_choose(arrays, self.key, option), option)
        labels = torch.zeros(len(data), dtype=torch.int64) if labels is None else labels
        if len(labels) != len(data):
            raise ValueError(
                f"--data.labels {self.labels} has {len(labels)} labels for {len(data)} examples"
            )
        order = random_order(len(data), self.seed)
        return split_in_order(data[order], labels[order], self.val_fraction, self.test_fraction)

    def _find_labels(self, arrays: Arrays) -> Tensor | None:
        """Take the labels from the file's arrays, or read them from a file of their own."""
        if self.labels is None:
            return None
        option = f"--data.labels {self.labels}"
        if self.labels in arrays:
            values = arrays.pop(self.labels)
        elif Path(self.labels).is_file():
            values = _choose(read_arrays(Path(self.labels), option, text=FIRST), None, option)
        else:
            raise ValueError(
                f"{option}: neither a file nor one of {', '.join(arrays)} in {self.path}"
            )
        return as_labels(values, option)


def read_arrays(path: Path, option: str, text: str | None = None) -> Arrays:
    """The arrays of a file by their names, ``data`` if it is a single one.

    Args:
        path: The file.
        option: The option that names it, with its value, for messages.
        text: Column of a CSV that may hold text, an array of its own; or :data:`FIRST`.
    """
    readers = {".npy": _read_numpy, ".npz": _read_numpy, ".pt": _read_torch}
    suffix = path.suffix.lower()
    if suffix not in (*readers, ".csv"):
        raise ValueError(f"{option} is not a .npy, .npz, .pt or .csv file")
    if not path.is_file():
        raise FileNotFoundError(f"{option} is not a file")
    check_memory(option, 2 * path.stat().st_size)  # in the file's order and a random one
    try:
        return _read_csv(path, text) if suffix == ".csv" else readers[suffix](path)
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{option} cannot be read: {reason}") from error


def as_examples(values: Any, option: str) -> Tensor:
    """Points of shape ``(n, dim)``, or images of shape ``(n, channels, height, width)``."""
    data = _as_tensor(values, option)
    if data.dtype == torch.bool or data.is_complex():
        raise ValueError(f"{option} must hold real numbers, got {data.dtype}")
    if data.ndim < 2:
        return data.reshape(-1, 1)
    if data.ndim == 3:
        return data[:, None]
    if data.ndim != 4:
        return data
    first, last = (data.shape[i] in (1, 3) for i in (1, 3))
    if first == last:
        raise ValueError(
            f"{option} has the shape {tuple(data.shape)}: images must have 1 or 3 channels, "
            "either before or after height and width"
        )
    return data if first else data.movedim(3, 1)


def as_labels(values: Any, option: str) -> Tensor:
    """Labels as numbers; names are numbered in alphabetical order."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "SU":
        if not all(values):
            raise ValueError(
                f"{option}: a label is missing in example {values.tolist().index('')}"
            )
        try:
            values = values.astype(np.float64)
        except ValueError:
            values = np.unique(values, return_inverse=True)[1]
    labels = _as_tensor(values, option)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _as_tensor(values: Any, option: str) -> Tensor:
    """An array of numbers as a tensor, of a type that torch has."""
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{option} must hold numbers, got an array of {array.dtype}")
    wide: type = np.float64 if array.dtype.kind == "f" else np.int64
    dtype = array.dtype if array.dtype in (np.uint8, np.float32, np.bool_) else wide
    return torch.from_numpy(array.astype(dtype, copy=False))  # and in the machine's byte order


def _choose(arrays: Arrays, key: str | None, option: str) -> Any:
    if key is None and len(arrays) == 1:
        (key,) = arrays
    if key not in arrays:
        given = "several arrays" if key is None else f"no array {key}"
        raise ValueError(f"{option} holds {given}: choose --data.key from {', '.join(arrays)}")
    return arrays[key]


def _read_numpy(path: Path) -> Arrays:
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return {"data": found}
    with found:
        return dict(found)


def _read_torch(path: Path) -> Arrays:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("it is damaged, or holds more than tensors and plain data") from error
    if isinstance(found, Tensor):
        return {"data": found}
    if isinstance(found, list | tuple):
        found = dict(enumerate(found))
    if not isinstance(found, dict):
        raise ValueError(f"it holds no tensors but a {type(found).__name__}")
    return {str(name): each for name, each in found.items() if isinstance(each, Tensor)}


def _read_csv(path: Path, text: str | None) -> Arrays:
    """The column called ``text``, if there is one, as text; the others as numbers."""
    names, options = _read_header(path, text)
    columns, found = list(range(len(names))), Arrays()
    first = np.loadtxt(path, dtype=str, ndmin=2, max_rows=1, **options)
    if first.size and first.shape[1] != len(names):
        raise ValueError(
            f"its first line has {len(names)} columns and the next has {first.shape[1]}, maybe "
            "with the number of the row: write it without"
        )
    text = names[0] if text == FIRST else text
    if text in names:
        column = names.index(text)
        columns.remove(column)
        found[text] = np.loadtxt(path, dtype=str, usecols=column, ndmin=1, **options)
    if columns:
        all_of_them = len(columns) == len(names)  # so that longer rows are an error
        use = None if all_of_them else columns
        found["data"] = np.loadtxt(path, usecols=use, ndmin=2, **options)
    return found


def _read_header(path: Path, text: str | None) -> tuple[list[str], dict[str, Any]]:
    """Names of the columns of a CSV, and how ``numpy.loadtxt`` has to read it."""
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().strip()
    if not first:
        raise ValueError("its first line is empty")
    delimiter = next((each for each in ",;\t" if each in first), None)
    names = [cell.strip().strip('"') for cell in first.split(delimiter)]
    if "" in names:
        raise ValueError(
            "its first line has a column without a name, which may be pandas' index: write it "
            "with index=False"
        )
    if len(names) > 1 and names == [str(i) for i in range(len(names))]:
        raise ValueError(
            "its first line counts its columns, as pandas does for those without names: write it "
            "with header=False, or give them names"
        )
    texts = [str(i) for i, name in enumerate(names) if not is_number(name)]
    header = len(texts) == len(names)
    if texts and not header and texts != [text]:
        raise ValueError(
            "its first line has both numbers and text: it must name all columns or none, and a "
            "column of text must be that of --data.labels"
        )
    names = names if header else [str(i) for i in range(len(names))]
    options = {"delimiter": delimiter, "skiprows": int(header), "quotechar": '"'}
    options["comments"] = "#" if first.startswith("#") else None  # not in a label such as C#
    return names, {**options, "encoding": "utf-8-sig"}
