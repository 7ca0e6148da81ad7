"""Data that a user might bring, in the working directory, for the configs that need some."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10


def write_points():
    """``points.csv``: 300 points of 5 dimensions."""
    points = np.random.default_rng(0).normal(size=(300, 5))
    np.savetxt("points.csv", points, delimiter=",", header="a,b,c,d,e", comments="")


def write_images():
    """``images``: 300 coloured images of different sizes in two sub-folders, a third JPEG."""
    rng = np.random.default_rng(0)
    for i in range(300):
        folder = Path("images", ("ash", "birch")[i % 2])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(256, size=(16 + i % 3, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{'jpg' if i % 3 else 'png'}")


def write_idx(path, array):
    """An idx file of bytes, as those of MNIST are."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_fashion(raw="data/FashionMNIST/raw", prefix="", test="t10k"):
    """Idx files of 300 training and 100 test images; returns them and their labels."""
    rng, written = np.random.default_rng(0), {}
    Path(raw).mkdir(parents=True, exist_ok=True)
    for split, num in {"train": 300, test: 100}.items():
        images, labels = rng.integers(256, size=(num, 28, 28)), np.arange(num) % 10
        write_idx(Path(raw, f"{prefix}{split}-images-idx3-ubyte"), images)
        write_idx(Path(raw, f"{prefix}{split}-labels-idx1-ubyte"), labels)
        written[split] = images, labels
    return written


def write_cifar():
    """CIFAR-10's files with 60 images each; returns their MD5. Images are noise."""
    rng, home = np.random.default_rng(0), Path("data", CIFAR10.base_folder)
    home.mkdir(parents=True, exist_ok=True)
    for name, _ in CIFAR10.train_list + CIFAR10.test_list:
        pixels = rng.integers(256, size=(60, 3072), dtype=np.uint8)
        batch = {"data": pixels, "labels": [i % 10 for i in range(60)]}
        (home / name).write_bytes(pickle.dumps(batch))
    names = {CIFAR10.meta["key"]: [f"class {i}" for i in range(10)]}
    (home / CIFAR10.meta["filename"]).write_bytes(pickle.dumps(names))
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in home.iterdir()}


def accept_cifar(patch):
    """Write CIFAR-10's files and let torchvision take them for the real ones."""
    md5 = write_cifar()
    for name in ("train_list", "test_list"):
        patch.setattr(CIFAR10, name, [[file, md5[file]] for file, _ in getattr(CIFAR10, name)])
    meta = CIFAR10.meta
    patch.setattr(CIFAR10, "meta", {**meta, "md5": md5[meta["filename"]]})


WRITERS = {"fashion_mnist_cpu": write_fashion, "points5d": write_points, "folder": write_images}


def write_data(config):
    """Write what a config reads, if it is no data that comes with a library."""
    WRITERS.get(config, lambda: None)()
