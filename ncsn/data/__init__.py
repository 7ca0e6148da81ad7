"""Datamodules: two moons, 8x8 digits, MNIST."""

from ncsn.data.base import InMemoryDataModule, TensorBatches
from ncsn.data.digits import DigitsDataModule
from ncsn.data.mnist import MNISTDataModule
from ncsn.data.moons import MoonsDataModule
from ncsn.data.stored import StoredStatistics

__all__ = [
    "DigitsDataModule",
    "InMemoryDataModule",
    "MNISTDataModule",
    "MoonsDataModule",
    "StoredStatistics",
    "TensorBatches",
]
