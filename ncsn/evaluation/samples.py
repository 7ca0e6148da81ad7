"""Samples from any program: read from a file or a directory, and compared with data."""

import zipfile
import zlib
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from torch import Tensor

from ncsn import plots
from ncsn.evaluation.classifier import classifier_accuracy
from ncsn.evaluation.codec import is_deep
from ncsn.evaluation.estimate import MIN_SAMPLES
from ncsn.evaluation.images import Images
from ncsn.evaluation.kinds import Pictures, Reference, kind_of
from ncsn.evaluation.report import Report

LARGEST_VALUE = 30.0  # of what was measured of images, in units in which they are in [-1, 1]


def evaluate_samples(
    path: Path,
    data: str,
    reference: Reference,
    with_classifier: bool = False,
) -> tuple[Report, Pictures]:
    """Compare samples in a file or a directory with data.

    If there are more samples than held-out examples, a fixed random subset of them is compared, so
    that the floor comes from equally many examples.

    Args:
        path: See :func:`read_samples`.
        data: What the data is called in the report.
        reference: The data, as it is stored.
        with_classifier: Whether to compute :func:`ncsn.evaluation.classifier.classifier_accuracy`
            as well, from all samples and their labels.

    Returns:
        The report, and pictures by name.

    Raises:
        ValueError: If samples do not fit the data, or there are too few of either.
        OSError: If a file cannot be read.
    """
    shape = tuple(reference.train.shape[1:])
    kind = kind_of(shape)
    if with_classifier and not isinstance(kind, Images):
        raise ValueError(f"--classifier_accuracy is for images, and {data} has points")
    samples = everything = read_samples(path, shape)
    num, most = len(samples), kind.max_samples(reference)
    labels = read_labels(path, num) if with_classifier else None
    for each, count in ((path, num), (f"the test split of {data}", most)):
        if count < MIN_SAMPLES:
            raise ValueError(
                f"{each} has {count} examples, too few to compare: take at least {MIN_SAMPLES}"
            )
    if num > most:
        rows = torch.randperm(num, generator=torch.Generator().manual_seed(0))
        samples = samples[rows[: int(most)].sort().values]
    about = {
        "samples": str(path),
        "num_read": num,
        "num_samples": len(samples),
        "data": data,
        "time": datetime.now().isoformat(timespec="seconds"),
        **kind.notes(reference),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = kind.decode(samples.to(device))
    waiting = Console(stderr=True).status(f"Comparing {len(x):,} samples with {data}")
    with torch.inference_mode(), waiting:
        estimates, _, pictures = kind.evaluate(None, x, reference)
        with plots.optional("picture samples"):
            pictures |= kind.draw_samples(x[: kind.num_drawn], None, reference)
    if labels is not None:
        estimates |= classifier_accuracy(everything.to(device), labels, reference)
    return Report(about, estimates), pictures


def read_samples(
    path: Path, shape: tuple[int, ...], of: str = "the data", measured: bool = False
) -> Tensor:
    """Samples as data of a shape is stored: uint8 images, or float32 points.

    Args:
        path: A ``.npy``; an ``.npz`` with the array ``samples``, or with a single one; a PNG, or a
            directory with some, also in sub-directories. Arrays are images, uint8, of shape
            ``(n, height, width)``, ``(n, height, width, channels)`` or ``(n, channels, height,
            width)``, or points, numbers of shape ``(n, dim)``.
        shape: Shape of an example of the data.
        of: What has that shape, for messages.
        measured: Whether images may also be floats, in [-1, 1] but for their noise.

    Returns:
        Shape ``(n, *shape)``.

    Raises:
        ValueError: If these are not samples of such data, or if one is not finite.
        OSError: If there is no such file, or it cannot be read.
    """
    images = isinstance(kind_of(shape), Images)
    pngs = path.is_dir() or path.suffix.lower() == ".png"
    array = _read_pngs(path, shape) if pngs else _read_array(path)
    if not array.size:
        raise ValueError(f"{path} is empty")
    floats = np.issubdtype(array.dtype, np.floating)
    in_units = measured and floats and (array < 0).any()
    if images and array.dtype != np.uint8 and not in_units:
        which = " without a negative value" if measured and floats else ""
        raise ValueError(
            f"{path} has images of type {array.dtype}{which}, which may mean any range of "
            f"values: write uint8, from 0 to 255{', or floats from -1 to 1' if measured else ''}"
        )
    if in_units and images and np.nanmax(np.abs(array)) > LARGEST_VALUE:
        raise ValueError(
            f"{path} has values from {np.nanmin(array):.4g} to {np.nanmax(array):.4g}, and floats "
            "are from -1 to 1 but for their noise: write y / 127.5 - 1 of values from 0 to 255"
        )
    if not (np.issubdtype(array.dtype, np.integer) or floats):
        raise ValueError(f"{path} has values of type {array.dtype}: write numbers")
    dtype = torch.float32 if floats else kind_of(shape).stored_dtype
    samples = torch.from_numpy(np.ascontiguousarray(array)).to(dtype)
    if images and tuple(samples.shape[1:]) == (*shape[1:], shape[0]) != shape:
        samples = samples.permute(0, 3, 1, 2)
    if shape[0] == 1 and tuple(samples.shape[1:]) == shape[1:]:
        samples = samples.unsqueeze(1)
    if tuple(samples.shape[1:]) != shape:
        raise ValueError(
            f"{path} has samples of shape {tuple(samples.shape[1:])}, and {of} has {shape}"
        )
    bad = ~samples.flatten(1).isfinite().all(1)
    if bad.any():
        raise ValueError(
            f"{path}: {int(bad.sum())} of {len(samples)} samples are not finite (the first is "
            f"number {int(bad.nonzero()[0])})"
        )
    return samples.contiguous()


def read_labels(path: Path, num: int) -> Tensor:
    """The classes of samples: the array ``labels`` of an ``.npz``, integers of shape ``(num,)``.

    Raises:
        ValueError: If there are none, or they are not ``num`` integers.
    """
    found = np.load(path) if path.suffix == ".npz" else {}
    if "labels" not in found:
        raise ValueError(
            f"{path} has no labels, which --classifier_accuracy needs: give an .npz with the "
            "array 'labels', as predict writes of a class-conditional model"
        )
    labels = found["labels"]
    if labels.shape != (num,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path} has labels of type {labels.dtype} and shape {labels.shape}: write an integer "
            f"for each of the {num} samples"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _read_array(path: Path) -> np.ndarray:
    """The array ``samples`` of a file, or its only one."""
    try:
        found: Any = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found if found.ndim else found[None]
        with found:
            name = "samples" if "samples" in found.files else None
            if name is None and len(found.files) == 1:
                name = found.files[0]
            if name is not None:
                return found[name]
            names = ", ".join(found.files) or "none"
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is not an array of numbers (.npy, .npz) or a directory of PNGs: {error}"
        ) from error
    raise ValueError(f"{path} has the arrays {names}: call the one with the samples 'samples'")


