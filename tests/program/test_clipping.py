"""Gradients are clipped with every optimizer, in every precision."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from support.commands import QUICK, smoke
from torch.nn.utils import get_total_norm, parameters_to_vector

from ncsn.data import MoonsDataModule
from ncsn.modules import DSM
from ncsn.networks import MLP
from ncsn.runtime.clipping import clippable


class Record(Callback):
    """The norm of the gradients with which each step is made, and the weights after it."""

    def __init__(self):
        self.norms = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        gradients = [p.grad for p in pl_module.network.parameters() if p.grad is not None]
        if gradients:
            self.norms.append(float(get_total_norm(gradients)))


def train(precision, *, fused):
    """Train with clipping to a norm of 0.1; returns the norms and the weights."""
    torch.manual_seed(0)

    def optimizer(parameters):
        return clippable(torch.optim.Adam(parameters, lr=1e-3, fused=fused))

    module, record = DSM(MLP(dim=2), sigma=0.1, optimizer=optimizer), Record()
    plugins = None
    if precision == "16-mixed":  # for which Lightning takes bfloat16 on CPUs
        plugins = MixedPrecision(precision, "cpu", torch.amp.GradScaler("cpu", 2.0**10))
    trainer = pl.Trainer(
        precision=None if plugins else precision,
        plugins=plugins,
        gradient_clip_val=0.1,
        callbacks=[record],
        **{"max_epochs": 2, "accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0},
        **{"enable_checkpointing": False, "enable_progress_bar": False},
    )
    trainer.fit(module, MoonsDataModule(num_points=96, val_fraction=1 / 3, batch_size=16))
    return record.norms, parameters_to_vector(module.network.parameters()).detach()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "32-true"])
def test_a_fused_optimizer_clips_and_trains_like_one_that_is_not_fused(precision):
    norms, weights = train(precision, fused=True)
    assert norms == pytest.approx([0.1] * 6, rel=1e-5)
    _, expected = train(precision, fused=False)
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=1e-4)


def test_a_config_with_a_fused_optimizer_bf16_and_clipping_trains(cli):
    fused = ("--model.optimizer", "Adam", "--model.optimizer.fused", "true")
    clipped = ("--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", 1)
    assert cli("fit", *smoke("moons"), *QUICK, *fused, *clipped) == 0
    assert Path("lightning_logs/moons/version_0/checkpoints/last.ckpt").is_file()
