"""Public image data sets by name, on small files of noise: no test downloads anything."""

import gzip
import hashlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from support.own_data import accept_cifar, write_fashion, write_idx
from torchvision.datasets import CIFAR10, SVHN, FashionMNIST
from torchvision.transforms.v2.functional import resize

from ncsn.data import TorchvisionDataModule

RAW = Path("data/FashionMNIST/raw")
IMAGES = RAW / "train-images-idx3-ubyte"


def load(name, **options):
    data = TorchvisionDataModule(name, **options)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("name", ["FashionMNIST", "KMNIST", "EMNIST"])
def test_idx_files_become_images_with_their_labels(name):
    if name == "EMNIST":
        written = write_fashion("data/EMNIST/raw", "emnist-balanced-", "test")
    else:
        written = write_fashion(f"data/{name}/raw")
    data = load(name)
    assert data.data_shape == (1, 28, 28)
    sizes = {split: len(part) for split, part in data.splits.items()}
    assert sizes == {"train": 270, "val": 30, "test": 100}
    train, test = written.values()
    parts = {
        "train": (train[0][:270], train[1][:270]),
        "val": (train[0][270:], train[1][270:]),
        "test": test,
    }
    for split, (images, labels) in parts.items():
        if name == "EMNIST":  # which stores columns first
            images = images.swapaxes(1, 2)
        np.testing.assert_array_equal(data.splits[split].data[:, 0], images)
        np.testing.assert_array_equal(data.splits[split].labels, labels)
    assert data.data_mean == pytest.approx(data.training_data.mean().item(), abs=1e-5)
    assert data.num_classes == 10
    assert data.feature_network is None


def test_cifar_has_three_channels_in_front(monkeypatch):
    accept_cifar(monkeypatch)
    data = load("CIFAR10", batch_size=8)
    original = CIFAR10("data", train=True)
    assert data.data_shape == (3, 32, 32)
    sizes = {split: len(part) for split, part in data.splits.items()}
    assert sizes == {"train": 270, "val": 30, "test": 60}
    np.testing.assert_array_equal(
        data.splits["train"].data, np.moveaxis(original.data, 3, 1)[:270]
    )
    assert data.splits["train"].labels.tolist() == original.targets[:270]


def test_svhn_and_images_of_another_size(monkeypatch):
    Path("data").mkdir()
    rng, table = np.random.default_rng(0), {}
    pictures = rng.integers(256, size=(32, 32, 3, 40), dtype=np.uint8)
    for split in ("train", "test"):
        path = Path("data", f"{split}_32x32.mat")
        savemat(path, {"X": pictures, "y": np.arange(1, 41)[:, None] % 10 + 1})
        table[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", {**SVHN.split_list, **table})
    expected = torch.from_numpy(pictures.transpose(3, 2, 0, 1).copy())
    data = load("SVHN", batch_size=8)
    assert torch.equal(data.splits["test"].data, expected)
    assert data.splits["train"].labels.max() < 10
    smaller = load("SVHN", batch_size=8, image_size=16)
    assert smaller.data_shape == (3, 16, 16)
    assert torch.equal(smaller.splits["test"].data, resize(expected, [16, 16], antialias=True))


def test_mnist_by_name_is_what_its_datamodule_loads(mnist_dir):
    data = load("MNIST", data_dir=mnist_dir)
    assert {split: len(part) for split, part in data.splits.items()} == {
        "train": 55_000,
        "val": 5_000,
        "test": 10_000,
    }
    assert data.feature_network == "mnist"
    assert data.data_mean == pytest.approx(-0.7387, abs=2e-3)
    assert data.data_std == pytest.approx(0.6162, abs=2e-3)
    # The stated diameter is that of all 60,000 images.
    assert 32.5 < data.data_diameter <= 33.75


# ---- damage ----


def truncated():
    IMAGES.write_bytes(IMAGES.read_bytes()[:-1])


def longer():
    IMAGES.write_bytes(IMAGES.read_bytes() + b"0")


def swapped():
    IMAGES.write_bytes((RAW / "train-labels-idx1-ubyte").read_bytes())


def empty():
    IMAGES.write_bytes(b"")


def header_alone():
    IMAGES.write_bytes(IMAGES.read_bytes()[:6])


@pytest.mark.parametrize("damage", [truncated, longer, swapped, empty, header_alone])
def test_a_damaged_idx_file_is_found_and_named(damage):
    write_fashion()
    damage()
    with pytest.raises(ValueError, match=f"{IMAGES} is not FashionMNIST's file .*: it is damaged"):
        load("FashionMNIST")


def test_a_file_that_another_process_is_writing_is_waited_for(monkeypatch):
    write_fashion()
    whole = IMAGES.read_bytes()

    @contextmanager
    def wait(lock):
        IMAGES.write_bytes(whole)
        yield

    IMAGES.write_bytes(whole[:100])
    monkeypatch.setattr("ncsn.data.vision.FileLock", wait)
    load("FashionMNIST")


def test_a_flipped_bit_is_found_where_the_archive_is_there(monkeypatch):
    write_fashion()
    archive = IMAGES.with_name(f"{IMAGES.name}.gz")
    archive.write_bytes(gzip.compress(IMAGES.read_bytes()))
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(FashionMNIST, "resources", [(archive.name, md5)])
    load("FashionMNIST")
    content = bytearray(IMAGES.read_bytes())
    content[1000] ^= 1
    IMAGES.write_bytes(content)
    with pytest.raises(ValueError, match=rf"it is not what {archive.name} holds"):
        load("FashionMNIST")
    archive.write_bytes(gzip.compress(content))  # damaged alike
    with pytest.raises(ValueError, match=rf"the MD5 of {archive.name} is not {md5}"):
        load("FashionMNIST")


def test_a_damaged_cifar_file_is_found_before_it_is_unpickled(monkeypatch):
    accept_cifar(monkeypatch)
    path = Path("data/cifar-10-batches-py/data_batch_3")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path} is not CIFAR10's file .its MD5 is not"):
        load("CIFAR10")


def test_fewer_labels_than_images_are_refused():
    write_fashion()
    write_idx(RAW / "t10k-labels-idx1-ubyte", np.zeros(99))
    with pytest.raises(ValueError, match=r"test labels must be of shape \(100,\)"):
        load("FashionMNIST")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "MNISTT"}, "data.name must be one of MNIST, FashionMNIST, .* got MNISTT"),
        ({"name": "SVHN", "image_size": 0}, "data.image_size must be at least 1"),
        (
            {"name": "KMNIST", "data_dir": Path("dta")},
            "--data.data_dir dta is not a directory: .* KMNIST/raw/train-images-idx3-ubyte",
        ),
    ],
)
def test_impossible_options_are_refused_and_nothing_is_created(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TorchvisionDataModule(**options).setup("fit")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", ["FashionMNIST", "EMNIST", "CIFAR10", "SVHN"])
def test_a_missing_data_set_without_a_network_names_the_ways_out(name, monkeypatch):
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(FileNotFoundError, match=rf"{name} is not in data.* --data\.data_dir at a"):
        load(name)
