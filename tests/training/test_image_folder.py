"""A folder of images: what is read, into memory or by workers, and what is refused."""

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.examples import COLOUR, GREY, in_order, read_all

from ncsn.data import ImageFolderDataModule, checks, decoded
from ncsn.data.decoded import LazyImages


def write_image(path, pixels, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def write_images(folder, images=COLOUR, suffix="png"):
    for i, image in enumerate(images):
        write_image(Path(folder, f"{i:02d}.{suffix}"), image)


def load_folder(**options):
    data = ImageFolderDataModule(Path("images"), **{"batch_size": 4, **options})
    return *read_all(data), data


def test_a_flat_folder_has_one_class_and_every_image_once():
    write_images("images")
    Path("images/notes.txt").write_text("no image")
    write_image("images/.hidden/a.png", COLOUR[0])
    Path("images/._b.png").write_text("no image either")
    images, labels, data = load_folder()
    expected = np.moveaxis(COLOUR, 3, 1)
    np.testing.assert_array_equal(images[in_order(images)], expected[in_order(expected)])
    assert images.dtype == np.uint8
    assert not labels.any()
    assert data.data_shape == (3, 6, 5)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 32,
        "val": 4,
        "test": 4,
    }


def test_images_of_other_formats_are_left_out_with_a_warning():
    write_images("images")
    write_image("images/a.webp", COLOUR[0])
    write_image("images/b.tif", COLOUR[0])
    with pytest.warns(UserWarning, match=r"2 images, such as images/a\.webp, are left out"):
        assert len(load_folder()[0]) == 40


def test_sub_folders_are_classes_in_alphabetical_order():
    for name, part in {
        "cedar": COLOUR[:9],
        "ash/inner": COLOUR[9:20],
        "birch": COLOUR[20:],
    }.items():
        write_images(f"images/{name}", part)
    images, labels, data = load_folder()
    found = np.concatenate([images[labels == number] for number in (2, 0, 1)])
    for part in (slice(0, 9), slice(9, 20), slice(20, 40)):
        expected = np.moveaxis(COLOUR[part], 3, 1)
        np.testing.assert_array_equal(
            found[part][in_order(found[part])], expected[in_order(expected)]
        )
    assert data.num_classes == 3


