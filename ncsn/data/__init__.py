"""Datamodules: densities in the plane, 8x8 digits, MNIST, and a user's own files."""

from ncsn.data.arrays import ArrayDataModule
from ncsn.data.base import InMemoryDataModule, TensorBatches
from ncsn.data.digits import DigitsDataModule
from ncsn.data.folder import ImageFolderDataModule
from ncsn.data.mnist import MNISTDataModule
from ncsn.data.moons import MoonsDataModule
from ncsn.data.toys import ToyDataModule

__all__ = [
    "ArrayDataModule",
    "DigitsDataModule",
    "ImageFolderDataModule",
    "InMemoryDataModule",
    "MNISTDataModule",
    "MoonsDataModule",
    "TensorBatches",
    "ToyDataModule",
]
