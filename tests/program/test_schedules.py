"""A schedule is as long as the training, whatever its length depends on."""

from pathlib import Path

import pytest
import torch
from support.commands import QUICK, error_line, smoke

ONE_CYCLE = (
    *("--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", 0.005),
    *("--model.lr_scheduler_interval", "step"),
)
FIT = ("fit", *smoke("moons"), *QUICK, *ONE_CYCLE)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ((), 2),
        (("--trainer.max_epochs", 3), 6),
        (("--trainer.max_epochs", 3, "--trainer.max_steps", 4), 4),
        (("--trainer.max_epochs", -1, "--trainer.max_steps", 5), 5),
        (("--trainer.limit_train_batches", 5, "--trainer.accumulate_grad_batches", 2), 3),
        (("--trainer.limit_train_batches", 1.0, "--data.batch_size", 1000), 4),
    ],
)
def test_a_one_cycle_schedule_takes_as_many_steps_as_the_training(options, steps, cli):
    assert cli(*FIT, *options) == 0
    path = Path("lightning_logs/moons/version_0/checkpoints/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    (schedule,) = checkpoint["lr_schedulers"]
    assert schedule["total_steps"] == steps == checkpoint["global_step"]


def test_a_schedule_that_steps_after_each_epoch_takes_as_many_epochs_as_the_training(cli):
    epochs = ("--model.lr_scheduler_interval", "epoch", "--trainer.max_epochs", 3)
    assert cli(*FIT, *epochs, "--trainer.max_steps", 5) == 0  # 2 steps an epoch
    path = Path("lightning_logs/moons/version_0/checkpoints/last.ckpt")
    (schedule,) = torch.load(path, weights_only=True)["lr_schedulers"]
    assert schedule["total_steps"] == 3


def test_the_learning_rate_may_fall_when_a_loss_does_not(cli):
    plateau = "lightning.pytorch.cli.ReduceLROnPlateau"
    monitor = ("--model.lr_scheduler.monitor", "val/loss_per_dim")
    assert cli("fit", *smoke("moons"), *QUICK, "--model.lr_scheduler", plateau, *monitor) == 0


def test_a_schedule_that_reads_a_loss_steps_when_there_is_a_validation(cli):
    plateau = "lightning.pytorch.cli.ReduceLROnPlateau"
    monitor = ("--model.lr_scheduler.monitor", "val/loss_per_dim")
    rare = ("--trainer.max_epochs", 5, "--trainer.check_val_every_n_epoch", 2)
    fit = ("fit", *smoke("moons"), *QUICK, "--model.lr_scheduler", plateau)
    assert cli(*fit, *monitor, *rare) == 0
    path = Path("lightning_logs/moons/version_0/checkpoints/last.ckpt")
    (schedule,) = torch.load(path, weights_only=True)["lr_schedulers"]
    assert schedule["last_epoch"] == 2


@pytest.mark.parametrize(
    "length",
    [
        ("--model.lr_scheduler.total_steps", 7),
        ("--model.lr_scheduler.epochs", 7, "--model.lr_scheduler.steps_per_epoch", 1),
    ],
)
def test_a_given_length_is_kept(length, cli):
    assert cli(*FIT, *length) == 0
    path = Path("lightning_logs/moons/version_0/checkpoints/last.ckpt")
    assert torch.load(path, weights_only=True)["lr_schedulers"][0]["total_steps"] == 7


def test_a_schedule_that_is_shorter_than_the_training_is_refused(cli, capsys):
    assert cli(*FIT, "--model.lr_scheduler.total_steps", 1) == 1
    last = error_line(capsys.readouterr().err)
    assert "OneCycleLR ends after 1 steps, but training takes 2" in last
    assert not Path("lightning_logs/moons/version_0/checkpoints").exists()


def test_an_endless_training_has_no_such_schedule(cli, capsys):
    assert cli(*FIT, "--trainer.max_epochs", -1) == 1
    assert "an endless training has no schedule" in error_line(capsys.readouterr().err)
