"""Modules that are stored and made again: in checkpoints, and in folders to share."""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, cast

import lightning.pytorch as pl

from ncsn.config import Configured, config_of
from ncsn.modules.pretrained import load_pretrained, write_pretrained
from ncsn.modules.stored_config import model_from, model_to_store

OF_TRAINING = ("optimizer", "lr_scheduler", "lr_scheduler_interval", "preview")
"""Arguments that a finished model does without."""


class StorableModule(pl.LightningModule, Configured):
    """Knows what it was made of, from the command line or in Python."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the module was made of, which the command line has done for its own.

        Lightning leaves callbacks out of checkpoints with weights alone. They are called here: the
        weights are then the average, and the config of the run is there.
        """
        if "callbacks" not in checkpoint:
            for callback in cast(Any, self.trainer).callbacks:
                callback.on_save_checkpoint(self.trainer, self, checkpoint)
            checkpoint.pop("current_model_state", None)  # with which a training resumes
        with suppress(ValueError):  # then load_from_checkpoint says what it needs
            checkpoint["hyper_parameters"] = dict(self.hparams) or model_to_store(
                **self.describe()
            )

    def describe(self) -> dict[str, Any]:
        """Class path and arguments, as plain data, without those of the training.

        Raises:
            ValueError: If plain data cannot describe an argument.
        """
        if (model := model_from({"hyper_parameters": self.hparams})) is not None:
            init_args = {k: v for k, v in model["dict_kwargs"].items() if k not in OF_TRAINING}
            return {"class_path": model["class_path"], "init_args": init_args}
        return config_of(self, leave_out=OF_TRAINING)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, *args: Any, **kwargs: Any
    ) -> Self:
        """See Lightning's.

        Raises:
            ValueError: If the checkpoint does not say what the module was made of.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except TypeError as error:
            raise ValueError(
                f"{checkpoint_path} does not say what its module was made of ({error}): pass the "
                "arguments of its training, load_from_checkpoint(path, network=..., ...)"
            ) from error

    def save_pretrained(self, directory: str | Path, **about: Any) -> None:
        """Write weights, config and a model card; see :func:`write_pretrained` for ``about``.

        Raises:
            ValueError: If plain data cannot describe what the module was made of.
        """
        write_pretrained(self, self.describe(), directory, **about)

    @classmethod
    def from_pretrained(cls, directory: str | Path, trust: Collection[str] = ()) -> Self:
        """The module that :meth:`save_pretrained` wrote; see :func:`load_pretrained`."""
        return load_pretrained(cls, directory, trust)