def _read_pngs(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Images of shape ``(n, height, width, channels)``; all of the size of the first."""
    paths = [path]
    if path.is_dir():
        paths = sorted(each for each in path.rglob("*") if each.suffix.lower() == ".png")
    if not paths:
        raise ValueError(f"{path} has no PNGs")
    images: list[np.ndarray] = []
    for path, image in zip(paths, map(_read_png, paths), strict=True):
        if shape[0] == 1:
            if (image != image[..., :1]).any():
                raise ValueError(f"{path} has colours, and the data has grey values")
            image = image[..., :1]
        if images and image.shape != images[0].shape:
            sizes = " and ".join("x".join(map(str, each.shape[:2])) for each in (image, images[0]))
            raise ValueError(f"{path} and {paths[0]} differ in size: {sizes} pixels")
        images.append(image)
    return np.stack(images)


def _read_png(path: Path) -> np.ndarray:
    """An image of shape ``(height, width, 3)``, whatever colours the file is written in."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if is_deep(image):
                raise ValueError(f"{path} has more than 8 bits a channel")
            rgba = np.asarray(image.convert("RGBA"))
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path} is not a PNG, or damaged") from error
    except OSError as error:  # PIL's of a file that ends early names no file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    if (rgba[..., 3] != 255).any():
        raise ValueError(f"{path} is transparent: write images without an alpha channel")
    return rgba[..., :3]
