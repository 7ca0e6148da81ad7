"""The config of a model in its checkpoints, in the form that ``load_from_checkpoint`` reads.

A checkpoint may come from anybody. The command line imports nothing that only a checkpoint names;
``load_from_checkpoint`` in Python imports and calls whatever it names: only for your own.
"""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.cli import instantiate_module


def model_to_store(class_path: str, init_args: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a model; Lightning would store links that do not apply, too."""
    instantiator = f"{instantiate_module.__module__}.{instantiate_module.__name__}"
    return {"_class_path": class_path, "_instantiator": instantiator, **init_args}


def model_from(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The model in a checkpoint, as a config names it; None if it was made in Python."""
    stored = dict(checkpoint.get("hyper_parameters", {}))
    stored.pop("_instantiator", None)
    class_path = stored.pop("_class_path", None)
    return class_path and {"class_path": class_path, "dict_kwargs": stored}
