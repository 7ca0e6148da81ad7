"""Checks before anything takes time."""

from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from ncsn.callbacks.common import evaluation_mode

if TYPE_CHECKING:
    from ncsn.modules import ScoreModule


class Preflight(Callback):
    """Says what ``auto`` was replaced by, and tries the network on the data before a fit."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a network that does not fit the shape or the classes of the data."""
        module, data = cast("ScoreModule", pl_module), cast(Any, trainer).datamodule
        for name, value in module.auto_values.items():
            rank_zero_info(f"auto: {name} = {value:.4g}")
        if stage != "fit":
            return  # the checkpoint has been compared with the data
        most = module.network.num_classes
        if most and data.num_classes > most:
            raise ValueError(
                f"the data has {data.num_classes} classes, but model.network.num_classes={most}"
            )
        name, x = type(module.network).__name__, torch.zeros(1, *module.data_shape)
        misfit = f"model.network {name} does not fit data of shape {module.data_shape}"
        try:
            with torch.no_grad(), evaluation_mode(module):
                output = module.network(x.to(module.device), torch.ones(1, device=module.device))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{misfit}: {error}") from error
        if output.shape != x.shape:
            raise ValueError(f"{misfit}: it returns {tuple(output.shape[1:])}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a schedule that ends before the training, also when it is resumed."""
        steps = trainer.estimated_stepping_batches
        for config in trainer.lr_scheduler_configs:
            end = getattr(config.scheduler, "total_steps", steps)
            if config.interval == "step" and steps > end:
                longer = "again without --ckpt_path" if trainer.ckpt_path else "without its length"
                raise ValueError(
                    f"{type(config.scheduler).__name__} ends after {end} steps, but training takes"
                    f" {steps} with these devices, batches and epochs: stop it there with "
                    f"--trainer.max_steps {end}, or train {longer}"
                )
