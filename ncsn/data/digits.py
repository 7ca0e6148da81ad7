"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels, nothing to download."""

import torch

from ncsn.data.base import InMemoryDataModule
from ncsn.data.batches import TensorBatches
from ncsn.data.checks import check_range


class DigitsDataModule(InMemoryDataModule):
    """The test part of UCI's Optical Recognition of Handwritten Digits, as 8x8 grey images.

    ::

        python -m ncsn fit --config configs/digits.yaml

    A random part of the images, which come with scikit-learn, is held out, for both validation
    and test.

    Args:
        val_fraction: Share of the images that is held out, in [0.01, 0.99).
        batch_size: Images in a batch, on each device.
        seed: Seed of the split, apart from the seed of the training, in [0, 2**32).
    """

    def __init__(self, val_fraction: float = 0.2, batch_size: int = 128, seed: int = 0) -> None:
        super().__init__(batch_size)
        check_range("val_fraction", val_fraction, 0.01, 0.99)
        check_range("seed", seed, 0, 2**32)
        self.val_fraction, self.seed = val_fraction, seed

    data_shape = (1, 8, 8)
    feature_network = "digits"
    # Of all 1,797 images, so that the model does not change with the split.
    data_mean = -0.3894
    data_std = 0.7518
    data_diameter = 9.627

    def load_splits(self) -> dict[str, TensorBatches]:
        """Images of shape ``(n, 1, 8, 8)``, uint8, and the digits as labels."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, digits = load_digits(return_X_y=True)
        # The sixteen steps of grey, 0 to 16, become 0 to 255.
        data = torch.from_numpy(images).mul(255 / 16).round().byte().view(-1, 1, 8, 8)
        labels = torch.from_numpy(digits)
        options = {"test_size": self.val_fraction, "random_state": self.seed, "stratify": digits}
        train, held_out = (
            TensorBatches(data[rows], labels[rows])
            for rows in train_test_split(torch.arange(len(data)).numpy(), **options)
        )
        return {"train": train, "val": held_out, "test": held_out}
