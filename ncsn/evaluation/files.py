"""Files of a run: written in one piece, and read as far as they are whole."""

import csv
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write to, which replaces ``path`` once it is on the disk.

    So a kill, a full disk or a power failure leaves what was there before, and nothing else.

    Args:
        path: The file to write.
        previous: Where to move the file that is replaced, instead of deleting it.

    Raises:
        OSError: If it cannot be written; names ``path``.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):  # not every file system can sync the new name
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_csv(path: Path, names: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as a table with the columns ``names``, in one piece."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``; those that are damaged are left out, with one warning.

    A row is whole if it has a step, and in all other columns a number or nothing.
    """
    if not path.is_file():
        return []
    header, *lines = path.read_text("utf-8-sig", errors="replace").splitlines() or [""]
    names = next(csv.reader([header]), [])
    cells = [line.split(",") for line in lines]
    whole = [
        row
        for row in cells
        if len(row) == len(names) and all(not cell or is_number(cell) for cell in row)
    ]
    rows = [dict(zip(names, row, strict=True)) for row in whole if _is_plain(header)]
    rows = [row for row in rows if row.get("step", "").isdecimal()]
    if len(rows) < len(lines):
        warnings.warn(f"{path}: {len(lines) - len(rows)} damaged rows are left out", stacklevel=2)
    return rows


def _is_plain(text: str) -> bool:
    return text.isprintable() and "\ufffd" not in text  # what undecodable bytes turn into


def is_number(text: str) -> bool:
    """Whether Python reads a text as a number; not if it is empty."""
    try:
        float(text)
    except ValueError:
        return False
    return True
