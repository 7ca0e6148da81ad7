"""Datamodules: densities in the plane, 8x8 digits, public images, and a user's own files."""

from ncsn.data.arrays import ArrayDataModule
from ncsn.data.base import InMemoryDataModule
from ncsn.data.batches import TensorBatches
from ncsn.data.digits import DigitsDataModule
from ncsn.data.folder import ImageFolderDataModule
from ncsn.data.hugging_face import HuggingFaceDataModule
from ncsn.data.mnist import MNISTDataModule
from ncsn.data.moons import MoonsDataModule
from ncsn.data.stored import StoredStatistics
from ncsn.data.toys import ToyDataModule
from ncsn.data.vision import TorchvisionDataModule

__all__ = [
    "ArrayDataModule",
    "DigitsDataModule",
    "HuggingFaceDataModule",
    "ImageFolderDataModule",
    "InMemoryDataModule",
    "MNISTDataModule",
    "MoonsDataModule",
    "StoredStatistics",
    "TensorBatches",
    "TorchvisionDataModule",
    "ToyDataModule",
]
