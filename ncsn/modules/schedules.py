"""The schedule of the learning rate, and errors of optimizers and schedules."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import lightning.pytorch as pl

from ncsn.callbacks.common import num_epochs


def schedule_length(
    lr_scheduler: Callable[..., Any], trainer: pl.Trainer, interval: Literal["epoch", "step"]
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
