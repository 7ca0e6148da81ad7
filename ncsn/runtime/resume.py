"""Resuming: what may change, and where a run continues."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from ncsn.runtime.checkpoints import load_checkpoint

FIXED_ARGUMENTS = (
    *("network", "parametrisation", "sigma", "sigma_min", "sigma_max", "num_levels", "ladder"),
    *("optimizer", "lr_scheduler", "lr_scheduler_interval"),
)  # of the model, which give the state in a checkpoint its meaning, or are part of it


class Resume(Callback):
    """Corrects the progress in a checkpoint, so that a run resumes where it was interrupted.

    Batches whose accumulated gradients were not saved are taken again. A validation that was due
    and the end of an epoch are repeated: Lightning would skip both and lose count of epochs.
    """

    at_epoch_end = False

    def on_load_checkpoint(self, trainer: Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """Correct the progress that Lightning is about to restore."""
        if trainer.state.fn != TrainerFn.FITTING or "loops" not in checkpoint:
            return
        loop = checkpoint["loops"]["fit_loop"]
        progress, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]["current"]
        current, total = progress["current"], progress["total"]
        again = current["ready"] % trainer.accumulate_grad_batches
        if not progress["is_last_batch"]:
            for counts in (current, total):
                for name in counts:
                    counts[name] -= again
            # Lightning adds one to this at a step's end, after it is saved, and again on load.
            loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= bool(again)
        elif current["completed"] < current["ready"] and epochs["processed"] < epochs["started"]:
            # As if it had been saved by a signal at the start of the validation.
            self.at_epoch_end = True
            for counts in (current, total):
                counts["completed"] = counts["ready"]
            validation = loop["epoch_loop.val_loop.batch_progress"]
            for counts in (validation["current"], validation["total"]):
                counts.update(ready=1, started=1, processed=0, completed=0)
            validation["is_last_batch"] = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Repeat a validation that was due after the batch, and count the batch."""
        loop = trainer.fit_loop.epoch_loop
        in_epoch = loop.restarting and loop.batch_progress.current.ready
        fetcher: Any = trainer.fit_loop._data_fetcher
        due = in_epoch and loop._should_check_val_fx(fetcher)
        if self.at_epoch_end and not due:
            loop._batches_that_stepped += 1
        elif due and loop.restarted_on_train_batch_end:
            loop.batch_progress.increment_completed()
            repeat_validation(trainer)
            loop.update_restart_stage()
        self.at_epoch_end = False


def repeat_validation(trainer: Trainer) -> None:
    """Have Lightning see a validation of a fit as interrupted at its start."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.reset()
    progress.increment_ready()
    progress.increment_started()


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


@rank_zero_only
def keep_metrics(logger: CSVLogger, checkpoint: Path) -> None:
    """Keep the metrics of the steps before a checkpoint, which a new writer would delete."""
    path = Path(logger.log_dir) / "metrics.csv"
    stop = load_checkpoint(checkpoint)["global_step"]
    lines = path.read_text().splitlines() if path.is_file() else []
    rows: list[Any] = [row for row in csv.DictReader(lines) if int(row["step"]) < stop]
    logger.experiment.metrics.extend(rows)
    logger.save()


def _leaves(config: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values in a nested config, each with its dotted name."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _leaves(value, f"{name}.{key}" if key != "init_args" else name)
    else:
        yield name, list(config) if isinstance(config, tuple) else config
