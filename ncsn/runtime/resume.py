"""Resuming: what may change, and where a run continues."""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer

from ncsn.data.batches import LazyLoader, ResumableSampler
from ncsn.random import Stream, global_seed, seeded_generator

MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}  # shaped as weights


class Resume(Callback):
    """Corrects the progress in a checkpoint, so that a run resumes where it was interrupted.

    Batches whose accumulated gradients were not saved are taken again. A validation that was due
    and the end of an epoch are repeated: Lightning would skip both and lose count of epochs. An
    epoch that ended before its last batch is continued, and one that ended is not ended again.
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
            if 0 < epochs["processed"] == epochs["started"]:  # max_steps or max_time ended it
                for counts in loop["epoch_progress"].values():
                    counts["processed"] -= 1
                    counts["completed"] = min(counts["completed"], counts["processed"])
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
        check_moments(trainer.optimizers)
        if trainer.ckpt_path and (names := not_exact(trainer)):
            rank_zero_warn(
                f"this run will not end exactly like an uninterrupted one: {'; '.join(names)}"
            )
        end_finished_epoch(trainer)
        loop = trainer.fit_loop.epoch_loop
        in_epoch = loop.restarting and loop.batch_progress.current.ready
        due = in_epoch and validation_is_due(trainer)
        if self.at_epoch_end and not due:
            loop._batches_that_stepped += 1
        elif due and loop.restarted_on_train_batch_end:
            loop.batch_progress.increment_completed()
            repeat_validation(trainer)
            loop.update_restart_stage()
        self.at_epoch_end = False

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Make what draws from the global random states, such as dropout, depend on the batch."""
        key = global_seed(), trainer.global_rank, trainer.current_epoch, batch_idx
        seed = seeded_generator(Stream.GLOBAL, *key).initial_seed()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)


def end_finished_epoch(trainer: Trainer) -> None:
    """Have Lightning begin the next epoch: with ``max_steps`` it would end the last one twice."""
    loop = trainer.fit_loop
    if not (loop.restarted_on_epoch_end and loop.epoch_loop.batch_progress.is_last_batch):
        return
    counts: Any
    for counts in (loop.epoch_progress.current, loop.epoch_progress.total):
        counts.completed = counts.processed
    for each in (loop, loop.epoch_loop, loop.epoch_loop.val_loop):
        each._restarting = False
        each.reset_restart_stage()


def not_exact(trainer: Trainer) -> list[str]:
    """What in a training is not the same after it is resumed."""
    loader: Any = trainer.train_dataloader
    cases = {
        "another order of the data (a loader of your own, overfit_batches)": not (
            isinstance(loader, LazyLoader) and isinstance(loader.sampler, ResumableSampler)
        ),
        "StochasticWeightAveraging": any(
            isinstance(each, StochasticWeightAveraging)
            for each in trainer.callbacks  # type: ignore[attr-defined]
        ),
    }
    return [name for name, present in cases.items() if present]


def validation_is_due(trainer: Trainer) -> bool:
    """Whether Lightning validates after the current batch of a fit."""
    fetcher: Any = trainer.fit_loop._data_fetcher
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def repeat_validation(trainer: Trainer) -> None:
    """Have Lightning see a validation of a fit as interrupted at its start."""
    progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.reset()
    progress.increment_ready()
    progress.increment_started()


def check_moments(optimizers: Iterable[Optimizer]) -> None:
    """Raise ``ValueError`` for moments of another shape, on which fused optimizers crash."""
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for name in MOMENTS & state.keys():
                if state[name].shape != parameter.shape:
                    raise ValueError(
                        f"the checkpoint's optimizer state does not fit the model: {name} has "
                        f"shape {tuple(state[name].shape)}, weights {tuple(parameter.shape)}"
                    )
