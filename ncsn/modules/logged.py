"""Modules that log their losses, of training and of validation."""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from ncsn.callbacks.progress import ProgressBar
from ncsn.evaluation.metrics import MeanPerLevel
from ncsn.modules.storable import StorableModule


class LoggedModule(StorableModule):
    """Logs the loss per dimension, without the factor 1/σ_max², so that runs compare.

    ``training_step`` updates ``train_loss`` with :meth:`loss_per_dim`, ``validation_step`` updates
    ``val_loss`` with the loss per dimension of each example and its level.

    Args:
        num_levels: Number of noise levels.
    """

    noise_levels: Tensor
    data_shape: tuple[int, ...]

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.train_loss = MeanMetric(nan_strategy="disable")  # checking for NaN synchronises
        self.val_loss = MeanPerLevel(num_levels)
        self._unfinished: tuple[float, int] | None = None  # mean loss and steps of an epoch

    @property
    def sampling_levels(self) -> Tensor:
        """The noise levels in float32 at least, in which samples are drawn and evaluated."""
        return self.noise_levels.to(torch.promote_types(self.noise_levels.dtype, torch.float32))

    def on_train_start(self) -> None:
        """Restore the running mean loss, on all ranks: they compute the epoch's mean together."""
        # In half precision, a count ends at 256.
        self.train_loss.set_dtype(self.sampling_levels.dtype)
        if self._unfinished and self.trainer.ckpt_path:  # and not only the weights were loaded
            mean, num_steps = self._unfinished
            self.train_loss.update(torch.full((num_steps,), mean))
        self._unfinished = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the loss per dimension."""
        # Logging takes as long as a step of a small network.
        trainer = cast(Any, self.trainer)
        every = trainer.log_every_n_steps  # 0: never
        if every and self.global_step % every == 0:
            # Our own bar reads the logged loss, without synchronising the device at each step.
            own_bar = isinstance(trainer.progress_bar_callback, ProgressBar)
            loss = self.loss_per_dim(outputs["losses"])
            self.log("train/loss_per_dim", loss, prog_bar=not own_bar)

    def loss_per_dim(self, losses: Tensor) -> Tensor:
        """The mean of the losses of a batch, shape ``(batch,)``, as it is logged."""
        return losses.mean() * self.sampling_levels[0] ** 2 / math.prod(self.data_shape)

    def on_train_epoch_end(self) -> None:
        """Log the mean loss of the epoch, over ranks."""
        if self.train_loss.update_called:  # not if a checkpoint ended this epoch
            self.log("train/loss_per_dim_epoch", self.train_loss.compute(), sync_dist=True)
            self.train_loss.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the running mean loss of an unfinished epoch; of several ranks, the first's."""
        super().on_save_checkpoint(checkpoint)
        if self.train_loss.update_called:
            num_steps = int(self.train_loss.weight.item())
            checkpoint["train_loss"] = self.train_loss.mean_value.item() / num_steps, num_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the running mean loss of the epoch, for a training that is resumed."""
        self._unfinished = checkpoint.get("train_loss")

    def on_validation_start(self) -> None:
        """Count in float32 at least, as in training."""
        self.val_loss.set_dtype(self.sampling_levels.dtype)

    def on_validation_epoch_end(self) -> None:
        """Log the loss per dimension: the mean over the levels, and each level."""
        stage = "test" if self.trainer.testing else "val"
        per_level = self.val_loss.compute().view(-1)  # torchmetrics squeezes a single level away
        self.val_loss.reset()
        self.log(f"{stage}/loss_per_dim", per_level.nanmean(), prog_bar=True)
        # In a section of their own: W&B and TensorBoard group by what is before the slash.
        names = (f"{stage}_levels/sigma={s:.4g}" for s in self.noise_levels.tolist())
        self.log_dict(dict(zip(names, per_level, strict=True)))

    on_test_start, on_test_epoch_end = on_validation_start, on_validation_epoch_end
