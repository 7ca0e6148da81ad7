"""What may change between a training and its continuation, and what is said of the rest."""

from collections.abc import Iterator, Mapping
from typing import Any

FIXED_ARGUMENTS = (
    *("network", "parametrisation", "sigma", "sigma_min", "sigma_max", "num_levels", "ladder"),
    *("optimizer", "lr_scheduler", "lr_scheduler_interval"),
)  # of the model, which give the state in a checkpoint its meaning, or are part of it
SETTINGS = (
    *("seed_everything", "trainer.precision", "trainer.accumulate_grad_batches"),
    *("trainer.gradient_clip_val", "trainer.limit_train_batches", "trainer.devices"),
    *("trainer.num_nodes", "model.objective", "model.label_dropout", "model.level_density"),
)  # of a config, on which every step depends; so does all of the data and of the average


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
    if sigma_max != trained and sigma_max is not None:
        raise ValueError(
            f"the checkpoint was trained with sigma_max=auto={trained:.4g}, but this data gives "
            f"{sigma_max:.4g}: give the data of the training"
        )


def check_same_model(checkpoint: Mapping[str, Any], hparams: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for another network, ladder, optimizer or schedule."""
    stored = checkpoint.get("hyper_parameters", {})
    for name in FIXED_ARGUMENTS if stored and hparams else ():
        before, now = (dict(_leaves(each.get(name), name)) for each in (stored, hparams))
        for key in before | now:
            if before.get(key) != now.get(key):
                raise ValueError(
                    f"the checkpoint was trained with model.{key}={before.get(key)}, and the "
                    f"config has {now.get(key)}: resume with the checkpoint's value, or train "
                    "again without --ckpt_path"
                )


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes a training under one config differ from that under another, each with values."""
    old, new = (
        {key: value for name in each for key, value in _leaves(each[name], name)}
        for each in (before, now)
    )
    if not old:
        return []
    return [
        f"{key}={new.get(key)} (was {old.get(key)})"
        for key in dict.fromkeys((*old, *new))
        if (key in SETTINGS or key.startswith(("data.", "ema."))) and key != "data.data_dir"
        if old.get(key) != new.get(key)
    ]


def _leaves(config: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values in a nested config, each with its dotted name."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _leaves(value, f"{name}.{key}" if key != "init_args" else name)
    else:
        yield name, list(config) if isinstance(config, tuple) else config
