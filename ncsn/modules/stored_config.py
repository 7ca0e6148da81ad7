"""The config in a checkpoint: of its model as ``load_from_checkpoint`` reads it, and of its run.

A checkpoint may come from anybody. The command line imports nothing that only a checkpoint names;
``load_from_checkpoint`` in Python imports and calls whatever it names: only for your own.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.cli import instantiate_module

from ncsn.modules.links import DATA_LINKS, NETWORK_LINKS
from ncsn.modules.stored import check_class_paths

Module = TypeVar("Module", bound=pl.LightningModule)

NAMES = ("precision", "gradient_clip_algorithm", "monitor", "mode")
"""What a stored trainer's and a stored checkpoint callback's settings may say in words."""

WITHOUT_DATA = ("predict", "restore", "export")
"""Commands that need no more of the data than its shape and statistics."""

STATISTICS = "ncsn.data.StoredStatistics"


def model_to_store(class_path: str, init_args: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a model; Lightning would store links that do not apply, too."""
    instantiator = f"{instantiate_module.__module__}.{instantiate_module.__name__}"
    return {"_class_path": class_path, "_instantiator": instantiator, **init_args}


def model_from(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The model in a checkpoint, as a config names it; None if it has no config."""
    stored = dict(checkpoint.get("hyper_parameters", {}))
    stored.pop("_instantiator", None)
    class_path = stored.pop("_class_path", None)
    return class_path and {"class_path": class_path, "dict_kwargs": stored}


def module_from(cls: type[Module], checkpoint: Mapping[str, Any]) -> Module:
    """The module that a checkpoint's config describes, with freshly initialised weights."""
    stored = dict(checkpoint["hyper_parameters"])
    stored.pop("_instantiator", None)
    return instantiate_module(cls, stored)


def config_from(
    checkpoint: Mapping[str, Any], command: str, args: Iterable[str]
) -> dict[str, Any] | None:
    """What a command needs of the config in a checkpoint; None if that has none.

    That is what the results depend on: the model and the data, of which some need no more than
    shape and statistics, and for ``fit`` also the settings of the training. Devices, loggers,
    callbacks and paths to write to are not taken from a file that may come from anybody.

    Args:
        checkpoint: The checkpoint.
        command: Name of the command.
        args: The options of the command line.

    Raises:
        ValueError: If it would import what the options do not name.
    """
    stored, model = checkpoint.get("config", {}), model_from(checkpoint)
    if not model or (command == "fit" and not stored):
        return None
    names = {"seed_everything", "data"} & stored.keys()
    config = {name: stored[name] for name in sorted(names)} | {"model": _without_links(model)}
    args = list(args)
    if command == "fit":
        names = {"model", "ema", "features"} & stored.keys()
        config |= {name: stored[name] for name in sorted(names)}
        sections = {"trainer", "best", "last"} & stored.keys()
        config |= {name: _settings(stored[name]) for name in sorted(sections)}
    elif command in WITHOUT_DATA and not any(arg.startswith("--data") for arg in args):
        init_args = model["dict_kwargs"]
        links = {name: init_args[name] for name in DATA_LINKS if name in init_args}
        config["data"] = {"class_path": STATISTICS, "init_args": links}
    check_class_paths(config, [text for arg in args for text in (arg, arg.partition("=")[2])])
    return config | {"name": Path(str(stored["name"])).name} if "name" in stored else config


def _settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and choices of a section, except for those of the machine."""
    numbers = {name: each for name, each in section.items() if isinstance(each, int | float)}
    numbers |= {name: section[name] for name in NAMES if name in section}
    return {name: each for name, each in numbers.items() if name not in ("devices", "num_nodes")}


def _without_links(model: Mapping[str, Any]) -> dict[str, Any]:
    """A stored model as a user would write it: without what it gets from the data."""
    init_args = deepcopy(model["dict_kwargs"])
    network = init_args.get("network")
    inner = network.get("init_args", {}) if isinstance(network, dict) else {}
    for names, where in ((DATA_LINKS, init_args), (NETWORK_LINKS, inner)):
        for name in names:
            where.pop(name, None)
    return {"class_path": model["class_path"], "init_args": init_args}
