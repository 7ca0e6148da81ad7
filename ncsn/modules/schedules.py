"""The schedule of the learning rate, and errors of optimizers and schedules."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import lightning.pytorch as pl
from torch.optim import Optimizer

from ncsn.callbacks.common import num_epochs

Interval: TypeAlias = Literal["epoch", "step"]


def make_schedule(
    lr_scheduler: Callable[..., Any], optimizer: Optimizer, trainer: pl.Trainer, interval: Interval
) -> Any:
    """A schedule of the learning rate, as Lightning takes it."""
    with naming("model.lr_scheduler"):
        scheduler = lr_scheduler(optimizer, **schedule_length(lr_scheduler, trainer, interval))
    schedule = {"scheduler": scheduler, "interval": interval}
    if hasattr(scheduler, "monitor"):  # Lightning's ReduceLROnPlateau
        schedule["monitor"] = scheduler.monitor
        if interval == "epoch":  # when there is a validation
            schedule["frequency"] = trainer.check_val_every_n_epoch or 1
    return schedule


def schedule_length(
    lr_scheduler: Callable[..., Any], trainer: pl.Trainer, interval: Interval
) -> dict[str, int]:
    """The argument ``total_steps`` of a schedule that has it and was not given a length."""
    keywords = getattr(lr_scheduler, "keywords", {})
    if keywords.get("total_steps", 0) is not None or keywords.get("epochs") is not None:
        return {}
    steps = trainer.estimated_stepping_batches
    if steps == math.inf:
        raise ValueError("an endless training has no schedule: set trainer.max_epochs")
    return {"total_steps": int(steps) if interval == "step" else num_epochs(trainer)}


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Have errors name the option that they belong to, such as ``model.optimizer``."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{option}: {error}") from error
