"""The config of a model in its checkpoints, in the form that ``load_from_checkpoint`` reads.

A checkpoint may come from anybody. The command line imports nothing that only a checkpoint names;
``load_from_checkpoint`` in Python imports and calls whatever it names: only for your own.
"""

import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import yaml
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


TRUSTED = ("ncsn.", "torch.nn.", "torch.optim.")


def check_class_paths(model: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for what a stored model would import or read that no one else names.

    That is neither in the user's config nor part of this project or torch. Any text counts that
    names a module or a file that exists: it may be where a class or a function belongs.
    """
    named = set(_texts(config))
    modules = {text.rpartition(".")[0] for text in named}
    for text in _texts(model):
        module, *parts = text.rpartition(".")[0], *text.split(".")
        known = text in named or module in modules
        known = known or (text.startswith(TRUSTED) and module in sys.modules)
        path = len(parts) > 1 and all(part.isidentifier() for part in parts)
        if not known and (os.path.isfile(text) or (path and importlib.util.find_spec(parts[0]))):
            raise ValueError(
                f"the checkpoint names {text}, which is not part of this project, and nothing but "
                "what you name is imported: if you trust it, give the --config of its training"
            )


def _texts(config: Any) -> Iterator[str]:
    """All texts in a nested config; jsonargparse reads each as YAML."""
    if isinstance(config, str):
        yield config
        with suppress(yaml.YAMLError):
            content = yaml.safe_load(config)
            yield from _texts(content) if content != config else ()
    elif isinstance(config, Mapping | list | tuple | set):
        for value in config.values() if isinstance(config, Mapping) else config:
            yield from _texts(value)


def find_parameter(cls: type, name: str) -> inspect.Parameter | None:
    """The parameter of a class, if need be one that it passes on to its parent; None if none."""
    parameters = inspect.signature(cls).parameters
    passes_on = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    return parameters.get(name) or (find_parameter(cls.__mro__[1], name) if passes_on else None)
