"""Random chains of interruptions: every one ends like an uninterrupted training.

The trainings run in this process and are stopped by an exception, which costs a quarter of a
second each, so that hundreds of chains can be tried. Real kills are in test_resume.py.
"""

import random
from contextlib import suppress
from functools import cache
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from ncsn.callbacks import EMA, Preview
from ncsn.data import MoonsDataModule
from ncsn.modules import DSM
from ncsn.networks import MLP
from ncsn.runtime import Resume
from ncsn.runtime.checkpoints import LastCheckpoint
from ncsn.sampling import Langevin

EPOCHS, BATCHES = 3, 8


class Interrupted(Exception):
    """Stands in for a kill: only the checkpoints survive."""


class Record(Callback):
    """What a training does, by epoch and batch; it is interrupted before or after a batch."""

    def __init__(self, batch=None, place=""):
        self.batch, self.place = batch, place
        self.losses, self.validations = {}, set()

    def interrupt(self, trainer, place):
        if (trainer.fit_loop.epoch_loop.total_batch_idx, place) == (self.batch, self.place):
            raise Interrupted

    def on_train_batch_start(self, trainer, *args):
        self.interrupt(trainer, "start")

    def on_before_zero_grad(self, trainer, *args):
        self.interrupt(trainer, "step")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        stepped = trainer.fit_loop.epoch_loop._batches_that_stepped  # what loggers get
        row = outputs["loss"].item(), trainer.global_step, stepped
        self.losses[trainer.current_epoch, batch_idx] = row
        self.interrupt(trainer, "end")

    def on_validation_batch_start(self, trainer, *args):
        self.interrupt(trainer, "validation")

    def on_validation_end(self, trainer, pl_module):
        self.validations.add((trainer.current_epoch, trainer.global_step))


class Dropout(MLP):
    """A network that draws from the global random state."""

    def forward(self, x, sigma):
        return super().forward(torch.nn.functional.dropout(x, 0.1, self.training), sigma)


def fit(directory, every, accumulate, check_epoch, check_interval, interval, save, record):
    """Train from the last checkpoint in a directory, if there is one."""
    torch.manual_seed(0)
    module = DSM(
        Dropout(hidden_dim=8),
        sampler=Langevin(0.01, 3),
        preview=Preview(every_n_epochs=0),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9),
        lr_scheduler_interval=interval,
    )
    checkpoint = save(
        directory, filename="last", every_n_train_steps=every, enable_version_counter=False
    )
    ema = EMA(0.9)
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[record, ema, checkpoint, Resume()],
        accumulate_grad_batches=accumulate,
        check_val_every_n_epoch=check_epoch,
        val_check_interval=check_interval,
    )
    last = directory / "last.ckpt"
    data = MoonsDataModule(num_points=BATCHES * 40, batch_size=32)
    trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None)
    weights = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    lr = trainer.optimizers[0].param_groups[0]["lr"]
    return weights, lr, trainer.global_step, trainer.current_epoch, ema.n_averaged


@cache
def uninterrupted(settings, directory):
    record = Record()
    return fit(directory, 10**6, *settings, record), record


@pytest.fixture(autouse=True)
def no_warnings():
    """Lightning warns of checkpoints in the middle of an epoch."""
    import warnings

    with warnings.catch_warnings(action="ignore"):
        yield


@pytest.mark.parametrize("seed", range(8))
def test_a_chain_of_interruptions_ends_like_an_uninterrupted_training(seed, tmp_path):
    chance = random.Random(seed)
    for number in range(25):
        settings = (
            chance.choice([1, 2, 3, 5]),  # accumulate_grad_batches
            chance.choice([1, 2]),  # check_val_every_n_epoch
            chance.choice([None, 0.5]),  # val_check_interval
            chance.choice(["epoch", "step"]),  # of the schedule
            chance.choice([ModelCheckpoint, LastCheckpoint]),
        )
        every = chance.choice([1, 2, 3, 4, 8, 12])  # steps between two checkpoints
        batches = sorted(chance.sample(range(1, EPOCHS * BATCHES), chance.randint(1, 5)))
        places = [chance.choice(["start", "step", "end", "validation"]) for _ in batches]
        directory, losses, validations = tmp_path / str(number), {}, set()
        for batch, place in [*zip(batches, places, strict=True), (None, "")]:
            record, result = Record(batch, place), None
            with suppress(Interrupted):
                result = fit(directory, every, *settings, record)
            losses |= record.losses
            validations |= record.validations
        expected, reference = uninterrupted(settings, Path(tmp_path / "whole" / str(settings)))
        case = (settings, every, batches, places)
        assert torch.equal(result[0], expected[0]), case
        assert result[1:] == expected[1:], case
        assert losses == reference.losses, case
        assert validations == reference.validations, case
