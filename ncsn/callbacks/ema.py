"""The exponential moving average of the weights."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

__all__ = ["ExponentialMovingAverage", "update_average"]


@torch.no_grad()
def update_average(
    average: Sequence[Tensor], weights: Sequence[Tensor], num_updates: int, decay: float
) -> None:
    """Move an exponential moving average towards the weights, in place.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the first random weights
    are soon forgotten and early validations and pictures mean something; the first update copies
    the weights.

    Source:
        The warm-up of TensorFlow's ``ExponentialMovingAverage``, argument ``num_updates``.

    Args:
        average: The averaged weights.
        weights: The current weights.
        num_updates: Number of updates so far, n.
        decay: The decay in the long run, in (0, 1).
    """
    n = num_updates
    d = min(decay, (1 + n) / (10 + n)) if n else 0.0
    torch._foreach_lerp_(list(average), list(weights), 1 - d)


class ExponentialMovingAverage(WeightAveraging):
    """Lightning's ``WeightAveraging``, which validates, samples and saves averaged weights.

    Lightning's own update asks the device at every step whether it is the first, which waits for
    all that the device still has to do. This one counts steps instead.

    Args:
        decay: The decay in the long run, in (0, 1); see :func:`update_average`.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self.decay = decay
        self._swapped = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look up the tensors, once."""
        assert self._average_model is not None
        average = self._average_model.module
        self._average, self._weights = list(average.parameters()), list(pl_module.parameters())
        self._buffers = list(average.buffers()), list(pl_module.buffers())

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Update the average after a step of the optimizer, and copy the buffers."""
        if trainer.global_step > self._latest_update_step:
            self._latest_update_step = trainer.global_step
            update_average(self._average, self._weights, trainer.global_step - 1, self.decay)
            torch._foreach_copy_(*self._buffers)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Give a module that is stopped while it validates its own weights back."""
        if self._swapped:
            self._swap_models(pl_module)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        super()._swap_models(pl_module)
        self._swapped = not self._swapped
