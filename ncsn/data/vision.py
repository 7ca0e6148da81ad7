"""Public image data sets by name, verified before they are used."""

import gzip
import math
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from filelock import FileLock
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_integrity
from torchvision.transforms.v2.functional import resize

from ncsn.data.base import InMemoryDataModule
from ncsn.data.batches import TensorBatches
from ncsn.data.checks import check_range

DatasetName: TypeAlias = Literal["MNIST", "FashionMNIST", "KMNIST", "EMNIST", "CIFAR10", "SVHN"]

# MD5 of the unpacked files. They cover the headers, the counts and every byte of the images,
# none of which torchvision verifies once the files are there.
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
NUM_VAL = 5000


class TorchvisionDataModule(InMemoryDataModule):
    """A data set of torchvision: MNIST and its kin, CIFAR-10, SVHN.

    ::

        python -m ncsn fit --config configs/fashion_mnist_cpu.yaml --data.name KMNIST

    The last 5,000 training images, a tenth of smaller data, are held out for validation.
    torchvision downloads the files when they are missing, one process at a time, into a directory
    that exists or into ``data``.

    Args:
        name: Name of the data set. Of EMNIST it is the part "balanced", of 47 letters and digits.
        data_dir: Directory that holds, or will hold, the files in torchvision's layout.
        image_size: Height and width to which the images are resized; by default, as they are.
        batch_size: Images in a batch, on each device.
    """

    def __init__(
        self,
        name: DatasetName,
        data_dir: Path = Path("data"),
        image_size: int | None = None,
        batch_size: int = 128,
    ) -> None:
        super().__init__(batch_size)
        if name not in get_args(DatasetName):
            names = ", ".join(get_args(DatasetName))
            raise ValueError(f"data.name must be one of {names}, got {name}")
        if image_size is not None:
            check_range("image_size", image_size, 1)
        self.dataset, self.data_dir, self.image_size = name, Path(data_dir), image_size
        self._prepared = False
        if name == "MNIST":
            self.feature_network = "mnist"

    def prepare_data(self) -> None:
        """Download what is missing, one process at a time, and verify the files, once.

        Raises:
            FileNotFoundError: If files are missing and cannot be downloaded.
            ValueError: If a file is damaged.
        """
        if self._prepared:
            return
        if not self.data_dir.is_dir() and self.data_dir != Path("data"):
            raise FileNotFoundError(
                f"--data.data_dir {self.data_dir} is not a directory: give one that holds "
                f"{(self._home / next(iter(self._files))).relative_to(self.data_dir)} and so on, "
                "as torchvision lays them out, or an empty one to download them into"
            )
        if not all((self._home / name).is_file() for name in self._files):
            self._download()
        try:
            self._verify_all()
        except ValueError:
            with suppress(OSError), FileLock(self._home / ".lock"):
                pass  # another process may have been downloading
            self._verify_all()
        self._prepared = True

    def load_splits(self) -> dict[str, TensorBatches]:
        """Images of shape ``(n, channels, height, width)``, uint8, and their classes."""
        self.prepare_data()
        train, test = (self._load(train=train) for train in (True, False))
        num = len(train) - min(NUM_VAL, len(train) // 10)
        return {
            "train": TensorBatches(train.data[:num], train.labels[:num]),
            "val": TensorBatches(train.data[num:], train.labels[num:]),
            "test": test,
        }

    @property
    def _home(self) -> Path:
        """Where the files are."""
        homes = {"CIFAR10": datasets.CIFAR10.base_folder, "SVHN": ""}
        return self.data_dir / homes.get(self.dataset, f"{self.dataset}/raw")

    @property
    def _files(self) -> dict[str, str | None]:
        """The files and their MD5, where it is known."""
        if self.dataset == "CIFAR10":
            meta = datasets.CIFAR10.meta
            lists = datasets.CIFAR10.train_list + datasets.CIFAR10.test_list
            return {**dict(lists), meta["filename"]: meta["md5"]}
        if self.dataset == "SVHN":
            return dict(datasets.SVHN.split_list[split][1:] for split in ("train", "test"))
        if self.dataset == "MNIST":
            return dict(CHECKSUMS)
        if self.dataset == "EMNIST":
            renamed = (name.replace("t10k", "test") for name in CHECKSUMS)
            return dict.fromkeys(f"emnist-balanced-{name}" for name in renamed)
        return dict.fromkeys(CHECKSUMS)

    def _open(self, *, train: bool, download: bool = False) -> Any:
        """Torchvision's data set."""
        options: dict[str, Any] = {"root": str(self.data_dir), "download": download}
        if self.dataset == "SVHN":
            return datasets.SVHN(split="train" if train else "test", **options)
        if self.dataset == "EMNIST":
            options["split"] = "balanced"
        return getattr(datasets, self.dataset)(train=train, **options)

    def _download(self) -> None:
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with FileLock(self._home / ".lock"):  # another process may be downloading
                for train in (True, False) if self.dataset == "SVHN" else (True,):
                    self._open(train=train, download=True)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"{self.dataset} is not in {self._home} and could not be downloaded there "
                f"({' '.join(str(error).split())}). Point --data.data_dir at a directory "
                "that holds it, as torchvision lays it out, or start with configs/digits.yaml, "
                "which needs no download."
            ) from error

    def _verify_all(self) -> None:
        for name in self._files:
            self._verify(self._home / name)

    def _verify(self, path: Path) -> None:
        """Compare a file with its checksum, or with its archive, and read its header."""
        md5, fault = self._files[path.name], None
        if md5 is not None and not check_integrity(str(path), md5):
            fault = f"its MD5 is not {md5}"
        elif md5 is None:
            fault = find_fault(path, dict(getattr(datasets, self.dataset).resources))
        if fault:
            raise ValueError(
                f"{path} is not {self.dataset}'s file ({fault}): it is damaged or another data "
                "set. Delete it to download it again, or point --data.data_dir at an intact copy."
            )

    def _load(self, *, train: bool) -> TensorBatches:
        loaded = self._open(train=train)
        values = loaded.labels if self.dataset == "SVHN" else loaded.targets
        images = LAYOUTS.get(self.dataset, lambda data: data[:, None])(
            torch.as_tensor(loaded.data)
        )
        if self.image_size is not None:
            images = resize(images, [self.image_size, self.image_size], antialias=True)
        return TensorBatches(images.contiguous(), torch.as_tensor(values))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "CIFAR10": lambda data: data.movedim(3, 1),
    "SVHN": lambda data: data,
    "EMNIST": lambda data: data[:, None].mT,  # its columns come first
}
"""To shape ``(n, channels, height, width)``; by default, grey images get their channel."""


def find_fault(path: Path, archives: dict[str, str]) -> str | None:
    """What is wrong with an idx file of bytes, if anything.

    Its header must agree with its length. If the archive that it is from is beside it, that must
    have its MD5, and the file must have the archive's checksum.

    Args:
        path: The file.
        archives: MD5 of archives by their names.
    """
    content, dims = path.read_bytes(), 3 if "idx3" in path.name else 1
    if content[:4] != bytes([0, 0, 8, dims]):
        return f"it does not start as an idx{dims} file of bytes"
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, 4 + 4 * dims, 4)]
    expected = 4 + 4 * dims + math.prod(shape)
    if len(content) != expected:
        return f"it has {len(content)} bytes, and its header asks for {expected}"
    archive = path.with_name(f"{path.name}.gz")
    if archive.is_file() and archive.name in archives:
        if not check_integrity(str(archive), archives[archive.name]):
            return f"the MD5 of {archive.name} is not {archives[archive.name]}"
        if zlib.crc32(content) != zlib.crc32(gzip.decompress(archive.read_bytes())):
            return f"it is not what {archive.name} holds"
    return None
