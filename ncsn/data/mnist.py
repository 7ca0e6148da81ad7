"""MNIST, as the configs use it."""

from pathlib import Path
from typing import Literal

from ncsn.data.vision import TorchvisionDataModule


class MNISTDataModule(TorchvisionDataModule):
    """LeCun's handwritten digits: 60,000 training and 10,000 test images of 28x28 pixels.

    ::

        python -m ncsn fit --config configs/mnist_cpu.yaml --data.data_dir data

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
        super().__init__("MNIST", data_dir, image_size if image_size != 28 else None, batch_size)
        self.data_shape = (1, image_size, image_size)
        # Measured on the 60,000 training images; resizing smooths them a little.
        self.data_std = 0.6162 if image_size == 28 else 0.5786
        self.data_diameter = 33.75 if image_size == 28 else 36.88

    data_mean = -0.7387
