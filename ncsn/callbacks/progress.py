"""A progress bar that does not wait for the device."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar

LOSS = "train/loss_per_dim"


class ProgressBar(RichProgressBar):
    """Lightning's, which reads the training loss once each time that it is logged.

    Of a metric logged with ``prog_bar=True``, Lightning reads the value at every later step of the
    epoch: a GPU would have to finish each step before it is given the next.
    """

    loss: float | None = None

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """As in Lightning. A loss is logged after the bar is drawn, and appears one step late."""
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if trainer.training and trainer.global_step % every == 1 % every:
            loss = trainer.callback_metrics.get(LOSS)
            self.loss = self.loss if loss is None else loss.item()
        metrics = super().get_metrics(trainer, pl_module)
        return metrics if self.loss is None else {**metrics, LOSS: self.loss}
