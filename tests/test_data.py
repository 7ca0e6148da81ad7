import shutil

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from ncsn.data import DigitsDataModule, MNISTDataModule, MoonsDataModule
from ncsn.data.base import TensorBatches
from ncsn.errors import UserError


def batches(datamodule, loader="train_dataloader"):
    """All batches of a loader, as the model gets them."""
    datamodule.setup("fit")
    loaded = getattr(datamodule, loader)()
    return [datamodule.on_after_batch_transfer(batch, 0) for batch in loaded]


def test_moons_are_scikit_learns_and_split_in_two():
    from sklearn.datasets import make_moons

    data = MoonsDataModule(num_points=500, noise=0.05, val_fraction=0.3, batch_size=50, seed=3)
    train, val = batches(data), batches(data, "val_dataloader")
    assert [len(x) for x, _ in train] == [50] * 7
    assert [len(x) for x, _ in val] == [50] * 3
    points, moons = make_moons(500, noise=0.05, random_state=3)
    rows = np.concatenate([torch.cat([x for x, _ in part]).numpy() for part in (train, val)])
    labels = np.concatenate([torch.cat([y for _, y in part]).numpy() for part in (train, val)])
    order, expected = np.lexsort(rows.T), np.lexsort(points.astype("float32").T)
    np.testing.assert_array_equal(rows[order], points.astype("float32")[expected])
    np.testing.assert_array_equal(labels[order], moons[expected])


def test_digits_arrive_as_float_images_in_the_stated_range_with_the_stated_moments():
    data = DigitsDataModule(batch_size=1, val_fraction=0.2)
    train, val = batches(data), batches(data, "val_dataloader")
    assert (len(train), len(val)) == (1437, 360)
    x = torch.cat([x for x, _ in train + val])
    assert x.dtype == torch.float32
    assert x.shape[1:] == data.data_shape
    assert (x.min(), x.max()) == (-1, 1)
    assert x.mean().item() == pytest.approx(data.data_mean, abs=1e-4)
    assert x.std().item() == pytest.approx(data.data_std, abs=1e-4)
    # Labels go with their images: a nearest neighbour tells the digit.
    nearest = torch.cdist(x[1437:].flatten(1), x[:1437].flatten(1)).argmin(dim=1)
    labels = torch.cat([y for _, y in train + val])
    assert (labels[:1437][nearest] == labels[1437:]).float().mean() > 0.95


def test_images_stay_uint8_until_they_are_on_the_device():
    data = DigitsDataModule()
    data.setup("fit")
    x, _ = next(iter(data.train_dataloader()))
    assert x.dtype == torch.uint8


def test_a_batch_is_taken_by_one_indexing_operation(monkeypatch):
    monkeypatch.setattr(TensorBatches, "__getitem__", None)  # would be called example by example
    assert len(batches(DigitsDataModule(batch_size=100))) == 14


class FakeTrainer:
    def __init__(self, world_size, global_rank):
        self.world_size, self.global_rank = world_size, global_rank


def test_ranks_share_the_training_data_and_epochs_differ(monkeypatch):
    def epoch(rank, number, seed="0"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        data = MoonsDataModule(num_points=100, batch_size=10)
        data.setup("fit")
        data.trainer = FakeTrainer(2, rank)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        return [tuple(point) for x, _ in loader for point in x.tolist()]

    first, second = epoch(0, 0), epoch(1, 0)
    assert len(set(first) | set(second)) == len(first) + len(second) == 80
    assert first == epoch(0, 0)
    assert first != epoch(0, 1)
    assert first != epoch(0, 0, seed="1")


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match=r"batch_size=90 .* 80 training examples"):
        MoonsDataModule(num_points=100, batch_size=90).setup("fit")


def test_missing_mnist_without_a_network_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    with pytest.raises(UserError, match=r"--data\.data_dir .* configs/digits\.yaml"):
        MNISTDataModule(tmp_path).prepare_data()


def test_mnist_is_28_or_32_pixels_wide_and_has_the_stated_moments(mnist_dir):
    for size in (28, 32):
        data = MNISTDataModule(mnist_dir, image_size=size, batch_size=5000)
        data.prepare_data()
        data.setup("fit")
        sizes = {split: len(examples) for split, examples in data.splits.items()}
        assert sizes == {"train": 55_000, "val": 5_000, "test": 10_000}
        x, labels = next(iter(data.train_dataloader()))
        x = x.float() / 127.5 - 1
        assert x.shape[1:] == data.data_shape == (1, size, size)
        assert labels.bincount().numel() == 10
        assert x.mean().item() == pytest.approx(data.data_mean, abs=0.01)
        assert x.std().item() == pytest.approx(data.data_std, abs=0.01)


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "swapped", "empty"])
def test_damaged_mnist_is_found_and_the_file_named(mnist_dir, tmp_path, damage):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(mnist_dir / "MNIST" / "raw", raw)
    images, labels = raw / "t10k-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte"
    labels.chmod(0o644)
    content = bytearray(labels.read_bytes())
    if damage == "flipped bit":
        content[1000] ^= 1
    elif damage == "truncated":
        del content[-100:]
    elif damage == "swapped":
        content = images.read_bytes()
    else:
        content = b""
    labels.write_bytes(content)
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte"):
        MNISTDataModule(tmp_path).prepare_data()
