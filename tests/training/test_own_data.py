"""Data from a user's files: what is read, how it is split, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.examples import CLASSES, COLOUR, GREY, POINTS, RNG, in_order, read_in_order

from ncsn.data import ArrayDataModule, checks


def load(path="data.npy", **options):
    data = ArrayDataModule(path, **{"batch_size": 4, **options})
    return *read_in_order(data), data


def write_csv(header="", labels=None, delimiter=","):
    rows = [[repr(float(number)) for number in point] for point in POINTS]
    if labels is not None:
        rows = [[*row[:2], str(label), *row[2:]] for row, label in zip(rows, labels, strict=True)]
    lines = [delimiter.join(row) for row in rows]
    with open("data.csv", "w") as file:
        file.write("\n".join([*([header] if header else []), *lines]) + "\n")


# ---- formats ----

WRITERS = {
    "npy": lambda: np.save("data.npy", POINTS),
    "npz": lambda: np.savez("data.npz", POINTS),
    "pt": lambda: torch.save(torch.from_numpy(POINTS), "data.pt"),
    "csv": write_csv,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_points_of_any_dimension_are_read_from_each_kind_of_file(kind):
    WRITERS[kind]()
    examples, labels, data = load(f"data.{kind}")
    points = POINTS.astype(np.float32)
    np.testing.assert_array_equal(examples, points[in_order(points)])
    assert not labels.any()
    train = data.splits["train"].data
    assert data.data_shape == (5,)
    assert data.data_mean == pytest.approx(train.mean().item(), abs=1e-6)
    assert data.data_std == pytest.approx(train.std().item(), rel=1e-5)
    assert data.data_diameter == pytest.approx(torch.pdist(train).max().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("header", "labels", "delimiter", "option"),
    [
        ("a,b,kind,d,e,f", CLASSES, ",", "kind"),
        ('"a"; "b"; "kind"; "d"; "e"; "f"', CLASSES, ";", "kind"),
        ("", CLASSES, "\t", "2"),
        ("", np.array(["ash", "birch", "cedar"])[CLASSES], ",", "2"),
        ("\ufeffa,b,tree,d,e,f", np.array(["ash", "birch", "cedar"])[CLASSES], ",", "tree"),
    ],
)
def test_a_table_may_name_its_columns_and_its_classes(header, labels, delimiter, option):
    write_csv(header, labels, delimiter)
    examples, found, data = load("data.csv", labels=option)
    points = POINTS.astype(np.float32)
    np.testing.assert_array_equal(examples, points[in_order(points)])
    np.testing.assert_array_equal(found, CLASSES[in_order(points)])
    assert data.num_classes == 3


def test_a_class_may_be_called_c_sharp():
    names = [("C", "C#", "F#")[i] for i in CLASSES]
    rows = [f"{x},{y},{name}" for (x, y), name in zip(POINTS[:, :2], names, strict=True)]
    Path("data.csv").write_text("\n".join(["x,y,language", *rows]))
    assert load("data.csv", labels="language")[2].num_classes == 3


def test_the_index_of_a_data_frame_is_not_taken_for_a_coordinate():
    Path("data.csv").write_text(",x,y\n0,1.5,2\n1,2.5,3\n")
    with pytest.raises(ValueError, match=r"a column without a name.*index=False"):
        load("data.csv")


@pytest.mark.parametrize("layout", ["grey", "channels last", "channels first"])
def test_images_come_with_channels_first_whatever_their_layout(layout):
    images = {
        "grey": GREY,
        "channels last": COLOUR,
        "channels first": np.moveaxis(COLOUR, 3, 1),
    }[layout]
    np.savez("data.npz", images=images, digits=CLASSES, unused=POINTS)
    examples, labels, data = load("data.npz", key="images", labels="digits")
    expected = GREY[:, None] if layout == "grey" else np.moveaxis(COLOUR, 3, 1)
    order = in_order(expected)
    np.testing.assert_array_equal(examples, expected[order])
    np.testing.assert_array_equal(labels, CLASSES[order])
    assert data.data_shape == expected.shape[1:]
    assert examples.dtype == np.uint8


def test_labels_may_have_a_file_of_their_own_and_a_pt_file_names():
    np.save("data.npy", GREY)
    np.save("labels.npy", CLASSES.astype(">i2"))
    _, labels, _ = load(labels="labels.npy")
    np.testing.assert_array_equal(labels, CLASSES[in_order(GREY)])
    torch.save({"x": torch.from_numpy(GREY), "y": torch.from_numpy(CLASSES)}, "data.pt")
    np.testing.assert_array_equal(load("data.pt", labels="y")[1], labels)
    torch.save((torch.from_numpy(GREY), torch.from_numpy(CLASSES)), "pair.pt")
    np.testing.assert_array_equal(load("pair.pt", labels="1")[1], labels)


@pytest.mark.parametrize("header", [[], ["tree"]])
def test_labels_may_be_a_column_of_names_in_a_file_of_its_own(header):
    np.save("data.npy", POINTS)
    names = [("ash", "birch", "cedar")[i] for i in CLASSES]
    Path("trees.csv").write_text("\n".join([*header, *names]))
    if header:
        assert (
            load(labels="trees.csv")[1].tolist()
            == CLASSES[in_order(POINTS.astype(np.float32))].tolist()
        )
    else:  # nothing tells a name of the column from a class
        with pytest.raises(ValueError, match=r"has 39 labels for 40 examples"):
            load(labels="trees.csv")


def test_numbers_are_points_on_a_line():
    np.save("data.npy", POINTS[:, 0].astype(">f4"))
    assert load()[2].data_shape == (1,)


# ---- splits ----


def test_the_split_has_the_asked_sizes_and_depends_on_its_seed_alone():
    np.save("data.npy", POINTS)

    def splits(**options):
        data = load(val_fraction=0.25, **options)[2].splits
        return {name: split.data for name, split in data.items()}

    first = splits(test_fraction=0.1, seed=1)
    assert {name: len(part) for name, part in first.items()} == {"train": 26, "val": 10, "test": 4}
    torch.manual_seed(17)
    again, other = splits(test_fraction=0.1, seed=1), splits(test_fraction=0.1, seed=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["val"], other["val"])
    both = splits(test_fraction=0.0)
    assert torch.equal(both["val"], both["test"])
    assert len(both["train"]) == 30


# ---- statistics ----


def test_statistics_do_not_depend_on_how_much_is_decoded_at_a_time():
    images = RNG.integers(256, size=(6000, 60, 60), dtype=np.uint8)  # decoded in two parts
    images[:20], images[20:40] = 0, 255
    np.save("data.npy", images)
    data = ArrayDataModule("data.npy")
    x = data.training_data
    assert data.data_mean == pytest.approx(x.double().mean().item(), abs=1e-6)
    assert data.data_std == pytest.approx(x.double().std().item(), rel=1e-6)
    assert data.data_diameter == pytest.approx(2 * 60, rel=1e-6)


# ---- mistakes ----


def text(content, path="data.csv"):
    return lambda: open(path, "w").write(content)


def save(path="data.npy", **arrays):
    single = "x" in arrays and len(arrays) == 1
    return lambda: np.save(path, arrays["x"]) if single else np.savez("data.npz", **arrays)


FAULTS = {
    "no file": (lambda: None, {}, r"--data\.path data\.npy is not a file"),
    "kind": (
        text("1", "data.txt"),
        {"path": "data.txt"},
        r"data\.txt is not a \.npy",
    ),
    "damaged": (text("1,2", "data.npy"), {}, r"--data\.path data\.npy cannot be read: "),
    "empty file": (text("", "data.npy"), {}, "cannot be read: "),
    "no zip": (text("1", "data.npz"), {"path": "data.npz"}, "cannot be read: "),
    "no checkpoint": (text("1", "data.pt"), {"path": "data.pt"}, "cannot be read: it is damaged"),
    "objects": (save(x=np.array([{}] * 40)), {}, "cannot be read: .*allow_pickle"),
    "text": (save(x=np.array(["a"] * 40)), {}, "must hold numbers, got an array of <U1"),
    "truth": (save(x=GREY > 9), {}, r"must hold real numbers, got torch\.bool"),
    "several": (
        save(a=GREY, b=GREY),
        {"path": "data.npz"},
        r"data\.npz holds several arrays: choose --data\.key from a, b",
    ),
    "no such key": (
        save(a=GREY, b=GREY),
        {"path": "data.npz", "key": "c"},
        r"holds no array c: choose --data\.key from a, b",
    ),
    "no such labels": (
        save(a=GREY, b=GREY),
        {"path": "data.npz", "labels": "c"},
        r"--data\.labels c: neither a file nor one of a, b in data\.npz",
    ),
    "few labels": (
        save(a=GREY, b=CLASSES[:9]),
        {"path": "data.npz", "labels": "b"},
        r"--data\.labels b has 9 labels for 40 examples",
    ),
    "four channels": (
        save(x=np.zeros((40, 6, 5, 4), dtype=np.uint8)),
        {},
        r"has the shape \(40, 6, 5, 4\): images must have 1 or 3 channels",
    ),
    "which channels": (
        save(x=np.zeros((40, 3, 5, 3), dtype=np.uint8)),
        {},
        "1 or 3 channels, either before or after",
    ),
    "float images": (save(x=COLOUR / 255), {}, "must be uint8, from 0 to 255"),
    "nan": (save(x=np.where(POINTS > 2, np.nan, POINTS)), {}, "must be finite .* got nan"),
    "text in a table": (text("1,2\n3,oak\n"), {"path": "data.csv"}, "cannot be read: .*oak"),
    "ragged table": (text("1,2\n3\n"), {"path": "data.csv"}, "cannot be read: "),
    "longer rows": (text("x,y\n1,2\n3,4,5\n"), {"path": "data.csv"}, "cannot be read: "),
    "numbers of rows": (
        text("x,y,kind\n1,0.5,2,oak\n2,3,4,ash\n"),
        {"path": "data.csv", "labels": "kind"},
        "3 columns and the next has 4, maybe with the number of the row",
    ),
    "numbers of columns": (
        text("0,1\n0.5,2\n3,4\n"),
        {"path": "data.csv"},
        "counts its columns, as pandas does .* header=False",
    ),
    "half a header": (text("a,2\n1,2\n"), {"path": "data.csv"}, "must name all columns or none"),
    "empty table": (text(""), {"path": "data.csv"}, "its first line is empty"),
    "missing class": (
        text('a,b\n1,"oak"\n2,""\n'),
        {"path": "data.csv", "labels": "b"},
        "a label is missing in example 1",
    ),
    "no test data": (save(x=POINTS), {"test_fraction": 0.001}, r"empty: change data\.test_fr"),
}


@pytest.mark.parametrize(("make", "options", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_a_file_gets_one_line_that_names_it(make, options, message):
    make()
    with pytest.raises((ValueError, OSError), match=message) as error:
        load(**options)
    assert "\n" not in str(error.value)


def test_a_split_that_leaves_nothing_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match=r"val_fraction=0\.5 and data\.test_fraction=0\.5 leave"):
        ArrayDataModule("missing.npy", val_fraction=0.5, test_fraction=0.5)


def test_a_file_larger_than_the_memory_is_refused(monkeypatch):
    np.save("data.npy", POINTS)
    monkeypatch.setattr(checks, "available_memory", lambda: 2000)
    with pytest.raises(MemoryError, match=r"--data\.path data\.npy needs 3\.46e-06 GB of memory"):
        load()


def test_this_machine_has_memory_which_processes_share(monkeypatch):
    assert checks.available_memory() > 2**20
    monkeypatch.setattr(checks, "memory_left", lambda: 8000)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "8")
    assert checks.available_memory() == 1000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert checks.available_memory() == 4000


def test_memory_is_what_the_groups_of_a_job_have_left(tmp_path):
    step = tmp_path / "groups/job/step"
    step.mkdir(parents=True)
    limits = {step: "max", step.parent: "1000", tmp_path / "groups": "5000"}
    for group, limit in limits.items():
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text("700\n")
        (group / "memory.stat").write_text("active_file 50\ninactive_file 150\n")
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    assert checks._left_to_groups(tmp_path / "groups", tmp_path / "cgroup") == [500, 4500]
    assert checks._left_to_groups(tmp_path / "nowhere", tmp_path / "cgroup") == []
