"""Checkpoints: written in one piece, verified when read, and nothing but data.

Which ones a run writes, ``DEFAULTS`` in :mod:`ncsn.cli.parser` says.
"""

import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from ncsn.evaluation.files import replacing
from ncsn.modules.pretrained import WEIGHTS, read_pretrained

CHECKPOINTS = "checkpoints"  # a directory that a fit has, and other runs do not
LAST = "last.ckpt"  # from which a run resumes
PREVIOUS = "last.previous.ckpt"  # the one before, in case the last is damaged


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file, syncs it, and then replaces the target; verifies what it reads.

    So a full disk or a power failure leaves the previous file intact; for LAST, it is also kept.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; raises ``OSError`` if it cannot be written."""
        if not _is_local_file_protocol(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        previous = path.with_name(PREVIOUS) if path.name == LAST else None
        try:
            with replacing(path, previous) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's own hides that of the file
            errors = error, error.__cause__, error.__context__
            reason = next(filter(None, (getattr(e, "strerror", "") for e in errors)), error)
            intact = f"; {path} is that of an earlier step" if path.exists() else ""
            raise OSError(f"cannot write the checkpoint {path}: {reason}{intact}") from error

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """See :func:`load_checkpoint`."""
        return load_checkpoint(path)


class LastCheckpoint(ModelCheckpoint):
    """Saves at the end of an epoch even if it saves every so many steps or minutes, too."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the epoch, which Lightning leaves out then."""
        super().on_train_epoch_end(trainer, pl_module)
        if not (self.every_n_epochs or self._should_skip_saving_checkpoint(trainer)):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint or a folder to the CPU, and run nothing; ``ValueError`` if unreadable."""
    given = f"--ckpt_path {path}"
    if Path(path).is_dir():
        try:
            return read_pretrained(path)
        except ValueError as error:
            raise ValueError(f"{given}: {error}") from error
    if not Path(path).is_file():
        raise ValueError(f"{given} is not a file: give that of a checkpoint, or a model's folder")
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
    """MD5 of a checkpoint, or of the weights in a folder, to tell it from others."""
    path = Path(path)
    with (path / WEIGHTS if path.is_dir() else path).open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def find_last_checkpoint(run: Path, directory: Path | None = None) -> Path | None:
    """The last readable checkpoint of a run, in its ``checkpoints`` or in another directory.

    None if it has not saved one; raises ``ValueError`` if all are damaged.
    """
    directory = directory or run / CHECKPOINTS
    found = [path for name in (LAST, PREVIOUS) if (path := directory / name).is_file()]
    failures: list[ValueError] = []
    for path in found:
        try:
            load_checkpoint(path)
        except ValueError as error:
            failures.append(error)
        else:
            if failures:
                rank_zero_warn(f"{failures[0]}. Resuming from the one before it, {path}")
            return path
    if failures:
        raise failures[0]
    return None
