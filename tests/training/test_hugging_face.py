"""Data sets of Hugging Face, from local files; without the package, one line says what to do."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import examples
from support.commands import error_line, smoke
from support.examples import CLASSES, COLOUR, in_order, read_in_order
from support.own_data import write_images

from ncsn.data import HuggingFaceDataModule, ImageFolderDataModule
from ncsn.data.decoded import LazyImages

POINTS = examples.POINTS[:, :3]


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The package, with its cache in the test's directory."""
    module = pytest.importorskip("datasets")
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    module.disable_progress_bars()
    return module


def load(path, **options):
    """All examples and labels, sorted, and the datamodule."""
    data = HuggingFaceDataModule(str(path), **{"batch_size": 4, **options})
    return *read_in_order(data), data


def write_pictures(datasets, path="saved"):
    """A data set with images, names of classes and a text."""
    names = datasets.ClassLabel(names=["ash", "birch", "cedar"])
    features = datasets.Features(
        {"image": datasets.Image(), "kind": names, "text": datasets.Value("string")}
    )
    columns = {
        "image": [Image.fromarray(image) for image in COLOUR],
        "kind": CLASSES.tolist(),
        "text": ["a"] * 40,
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(path)


def test_images_that_were_saved_to_disk_are_read_with_their_classes(datasets):
    write_pictures(datasets)
    images, labels, data = load("saved", labels="kind")
    expected = np.moveaxis(COLOUR, 3, 1)
    np.testing.assert_array_equal(images, expected[in_order(expected)])
    np.testing.assert_array_equal(labels, CLASSES[in_order(expected)])
    assert data.data_shape == (3, 6, 5)
    assert data.num_classes == 3
    assert data.data_std == pytest.approx(data.training_data.std().item(), rel=1e-5)


def test_workers_read_what_is_not_in_memory(datasets):
    write_pictures(datasets)
    held = load("saved", labels="kind", in_memory=True)[2]
    read = HuggingFaceDataModule(
        "saved", labels="kind", batch_size=4, in_memory=False, num_workers=2
    )
    read.setup("fit")
    assert isinstance(read.splits["train"], LazyImages)
    pairs = zip(held.train_dataloader(), read.train_dataloader(), strict=True)
    for (x, label), (other, other_label) in pairs:
        assert torch.equal(x, other)
        assert torch.equal(label, other_label)
    assert (read.data_mean, read.data_std) == (held.data_mean, held.data_std)


@pytest.mark.parametrize("kind", ["parquet", "csv", "saved", "splits"])
def test_columns_of_numbers_are_points(datasets, kind):
    columns = {"a": POINTS[:, 0], "b": POINTS[:, 1], "c": POINTS[:, 2]}
    table = datasets.Dataset.from_dict({**columns, "tree": [f"t{i}" for i in CLASSES]})
    path = {"parquet": "points.parquet", "csv": "points.csv"}.get(kind, kind)
    if kind in ("parquet", "csv"):
        getattr(table, f"to_{kind}")(path)
    elif kind == "saved":
        table.save_to_disk(path)
    else:
        datasets.DatasetDict({"train": table, "other": table.take(3)}).save_to_disk(path)
    points, labels, data = load(path, labels="tree")
    expected = POINTS.astype(np.float32)
    np.testing.assert_allclose(points, expected[in_order(expected)], rtol=1e-6)
    np.testing.assert_array_equal(labels, CLASSES[in_order(expected)])
    assert data.data_shape == (3,)
    assert load(path, columns=["c", "a"])[2].data_shape == (2,)


def test_a_column_may_have_a_point_or_an_image_as_an_array_in_each_row(datasets):
    datasets.Dataset.from_dict({"x": POINTS}).to_parquet("points.parquet")
    assert load("points.parquet")[2].data_shape == (3,)
    features = datasets.Features({"x": datasets.Array2D((6, 5), "uint8")})
    grey = datasets.Dataset.from_dict({"x": COLOUR[..., 0]}, features=features)
    grey.save_to_disk("grey")
    images, _, data = load("grey")
    assert data.data_shape == (1, 6, 5)
    assert images.dtype == np.uint8


def test_a_folder_of_images_is_read_as_by_the_datamodule_of_folders(datasets):
    write_images()  # in sub-folders, which are classes
    images, labels, _ = load("images", labels="label", size=8)
    folder = ImageFolderDataModule(Path("images"), size=8, batch_size=4)
    expected = torch.cat([folder.splits[name].data for name in ("train", "val", "test")]).numpy()
    classes = torch.cat([folder.splits[name].labels for name in ("train", "val", "test")]).numpy()
    np.testing.assert_array_equal(images, expected[in_order(expected)])
    np.testing.assert_array_equal(labels, classes[in_order(expected)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "tree"}, "--data.labels tree: saved has the columns image, kind, text"),
        ({"columns": ["pixels"]}, "--data.columns pixels: saved has the columns image, kind"),
        ({"columns": ["text"]}, "--data.columns text must hold numbers, got an array of"),
        ({"columns": ["kind"], "size": 8}, "--data.size and --data.grayscale are for image"),
        ({"split": "train[:10%]"}, "it has one part, so leave --data.split out"),
        ({"columns": ["image", "kind"]}, "choose one of the columns with --data.columns"),
        ({"path": "none/such"}, "--data.path none/such, --data.split train: cannot be loaded: "),
        ({"path": "note.txt"}, "--data.path note.txt, --data.split train: cannot be loaded: "),
    ],
)
def test_a_mistake_gets_one_line_that_names_it(datasets, options, message, monkeypatch):
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setattr(datasets.config, variable, True, raising=False)
    write_pictures(datasets)
    Path("note.txt").write_text("a")
    with pytest.raises(ValueError, match=message) as error:
        load(**{"path": "saved", **options})
    assert "\n" not in str(error.value)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch, cli, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    data = ("--data", "HuggingFaceDataModule", "--data.path", "ylecun/mnist")
    assert cli("fit", *smoke("folder"), *data) == 1
    line = error_line(capsys.readouterr().err)
    assert line.endswith('needs the package datasets: pip install -e ".[datasets]"')
    assert list(Path().iterdir()) == []
