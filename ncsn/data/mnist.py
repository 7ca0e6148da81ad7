"""MNIST, checked byte by byte before it is used."""

from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity
from torchvision.transforms.v2.functional import resize

from ncsn.data.base import InMemoryDataModule, TensorBatches

# MD5 of the unpacked files. They cover the headers, the counts and every byte of the images,
# none of which torchvision verifies once the files are there.
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class MNISTDataModule(InMemoryDataModule):
    """LeCun's handwritten digits: 60,000 training and 10,000 test images of 28x28 pixels.

    The last 5,000 training images are held out for validation. torchvision downloads the files
    when they are missing, in one process, into a directory that exists or into ``data``.

    Args:
        data_dir: Directory that holds, or will hold, ``MNIST/raw`` in torchvision's layout.
        image_size: 28, or 32 to resize the images.
        batch_size: Images in a batch, on each device.
    """

    def __init__(
        self,
        data_dir: Path = Path("data"),
        image_size: Literal[28, 32] = 28,
        batch_size: int = 128,
    ) -> None:
        super().__init__(batch_size)
        self.data_dir, self.image_size = data_dir, image_size
        self.data_shape = (1, image_size, image_size)
        # Measured on the 60,000 training images; resizing smooths them a little.
        self.data_std = 0.6162 if image_size == 28 else 0.5786
        self.data_diameter = 33.75 if image_size == 28 else 36.88

    feature_network = "mnist"
    data_mean = -0.7387

    def prepare_data(self) -> None:
        """Download what is missing, on one process, and verify every file.

        Raises:
            FileNotFoundError: If the files are missing and cannot be downloaded.
            ValueError: If a file is damaged.
        """
        raw = self.data_dir / "MNIST" / "raw"
        if not self.data_dir.is_dir() and self.data_dir != Path("data"):
            raise FileNotFoundError(
                f"--data.data_dir {self.data_dir} is not a directory: give one that holds "
                "MNIST/raw/train-images-idx3-ubyte and so on, as torchvision lays them out, or an "
                "empty one to download them into"
            )
        if not all((raw / name).is_file() for name in CHECKSUMS):
            try:
                raw.mkdir(parents=True, exist_ok=True)
                with FileLock(raw / ".lock"):  # another process may be downloading
                    MNIST(str(self.data_dir), download=True)
            except (OSError, RuntimeError) as error:
                raise FileNotFoundError(
                    f"MNIST is not in {raw} and could not be downloaded there ({error}). "
                    "Point --data.data_dir at a directory that holds MNIST/raw, or start with "
                    "configs/digits.yaml, which needs no download."
                ) from error
        for name, checksum in CHECKSUMS.items():
            if not check_integrity(str(raw / name), checksum):
                raise ValueError(
                    f"{raw / name} is not MNIST's file (its MD5 is not {checksum}): "
                    "it is damaged or another data set. Delete it to download it again, or point "
                    "--data.data_dir at an intact copy."
                )

    def load_splits(self) -> dict[str, TensorBatches]:
        """Images of shape ``(n, 1, image_size, image_size)``, uint8, and the digits as labels."""
        train, test = (self._load(train=train) for train in (True, False))
        return {
            "train": TensorBatches(train.data[:-5000], train.labels[:-5000]),
            "val": TensorBatches(train.data[-5000:], train.labels[-5000:]),
            "test": test,
        }

    def _load(self, *, train: bool) -> TensorBatches:
        mnist = MNIST(str(self.data_dir), train=train)
        images: torch.Tensor = mnist.data[:, None]
        if self.image_size != 28:
            images = resize(images, [self.image_size, self.image_size], antialias=True)
        return TensorBatches(images, mnist.targets)