def test_the_split_of_a_folder_depends_on_its_seed_alone():
    write_images("images")
    first, again, other = (load_folder(seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_are_resized_by_their_shorter_side_and_cropped_in_the_centre():
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, 12:68] = (200, 100, 0)  # the square in the middle, and what is mixed into it
    for i in range(8):
        write_image(f"images/{i}.png", wide if i % 2 else wide.transpose(1, 0, 2))
    images, _, data = load_folder(size=10)
    assert data.data_shape == (3, 10, 10)
    expected = np.array([200, 100, 0])[:, None, None]
    np.testing.assert_allclose(images.astype(int), np.broadcast_to(expected, images.shape), atol=2)


def test_grey_images_have_one_channel_and_become_coloured_on_request():
    write_images("images", GREY)
    images, _, data = load_folder(grayscale=True)
    assert data.data_shape == (1, 6, 5)
    np.testing.assert_array_equal(images[in_order(images), 0], GREY[in_order(GREY)])
    assert load_folder()[2].data_shape == (3, 6, 5)


def test_a_photograph_is_turned_as_its_camera_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees
    pixels = np.zeros((8, 16), dtype=np.uint8)
    for i in range(8):
        write_image(f"images/{i}.jpeg", pixels, exif=exif)
    assert load_folder(grayscale=True)[2].data_shape == (1, 16, 8)


def other_size():
    write_images("images")
    write_image("images/40.png", GREY[0].repeat(2, axis=0))


def damaged():
    write_images("images", suffix="jpg")
    content = Path("images/07.jpg").read_bytes()
    Path("images/07.jpg").write_bytes(content[:-40])


def text_as_image():
    write_images("images")
    Path("images/a.png").write_text("a")


def sixteen_bits():
    write_images("images", GREY.astype(np.uint16))


def sixteen_bit_colours():
    """A PNG that PIL does not write."""

    def chunk(name, content):
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    write_images("images")
    pixels = zlib.compress(6 * (b"\0" + 5 * 3 * b"\1\2"))
    header = struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    Path("images/a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def classes_and_others():
    write_images("images")
    write_images("images/ash")


def two_splits():
    for split in ("Train", "val"):
        write_images(f"images/{split}")


FOLDERS = {
    "none": (lambda: None, {}, "--data.folder images is not a directory"),
    "empty": (Path("images").mkdir, {}, r"--data.folder images holds no images \(\.png"),
    "other size": (other_size, {}, "5x6 pixels .* 5x12.*: give --data.size|5x12 .* 5x6"),
    "damaged": (damaged, {}, "images/07.jpg cannot be read: "),
    "text": (text_as_image, {}, "a.png can"),
    "16 bits": (sixteen_bits, {}, "cannot be read: it has more than 8 bits a channel"),
    "16 bits in colour": (sixteen_bit_colours, {}, "a.png cannot be read: it has more than 8"),
    "classes and others": (classes_and_others, {}, "both in sub-folders, such as ash, which"),
    "splits": (two_splits, {}, "sub-folders Train, val, which are splits.*such as images/Train"),
    "size": (lambda: None, {"size": 0}, "data.size must be at least 1"),
}


@pytest.mark.parametrize(("make", "options", "message"), FOLDERS.values(), ids=FOLDERS)
def test_a_fault_of_a_folder_gets_one_line_that_names_it(make, options, message):
    make()
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_folder(**options)
    assert "\n" not in str(error.value)


def test_a_folder_that_has_to_be_in_memory_is_refused_before_it_is_read(monkeypatch):
    write_images("images")
    monkeypatch.setattr(checks, "available_memory", lambda: 3000)
    message = r"images needs 3\.6e-06 GB of memory, and 3e-06 GB are .* leave out --data\.in_mem"
    with pytest.raises(MemoryError, match=message):
        load_folder(in_memory=True)


# ---- a folder that is read by workers ----


def batches(data, loader="train_dataloader"):
    return [(x.clone(), label.clone()) for x, label in getattr(data, loader)()]


def assert_same_batches(first, second):
    assert len(first) == len(second)
    for (x, label), (other, other_label) in zip(first, second, strict=True):
        assert torch.equal(x, other)
        assert torch.equal(label, other_label)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_give_the_batches_and_statistics_of_a_folder_in_memory(num_workers):
    write_images("images/ash", COLOUR[:15])
    write_images("images/birch", COLOUR[15:])
    held = load_folder(in_memory=True)[2]
    read = ImageFolderDataModule(
        Path("images"), batch_size=4, in_memory=False, num_workers=num_workers
    )
    read.setup("fit")
    assert isinstance(read.splits["train"], LazyImages)
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        assert_same_batches(batches(held, loader), batches(read, loader))
    for name in ("data_shape", "data_mean", "data_std", "data_diameter", "num_classes"):
        assert getattr(held, name) == getattr(read, name), name
    x = held.training_data
    assert read.data_mean == pytest.approx(x.double().mean().item(), abs=1e-9)
    assert read.data_std == pytest.approx(x.double().std().item(), rel=1e-9)


def test_a_folder_is_read_by_workers_if_it_would_take_half_of_the_memory(monkeypatch):
    write_images("images")
    size = 40 * 3 * 6 * 5
    for available, held in ((2 * size, True), (2 * size - 2, False)):
        monkeypatch.setattr(checks, "available_memory", lambda available=available: available)
        data = load_folder()[2]
        assert isinstance(data.splits["train"], LazyImages) != held


def test_ranks_share_what_workers_read_and_an_epoch_begins_when_it_is_asked_for():
    write_images("images")

    def epoch(rank, number):
        data = ImageFolderDataModule(Path("images"), batch_size=4, in_memory=False, num_workers=2)
        data.setup("fit")
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank)
        loader = data.train_dataloader()
        begun = iter(loader)  # as Lightning does before it sets the epoch
        loader.sampler.set_epoch(number)
        return [image.numpy().tobytes() for x, _ in begun for image in x]

    first, second = epoch(0, 1), epoch(1, 1)
    assert len(set(first) | set(second)) == len(first) + len(second) == 32
    assert first == epoch(0, 1)
    assert first != epoch(0, 0)


def test_an_image_that_no_worker_could_read_is_found_at_the_start():
    write_images("images")
    for name in ("07.png", "23.png"):  # wherever they are split to
        content = Path("images", name).read_bytes()
        Path("images", name).write_bytes(content[:-40])
        with pytest.raises(ValueError, match=rf"images/{name} cannot be read: "):
            load_folder(in_memory=False)
        Path("images", name).write_bytes(content)
    write_image("images/41.png", GREY[0].repeat(2, axis=0))
    with pytest.raises(ValueError, match=r"5x12.*--data\.size to resize|5x6.*--data\.size to"):
        load_folder(in_memory=False)


def test_an_empty_split_is_refused_also_where_workers_read():
    write_images("images")
    with pytest.raises(ValueError, match=r"the val data is empty: change data\.val_fraction"):
        ImageFolderDataModule(Path("images"), val_fraction=0.001, in_memory=False).setup("fit")


@pytest.mark.parametrize(("first", "num_train", "num_test"), [(20, 20, 4), (3, 3, 3)])
def test_an_evaluation_says_that_it_sees_a_part_of_the_training_images(
    first, num_train, num_test, monkeypatch
):
    monkeypatch.setattr(decoded, "FIRST", first)
    write_images("images/ash", COLOUR[:15])
    write_images("images/birch", COLOUR[15:])
    data = ImageFolderDataModule(Path("images"), batch_size=4, in_memory=False)
    reference, whole = data.reference("test"), load_folder(in_memory=True)[2].reference("test")
    for name, num in {"train": num_train, "labels": num_train}.items():
        assert torch.equal(getattr(reference, name), getattr(whole, name)[:num])
    for name in ("held_out", "held_out_labels"):
        assert torch.equal(getattr(reference, name), getattr(whole, name)[:num_test])
    notes = data.kind.notes(reference)
    assert notes["training_data"] == f"the first {first} of 32 images, which are not in memory"
    assert "training_data" not in data.kind.notes(whole)
