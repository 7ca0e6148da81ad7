"""Trainings of less than a second, and a module that records what it sees."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.nn.utils import parameters_to_vector

from ncsn.data import MoonsDataModule
from ncsn.modules import DSM


def fit(module, *, epochs=1, callbacks=(), data=None, ckpt_path=None, logger=False, **kwargs):
    """Train on two moons, four batches an epoch and two of validation; returns the trainer."""
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=logger,
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"log_every_n_steps": 1, "num_sanity_val_steps": 0, **kwargs},
    )
    data = data or MoonsDataModule(num_points=96, val_fraction=1 / 3, batch_size=16)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def weights_of(module):
    """The parameters of the network, in one vector."""
    return parameters_to_vector(module.network.parameters()).detach().clone()


def weights_in(state, module):
    """The same, out of a state of the module."""
    names = [name for name, _ in module.network.named_parameters()]
    return torch.cat([state[f"network.{name}"].flatten() for name in names])


class Probe(DSM):
    """Records its weights before each batch, after each step, in each validation and sampling."""

    def setup(self, stage):
        if stage == "fit":
            self.before_batches, self.after_steps = [], []
            self.validated_with, self.sampled_with = [], []

    def training_step(self, batch, batch_idx):
        self.before_batches.append(weights_of(self))
        return super().training_step(batch, batch_idx)

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.after_steps.append(weights_of(self))

    def validation_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.validated_with.append(weights_of(self))
        return super().validation_step(batch, batch_idx)

    def sample(self, *args, **kwargs):
        self.sampled_with.append(weights_of(self))
        return super().sample(*args, **kwargs)
