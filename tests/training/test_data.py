"""The data: what it is, how it is split, batched and sharded, and what is refused."""

import shutil

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from ncsn.data import DigitsDataModule, MNISTDataModule, MoonsDataModule
from ncsn.data.base import InMemoryDataModule, TensorBatches
from ncsn.evaluation.codec import to_float
from ncsn.evaluation.images import Images
from ncsn.evaluation.points import Points
from ncsn.exact import TwoMoons


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
    x, label = next(iter(data.train_dataloader()))
    assert x.dtype == torch.uint8
    moved, _ = data.on_after_batch_transfer((x, label), 0)
    torch.testing.assert_close(moved, to_float(x))


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


def test_the_data_knows_its_kind_and_what_samples_are_compared_with():
    digits, moons = DigitsDataModule(), MoonsDataModule(num_points=100, batch_size=10)
    assert isinstance(digits.kind, Images)
    assert isinstance(moons.kind, Points)
    for data in (digits, moons):
        data.setup("fit")
    reference = digits.reference("test")
    assert reference.train.dtype == reference.held_out.dtype == torch.uint8
    assert (len(reference.train), len(reference.held_out)) == (1437, 360)
    assert torch.equal(reference.labels, digits.splits["train"].labels)
    assert reference.features.name == "digits"
    assert reference.exact is None
    assert isinstance(moons.reference("val").exact, TwoMoons)
    assert moons.reference("val").features is None


class Numbered(InMemoryDataModule):
    """Splits of different sizes."""

    data_shape, data_mean, data_std, data_diameter = (3,), 0.0, 1.0, 1.0

    def load_splits(self):
        sizes = {"train": 7, "val": 5, "test": 4}
        return {
            name: TensorBatches(torch.randn(size, 3), torch.zeros(size))
            for name, size in sizes.items()
        }


def test_what_is_held_out_depends_on_the_split():
    data = Numbered(batch_size=2)
    data.setup("fit")
    assert len(data.reference("val").held_out) == 5
    assert len(data.reference("test").held_out) == 4
    assert [len(x) for x, _ in batches(data, "test_dataloader")] == [2, 2]


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=90 .* 80 training examples"):
        MoonsDataModule(num_points=100, batch_size=90).setup("fit")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MoonsDataModule(num_points=0), "num_points >= 1"),
        (lambda: MoonsDataModule(noise=-0.1), "noise >= 0"),
        (lambda: MoonsDataModule(noise=float("nan")), "noise >= 0"),
        (lambda: MoonsDataModule(val_fraction=1.0), "val_fraction < 1"),
        (lambda: MoonsDataModule(batch_size=0), "batch_size must be at least 1"),
        (lambda: DigitsDataModule(val_fraction=0.0), "0 < val_fraction"),
        (lambda: DigitsDataModule(seed=-1), "seed >= 0"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_split_without_examples_is_refused():
    with pytest.raises(ValueError, match=r"the val data is empty: change data\.val_fraction"):
        MoonsDataModule(num_points=10, val_fraction=0.01, batch_size=2).setup("fit")


def test_missing_mnist_without_a_network_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    with pytest.raises(FileNotFoundError, match=r"--data\.data_dir .* configs/digits\.yaml"):
        MNISTDataModule(tmp_path).prepare_data()


def test_mnist_is_28_or_32_pixels_wide_and_has_the_stated_moments(mnist_dir):
    for size in (28, 32):
        data = MNISTDataModule(mnist_dir, image_size=size, batch_size=5000)
        data.prepare_data()
        data.setup("fit")
        sizes = {split: len(examples) for split, examples in data.splits.items()}
        assert sizes == {"train": 55_000, "val": 5_000, "test": 10_000}
        x, labels = next(iter(data.train_dataloader()))
        x = to_float(x)
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
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte"):
        MNISTDataModule(tmp_path).prepare_data()


class Unstated(InMemoryDataModule):
    """Data of which nothing is stated."""

    def __init__(self, data):
        super().__init__(batch_size=4)
        self.data = TensorBatches(data, torch.zeros(len(data)).long())

    def load_splits(self):
        return dict.fromkeys(("train", "val", "test"), self.data)


def test_what_a_datamodule_does_not_state_is_computed_from_its_training_data():
    points = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    points[[17, 4711]] = torch.tensor([[9.0, 0.0, 0.0], [-9.0, 0.0, 3.0]])
    data = Unstated(points)
    assert data.data_shape == (3,)
    assert data.data_mean == pytest.approx(points.mean().item(), abs=1e-6)
    assert data.data_std == pytest.approx(points.std().item(), rel=1e-5)
    assert data.data_diameter == pytest.approx((18**2 + 3**2) ** 0.5, rel=1e-5)


def test_computed_statistics_are_those_that_the_digits_state():
    stated = DigitsDataModule()
    stated.setup("fit")
    images = torch.cat([split.data for split in (stated.splits["train"], stated.splits["val"])])
    computed = Unstated(images)
    assert computed.data_shape == stated.data_shape
    assert computed.data_mean == pytest.approx(stated.data_mean, abs=1e-4)
    assert computed.data_std == pytest.approx(stated.data_std, abs=1e-4)
    assert computed.data_diameter == pytest.approx(stated.data_diameter, abs=1e-3)
