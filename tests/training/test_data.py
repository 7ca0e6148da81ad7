"""The data: what it is, how it is split, batched and sharded, and what is refused."""

import shutil
from types import SimpleNamespace

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


def test_no_more_data_than_fits_the_memory_of_a_device_is_compared(monkeypatch):
    data = Numbered(batch_size=2)
    data.setup("fit")
    assert len(data.reference("test").train) == 7
    more = MoonsDataModule(num_points=100, val_fraction=0.9, batch_size=5)
    assert len(more.reference("val").held_out) == 90
    monkeypatch.setattr("ncsn.data.base.REFERENCE_BYTES", 3 * 3 * 4)
    reference = data.reference("test")
    lengths = len(reference.train), len(reference.labels), len(reference.held_out)
    assert lengths == (3, 3, 3)
    assert reference.notes == {"training_data": "the first 3 of 7 examples"}


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=90 .* 80 training examples"):
        MoonsDataModule(num_points=100, batch_size=90).setup("fit")
    data = MoonsDataModule(num_points=100, batch_size=50)
    data.setup("fit")
    data.trainer = SimpleNamespace(world_size=2)
    with pytest.raises(ValueError, match=r"batch_size=50 .* 40 training examples for each of 2"):
        data.setup("fit")
    data.setup("test")  # all batches of which are used


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MoonsDataModule(num_points=0), r"data\.num_points must be at least 1"),
        (lambda: MoonsDataModule(noise=-0.1), r"data\.noise must be at least 0 .* got -0.1"),
        (lambda: MoonsDataModule(noise=float("nan")), r"data\.noise .* got nan"),
        (lambda: MoonsDataModule(noise=float("inf")), r"data\.noise .* got inf"),
        (lambda: MoonsDataModule(noise=1e38), r"data\.noise .* below 1e\+06, got 1e\+38"),
        (lambda: MoonsDataModule(val_fraction=1.0), r"data\.val_fraction .* below 1, got 1.0"),
        (lambda: MoonsDataModule(val_fraction=None), r"data\.val_fraction .* got None"),
        (lambda: MoonsDataModule(batch_size=0), r"data\.batch_size must be at least 1"),
        (lambda: MoonsDataModule(batch_size=None), r"data\.batch_size .* got None"),
        (lambda: DigitsDataModule(val_fraction=0.0), r"data\.val_fraction must be at least 0\.01"),
        (lambda: DigitsDataModule(seed=-1), r"data\.seed must be at least 0"),
        (lambda: DigitsDataModule(seed=2**32), r"data\.seed .* got 4294967296"),
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


# ---- a user's data ----


class Given(InMemoryDataModule):
    """Data as a user may have it; what is not given is in order."""

    data_mean, data_std, data_diameter = 0.0, 1.0, 4.0

    def __init__(self, data_shape=(2,), **splits):
        super().__init__(batch_size=4)
        self.data_shape, self.given = data_shape, splits

    def load_splits(self):
        if len(self.data_shape) == 3:
            data = torch.randint(256, (8, *self.data_shape), dtype=torch.uint8)
        else:
            data = torch.randn(8, *self.data_shape)
        splits = dict.fromkeys(("train", "val", "test"), (data, torch.arange(8) % 3))
        return {name: TensorBatches(*each) for name, each in {**splits, **self.given}.items()}


def points(value=0.0, shape=(8, 2), dtype=torch.float32):
    data = torch.zeros(shape, dtype=dtype)
    data[(5, *[0] * (len(shape) - 1))] = value
    return data


LABELS = torch.zeros(8, dtype=torch.long)
FAULTS = {
    "nan": ({"train": (points(float("nan")), LABELS)}, "train data must be finite .* got nan in"),
    "infinity": ({"val": (points(-float("inf")), LABELS)}, "val data must be .* got -inf in"),
    "huge": ({"test": (points(1e30), LABELS)}, "test data must be .* got 1e.30 in example 5"),
    "huge float64": ({"train": (points(1e300, dtype=torch.float64), LABELS)}, "got 1e.300"),
    "integers": (
        {"train": (points(2**24 + 1, dtype=torch.int64), LABELS)},
        "train data must be exact as float32, got 1.67772e.07 in example 5",
    ),
    "another dimension": (
        {"val": (points(shape=(8, 3)), LABELS)},
        r"val data has examples of shape \(3,\), but data_shape is \(2,\)",
    ),
    "a number each": ({"train": (torch.zeros(8), LABELS)}, r"shape \(\), but data_shape is \(2,"),
    "empty": ({"test": (points(shape=(8, 2))[:0], LABELS[:0])}, "test data is empty"),
    "negative label": (
        {"train": (points(), LABELS - 7)},
        "train labels must be at least 0, got -7 in example 0",
    ),
    "half a label": ({"val": (points(), LABELS + 0.5)}, "val labels must be exact .* got 0.5"),
    "no label": ({"val": (points(), LABELS.float() * torch.nan)}, "val labels must be .* got nan"),
    "labels too few": ({"train": (points(), LABELS[:5])}, r"labels must be of shape \(8,\).*\(5,"),
    "one-hot labels": ({"train": (points(), torch.eye(8))}, r"labels must be of .*got \(8, 8\)"),
    "images without channels": ({"data_shape": (8, 8)}, r"\(dim,\) or \(channels.*got \(8, 8\)"),
    "float images": (
        {"data_shape": (1, 4, 4), "train": (torch.rand(8, 1, 4, 4), LABELS)},
        "train images must be uint8, from 0 to 255, got torch.float32",
    ),
    "images beyond 255": (
        {"data_shape": (1, 4, 4), "train": (torch.full((8, 1, 4, 4), 256), LABELS)},
        "train data must be exact as uint8, got 256",
    ),
}


@pytest.mark.parametrize(("given", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_data_gets_one_line_that_names_the_value(given, message):
    with pytest.raises(ValueError, match=message) as error:
        Given(**given).setup("fit")
    assert "\n" not in str(error.value)


def test_a_split_that_is_missing_is_named():
    class Incomplete(Given):
        def load_splits(self):
            return {"train": super().load_splits()["train"]}

    with pytest.raises(ValueError, match="no data for test, val"):
        Incomplete().setup("fit")


def test_what_can_be_converted_is_converted():
    double = torch.randn(8, 2, dtype=torch.float64)
    whole = torch.arange(16).view(8, 2)
    data = Given(
        train=(double, np.arange(8, dtype=np.int32)),
        val=(whole, torch.arange(8.0)),
        test=(double.numpy(), torch.ones(8, dtype=torch.bool)),
    )
    data.setup("fit")
    assert torch.equal(data.splits["train"].data, double.float())
    assert torch.equal(data.splits["val"].data, whole.float())
    for split, labels in {"train": range(8), "val": range(8), "test": [1] * 8}.items():
        assert data.splits[split].data.dtype == torch.float32
        assert data.splits[split].labels.dtype == torch.int64
        assert data.splits[split].labels.tolist() == list(labels)
    grey = torch.randint(256, (8, 1, 4, 4))
    images = Given((1, 4, 4), train=(grey, LABELS))
    images.setup("fit")
    assert images.splits["train"].data.dtype == torch.uint8
    assert torch.equal(images.splits["train"].data.long(), grey)


def test_the_largest_values_that_are_accepted_have_finite_distances():
    largest = (torch.finfo(torch.float32).max / 2) ** 0.5 / 2
    data = Given(train=(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).repeat(4, 1) * largest, LABELS))
    data.setup("fit")
    x = data.splits["train"].data
    assert (x[0] - x[1]).square().sum().isfinite()


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
