"""What a checkpoint says of its module and its training: what it may name, what may change."""

import importlib.util
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import yaml

FIXED_ARGUMENTS = (
    *("network", "parametrisation", "sigma", "sigma_min", "sigma_max", "num_levels", "ladder"),
    *("optimizer", "lr_scheduler", "lr_scheduler_interval"),
)
"""Arguments of the model without which the state in a checkpoint has another meaning."""

SETTINGS = (
    *("seed_everything", "trainer.precision", "trainer.accumulate_grad_batches"),
    *("trainer.gradient_clip_val", "trainer.gradient_clip_algorithm"),
    *("trainer.limit_train_batches", "trainer.devices"),
    *("trainer.num_nodes", "model.objective", "model.label_dropout", "model.level_density"),
)
"""Options on which every training step depends, in addition to all of ``data`` and ``ema``."""

WITHOUT_EFFECT = ("data.data_dir", "data.in_memory", "data.num_workers")
"""Options of the data on which no training step depends."""

SPLIT_OPTIONS = ("data.seed", "data.num_points", "data.val_fraction", "data.test_fraction")
"""Options of the data that decide which examples are held out."""

DATA_FILES = (".csv", ".npy", ".npz", ".pt", ".parquet", ".safetensors")  # never configs
TRUSTED = ("ncsn.", "torch.nn.", "torch.optim.")  # prefixes that may be imported


def check_class_paths(
    stored: Any, given: Any, remedy: str = "give the --config of its training"
) -> None:
    """Raise ``ValueError`` if a stored config would import or read something untrusted.

    Trusted is what the user names, and what belongs to this project or to torch. Every string that
    names an existing module or config file is checked, since it may stand for a class or function.

    Args:
        stored: The config, or a part of it.
        given: What the user gives: configs or texts.
        remedy: What the user can do.
    """
    named = set(_texts(given))
    modules = {text.rpartition(".")[0] for text in named}
    for text in _texts(stored):
        module, *parts = text.rpartition(".")[0], *text.split(".")
        known = text in named or module in modules
        known = known or (text.startswith(TRUSTED) and module in sys.modules)
        path = len(parts) > 1 and all(part.isidentifier() for part in parts)
        exists = parts[0] in sys.modules or (path and importlib.util.find_spec(parts[0]))
        config_file = os.path.isfile(text) and not text.endswith(DATA_FILES)
        if not known and (config_file or (path and exists)):
            raise ValueError(
                f"the checkpoint names {text}, which is not part of this project, and nothing but "
                f"what you name is imported: if you trust it, {remedy}"
            )


def check_same_data(checkpoint: Mapping[str, Any], module: Any) -> None:
    """Raise ``ValueError`` for data of another shape, or of another ``auto`` noise level."""
    stored = checkpoint.get("hyper_parameters", {})
    shape = tuple(stored.get("data_shape", module.data_shape))
    if shape != module.data_shape:
        raise ValueError(
            f"the checkpoint was trained on data of shape {shape}, but the config's data has "
            f"shape {module.data_shape}: give the config that belongs to the checkpoint"
        )
    sigma_max = getattr(module, "auto", {}).get("sigma_max")
    trained = stored.get("data_diameter", sigma_max)
    if sigma_max is None or trained is None:
        return
    if not math.isclose(sigma_max, trained, rel_tol=1e-4):  # another CPU rounds otherwise
        raise ValueError(
            f"the checkpoint was trained with sigma_max=auto={trained:.4g}, but this data gives "
            f"{sigma_max:.4g}: give the data of the training"
        )


def check_same_model(checkpoint: Mapping[str, Any], hparams: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for another network, ladder, optimizer or schedule."""
    if "optimizer_states" not in checkpoint:
        raise ValueError(
            "the checkpoint has weights alone (save_weights_only), so fit cannot resume from it; "
            "test and predict can use it"
        )
    stored = checkpoint.get("hyper_parameters", {})
    given = {name: hparams.get(name) for name in FIXED_ARGUMENTS if stored and hparams}
    for key, before, now in changed_arguments(stored, given):
        raise ValueError(
            f"the checkpoint was trained with model.{key}={before}, and the config has {now}: "
            "resume with the checkpoint's value, or train again without --ckpt_path"
        )


def changed_arguments(
    stored: Mapping[str, Any], given: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Which of ``given`` belong to ``FIXED_ARGUMENTS`` and differ: dotted name, before, now."""
    changed = []
    for name in FIXED_ARGUMENTS:
        if name in given:
            before, now = (dict(_leaves(each.get(name), name)) for each in (stored, given))
            keys = [key for key in before | now if before.get(key) != now.get(key)]
            changed += [(key, before.get(key), now.get(key)) for key in keys]
    return changed


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ between two trainings; none if the earlier config is unknown."""
    if not before:
        return []
    old, new = (
        {key: value for name in each for key, value in _leaves(each[name], name)}
        for each in (before, now)
    )
    return [
        f"{key}={new.get(key)} (was {old.get(key)})"
        for key in dict.fromkeys((*old, *new))
        if (key in SETTINGS or key.startswith(("data.", "ema."))) and key not in WITHOUT_EFFECT
        if old.get(key) != new.get(key)
    ]


def changed_split(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The options that make other examples held out than those of the training, as text."""
    old, new = (dict(_leaves(each.get("data", {}), "data")) for each in (before, now))
    if old.get("data.class_path") != new.get("data.class_path"):
        return []
    return [
        f"{name}={new[name]} (was {old[name]})"
        for name in SPLIT_OPTIONS
        if name in old and name in new and old[name] != new[name]
    ]


def _leaves(config: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values in a nested config, each with its dotted name."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _leaves(value, f"{name}.{key}" if key != "init_args" else name)
    else:
        yield name, list(config) if isinstance(config, tuple) else config


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
