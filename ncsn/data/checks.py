"""The checks of the data: when it is loaded, one line for each fault."""

import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def check_range(name: str, value: float | None, low: float, high: float = math.inf) -> None:
    """Check an argument of a datamodule.

    Raises:
        ValueError: If it is missing, or not in [low, high).
    """
    if value is None or not low <= value < high:
        limit = "finite" if high == math.inf else f"below {high:g}"
        raise ValueError(f"data.{name} must be at least {low:g} and {limit}, got {value}")


def check_memory(
    what: str, needed: int, remedy: str = "this data is held in memory as a whole"
) -> None:
    """Check that data fits into memory.

    Args:
        what: The option and the value that name the data.
        needed: Bytes that are needed.
        remedy: What the user can do, or has to know.

    Raises:
        MemoryError: If the machine has less memory available.
    """
    available = available_memory()
    if needed > available:
        raise MemoryError(
            f"{what} needs {needed / 1e9:.3g} GB of memory, and {available / 1e9:.3g} GB are "
            f"available: {remedy}"
        )


def available_memory() -> int:
    """Available bytes for this process, its share of those of :func:`memory_left`.

    SLURM and torchrun say how many processes of a job a machine has.
    """
    texts = (os.environ.get(name, "") for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"))
    num_processes = next((int(text) for text in texts if text.isdigit()), 1)
    return memory_left() // max(1, num_processes)


def memory_left() -> int:
    """Available bytes: on Linux what machine and job have left, else all that there is."""
    try:
        found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    if found is None:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([1024 * int(found[1]), *_left_to_groups(Path("/sys/fs/cgroup"))])


def _left_to_groups(root: Path, membership: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Bytes left to the control groups of this process (version 2), such as a SLURM job's."""
    left = []
    with suppress(OSError, ValueError):  # no such groups, or none that can be read
        group = root / membership.read_text().splitlines()[-1].split(":", 2)[2].lstrip("/")
        for each in (group, *group.parents[: len(group.parents) - len(root.parents)]):
            limit, used = each / "memory.max", each / "memory.current"
            if limit.is_file() and (most := limit.read_text().strip()) != "max":
                # Files that the kernel keeps in memory make room.
                cached = re.findall(
                    r"(?m)^(?:in)?active_file (\d+)", (each / "memory.stat").read_text()
                )
                left.append(int(most) - int(used.read_text()) + sum(map(int, cached)))
    return left


def check_data(
    split: str, data: Any, data_shape: tuple[int, ...], stored_dtype: torch.dtype
) -> Tensor:
    """The examples of a split as they are stored; what can be converted is converted.

    Args:
        split: Name of the split.
        data: Examples, shape ``(n, *data_shape)``.
        data_shape: Shape of one example.
        stored_dtype: uint8 for images, float32 for points.

    Raises:
        ValueError: If the data is empty, of another shape or type, or has values whose squared
            distances are not finite in float32.
    """
    data = torch.as_tensor(data)
    check_size(split, len(data))
    if tuple(data.shape[1:]) != tuple(data_shape):
        raise ValueError(
            f"the {split} data has examples of shape {tuple(data.shape[1:])}, but data_shape is "
            f"{tuple(data_shape)}"
        )
    if stored_dtype.is_floating_point:
        largest = (torch.finfo(stored_dtype).max / data[0].numel()) ** 0.5 / 2
        _refuse(~(data.abs() <= largest), data, f"{split} data", f"finite and below {largest:.1g}")
    elif data.is_floating_point():
        raise ValueError(f"the {split} images must be uint8, from 0 to 255, got {data.dtype}")
    return _convert(data, stored_dtype, f"{split} data")


def check_size(split: str, num: int) -> None:
    """Raise a ``ValueError`` if a split has no examples."""
    if not num:
        fraction = "test_fraction" if split == "test" else "val_fraction"
        raise ValueError(f"the {split} data is empty: change data.{fraction}")


def check_labels(split: str, labels: Any, num: int) -> Tensor:
    """The labels of ``num`` examples, int64.

    Raises:
        ValueError: If they are not as many integers of at least 0.
    """
    labels = torch.as_tensor(labels)
    if tuple(labels.shape) != (num,):
        raise ValueError(
            f"the {split} labels must be of shape ({num},), one per example, got "
            f"{tuple(labels.shape)}"
        )
    labels = _convert(labels, torch.int64, f"{split} labels")
    _refuse(labels < 0, labels, f"{split} labels", "at least 0")
    return labels


def _convert(values: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    """Values in another type; rounding float64 is allowed, all else must be exact."""
    converted = values.to(dtype)
    if not (values.is_floating_point() and dtype.is_floating_point):
        name = str(dtype).removeprefix("torch.")
        _refuse(converted.to(values.dtype) != values, values, what, f"exact as {name}")
    return converted


def _refuse(bad: Tensor, values: Tensor, what: str, requirement: str) -> None:
    if bad.any():
        first = bad.nonzero()[0].tolist()
        value = values[tuple(first)].item()
        raise ValueError(f"the {what} must be {requirement}, got {value:g} in example {first[0]}")
