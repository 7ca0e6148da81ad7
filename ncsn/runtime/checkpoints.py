"""Checkpoints: written in one piece, verified when read, and nothing but data.

Which ones a run writes, ``DEFAULTS`` in :mod:`ncsn.cli.parser` says.
"""

import hashlib
import os
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

LAST = "last.ckpt"  # from which a run resumes
PREVIOUS = "last.previous.ckpt"  # the one before, in case the last is damaged


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file, syncs it, and then replaces the target; verifies what it reads.

    So a full disk or a power failure leaves the previous file intact; that of LAST is also kept.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; raises ``OSError`` if it cannot be written."""
        if not _is_local_file_protocol(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        temporary = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                path.replace(path.with_name(PREVIOUS))
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # torch wraps those of the file
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            intact = f"; {path} is that of an earlier step" if path.exists() else ""
            raise OSError(f"cannot write the checkpoint {path}: {reason}{intact}") from error
        finally:
            with suppress(OSError):
                temporary.unlink()
        with suppress(OSError):  # not every file system can do this
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)  # the new name
            finally:
                os.close(directory)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """See :func:`load_checkpoint`."""
        return load_checkpoint(path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; run nothing that it contains; ``ValueError`` if unreadable."""
    given = f"--ckpt_path {path}"
    if not Path(path).is_file():
        raise ValueError(f"{given} is not a file: give that of a checkpoint")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{given} is not a checkpoint, or only a part of one")
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:  # compares the check sums
                raise zipfile.BadZipFile(f"the check sum of {damaged} is wrong")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{given} holds more than tensors and plain data, and to load it could run whatever "
            "its author wanted: refused"
        ) from error
    except OSError as error:
        raise ValueError(f"{given} cannot be read: {error.strerror}") from error
    except Exception as error:  # whatever foreign bytes may raise
        raise ValueError(f"{given} is damaged ({error}): give another one") from error
    if not (isinstance(checkpoint, dict) and "state_dict" in checkpoint):
        raise ValueError(f"{given} is not a checkpoint: it has no state_dict")
    return checkpoint


def checksum(path: str | Path) -> str:
    """MD5 of a file, to tell it from others."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def find_last_checkpoint(runs: Path) -> Path | None:
    """The last readable checkpoint of the run in ``runs/*/checkpoints`` that saved last.

    None if no run has saved one; raises ``ValueError`` if all of that run are damaged.
    """
    found = [path for name in (LAST, PREVIOUS) for path in runs.glob(f"*/checkpoints/{name}")]
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime).parent
    failures: list[ValueError] = []
    for path in (path for path in found if path.parent == newest):  # LAST comes first
        try:
            load_checkpoint(path)
        except ValueError as error:
            failures.append(error)
        else:
            if failures:
                rank_zero_warn(f"{failures[0]}. Resuming from the one before it, {path}")
            return path
    raise failures[0]
