"""Training that is resumed with other options: what may change, and what must not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import QUICK, error_line, smoke
from support.runs import assert_same, load_last

from ncsn.modules.stored import changed_split

MOONS = smoke("moons")
RUN = Path("lightning_logs/moons/version_0")


def curves(checkpoint):
    """The losses of all epochs, which the preview keeps for its picture."""
    (state,) = (state for name, state in checkpoint["callbacks"].items() if "Preview" in name)
    return state["losses"]


def test_resumed_training_continues_where_it_stopped(cli):
    assert cli("fit", *MOONS) == 0
    args = ("--ckpt_path", RUN / "checkpoints/last.ckpt", "--trainer.max_epochs", 2)
    assert cli("fit", *MOONS, *args) == 0
    assert cli("fit", *MOONS, "--trainer.max_epochs", 2) == 0
    resumed, straight = (load_last(RUN.parent / f"version_{n}") for n in (1, 2))
    assert (resumed["epoch"], resumed["global_step"]) == (1, 4)
    assert [epoch for epoch, _ in curves(resumed)["validation"]] == [1, 2]  # the whole curve
    for weights in ("state_dict", "current_model_state"):  # averaged, and as trained
        assert_same(resumed[weights], straight[weights], weights)


@pytest.mark.parametrize("stops", [(2, 4), (1, 3), (3,), (1, 2, 3, 4)], ids=str)
def test_a_training_of_steps_is_exact_wherever_it_stopped(stops, cli):
    """An epoch has two steps, so it stops at its end, within it, and several times."""
    options = ("fit", *MOONS, "--trainer.max_epochs", -1, "--trainer.max_steps")
    assert cli(*options, 5) == 0
    for step in (*stops, 5):
        assert cli(*options, step, "--name", "stopped", "--ckpt_path", "last") == 0
    straight, resumed = load_last(RUN), load_last(Path("lightning_logs/stopped/version_0"))
    for weights in ("state_dict", "current_model_state"):
        assert_same(resumed[weights], straight[weights], weights)
    progress = [each["loops"]["fit_loop"]["epoch_progress"] for each in (resumed, straight)]
    assert progress[0] == progress[1]


REFUSED = {
    "no schedule": (
        ("--model.lr_scheduler", "null"),
        "lr_scheduler.class_path=torch.optim.lr_scheduler.StepLR",
    ),
    "schedule": (
        ("--model.lr_scheduler.gamma", "0.5"),
        "lr_scheduler.gamma=0.95, and the config has 0.5",
    ),
    "learning rate": (
        ("--model.optimizer.lr", "1e-6"),
        "optimizer.lr=0.005, and the config has 1e-06",
    ),
    "optimizer": (("--model.optimizer", "SGD"), "optimizer.class_path=torch.optim.Adam"),
    "noise level": (("--model.sigma", "0.5"), "sigma=0.1, and the config has 0.5"),
    "network": (
        ("--model.network.hidden_dim", "8"),
        "network.hidden_dim=128, and the config has 8",
    ),
}


@pytest.fixture
def run(trained):
    """The directory of a run, of this test alone."""
    shutil.copytree(trained("moons"), RUN)
    return RUN


@pytest.mark.parametrize(("options", "before"), REFUSED.values(), ids=REFUSED)
def test_what_gives_a_checkpoint_its_meaning_must_not_change(run, options, before, cli, capsys):
    more = ("--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert cli("fit", *MOONS, *more, *options) == 1
    last = error_line(capsys.readouterr().err)
    assert f"the checkpoint was trained with model.{before}" in last
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]


def test_a_run_resumes_in_its_directory(run, cli):
    more = ("--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert cli("fit", *MOONS, *more, *QUICK, "--data.seed", 1) == 0
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    assert load_last(RUN)["global_step"] == 4


def test_checkpoints_of_another_run_are_not_overwritten(cli, capsys, tmp_path):
    fit = ("fit", *MOONS, *QUICK, "--last.dirpath", "kept")
    assert cli(*fit) == 0
    before = Path("kept/last.ckpt").read_bytes()
    assert cli(*fit, "--seed_everything", 1) == 1
    assert "kept/last.ckpt is of another run" in error_line(capsys.readouterr().err)
    assert Path("kept/last.ckpt").read_bytes() == before
    more = ("--trainer.max_epochs", 2)
    assert cli(*fit, *more, "--ckpt_path", "kept/last.ckpt") == 0
    homeless = ("fit", *MOONS, *QUICK, "--trainer.logger", "false")
    homeless += ("--trainer.default_root_dir", "out")
    assert [cli(*homeless) for _ in range(2)] == [0, 1]
    assert "would be overwritten" in error_line(capsys.readouterr().err)


def test_the_last_checkpoint_is_looked_for_where_checkpoints_are_written(cli, capsys):
    pytest.importorskip("tensorboard")
    loggers = ("--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "tb")
    loggers += ("--trainer.logger+", "CSVLogger", "--trainer.logger.save_dir", "lightning_logs")
    assert cli("fit", *MOONS, *QUICK, *loggers, "--ckpt_path", "last") == 1
    assert "it is not the first" in error_line(capsys.readouterr().err)


CHANGED = {
    "data.batch_size=16 (was 8)": ("--data.batch_size", 16),
    "trainer.accumulate_grad_batches=2 (was 1)": ("--trainer.accumulate_grad_batches", 2),
    "trainer.precision=bf16-mixed (was None)": ("--trainer.precision", "bf16-mixed"),
    "trainer.gradient_clip_algorithm=value (was None)": (
        *("--trainer.gradient_clip_algorithm", "value"),
    ),
    "seed_everything=7 (was 0)": ("--seed_everything", 7),
    "ema.decay=0.5 (was 0.99)": ("--ema.decay", 0.5),
    "data.noise=0.2 (was 0.1)": ("--data.noise", 0.2),
}


@pytest.mark.parametrize(("change", "options"), CHANGED.items(), ids=CHANGED)
def test_a_run_that_is_resumed_otherwise_says_what_changed(run, change, options, cli):
    more = ("--ckpt_path", RUN / "checkpoints/last.ckpt", "--trainer.max_epochs", 2)
    with pytest.warns(UserWarning, match="the result is not that of an unint") as warnings:
        assert cli("fit", *MOONS, *QUICK, *more, *options) == 0
    (text,) = (str(each.message) for each in warnings if "resumed with" in str(each.message))
    assert text.startswith(f"resumed with {change}: ")


def test_a_run_that_is_resumed_as_it_was_says_nothing(run, cli, recwarn):
    assert cli("fit", *MOONS, *QUICK, "--ckpt_path", "last", "--trainer.max_epochs", 2) == 0
    (RUN / "config.yaml").write_text("{")
    assert cli("fit", *MOONS, *QUICK, "--ckpt_path", "last", "--trainer.max_epochs", 3) == 0
    assert not [each for each in recwarn if "resumed with" in str(each.message)]


def test_a_schedule_that_was_as_long_as_the_training_ends_with_it(cli, capsys):
    schedule = ("--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", 0.005)
    fit = ("fit", *MOONS, *QUICK, *schedule, "--model.lr_scheduler_interval", "step")
    assert cli(*fit) == 0
    before = load_last(RUN)
    assert cli(*fit, "--ckpt_path", "last", "--trainer.max_epochs", 2) == 1
    last = error_line(capsys.readouterr().err)
    assert "OneCycleLR ends after 2 steps, but training takes 4" in last
    assert_same(load_last(RUN)["state_dict"], before["state_dict"])


def test_a_schedule_keeps_its_length_when_epochs_get_longer(cli, capsys):
    """As they do on fewer devices."""
    schedule = ("--model.lr_scheduler", "OneCycleLR", "--model.lr_scheduler.max_lr", 0.005)
    fit = ("fit", *MOONS, *QUICK, *schedule, "--model.lr_scheduler_interval", "step")
    fit = (*fit, "--trainer.max_epochs", 4)
    stop = ("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor")
    stop = (*stop, "val/loss_per_dim", "--trainer.callbacks.stopping_threshold", 100)
    assert cli(*fit, *stop) == 0
    assert load_last(RUN)["global_step"] == 2
    longer = (*fit, "--ckpt_path", "last", "--trainer.limit_train_batches", 4)
    assert cli(*longer) == 1
    last = error_line(capsys.readouterr().err)
    assert "OneCycleLR ends after 8 steps, but training takes 16 with these devices" in last
    assert last.endswith("with --trainer.max_steps 8, or train again without --ckpt_path")
    assert cli(*longer, "--trainer.max_steps", 8) == 0
    assert load_last(RUN)["global_step"] == 8
    assert load_last(RUN)["lr_schedulers"][0]["last_epoch"] == 8


def test_losses_of_a_resumed_run_are_those_of_its_epochs(cli):
    every_other = ("--trainer.check_val_every_n_epoch", 2, "--trainer.max_epochs")
    assert cli("fit", *MOONS, *every_other, 2) == 0
    checkpoint = RUN / "checkpoints/last.ckpt"  # written before the end of the second epoch
    assert cli("fit", *MOONS, *every_other, 4, "--ckpt_path", checkpoint) == 0
    resumed = torch.load(RUN.parent / "version_1/checkpoints/last.ckpt", weights_only=True)
    assert all(np.isfinite(loss) for _, loss in curves(resumed)["train"])
    assert "nan" not in (RUN.parent / "version_1/metrics.csv").read_text()


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (("--trainer.overfit_batches", 1), "another order of the data"),
        (
            (
                "--trainer.callbacks+",
                "StochasticWeightAveraging",
                "--trainer.callbacks.swa_lrs",
                1,
            ),
            "StochasticWeightAveraging",
        ),
    ],
)
def test_what_is_not_exact_when_it_resumes_is_said(option, reason, run, cli, recwarn):
    more = ("--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert cli("fit", *MOONS, *more, *QUICK) == 0
    assert not [w for w in recwarn if "will not end exactly" in str(w.message)]
    assert cli("fit", *MOONS, *more, "--trainer.max_epochs", 3, *QUICK, *option) == 0
    (warning,) = [w for w in recwarn if "will not end exactly" in str(w.message)]
    assert reason in str(warning.message)


def test_a_run_that_saves_every_so_many_steps_saves_its_end_too(cli):
    assert cli("fit", *MOONS, *QUICK, "--last.every_n_train_steps", 1000) == 0
    assert load_last(RUN)["global_step"] == 2


def test_an_evaluation_with_another_split_says_that_it_may_see_training_data():
    moons = {"class_path": "MoonsDataModule", "init_args": {"seed": 0, "noise": 0.1}}
    other = {"class_path": "MoonsDataModule", "init_args": {"seed": 1, "noise": 0.2}}
    folder = {"class_path": "ImageFolderDataModule", "init_args": {"seed": 1}}
    assert changed_split({"data": moons}, {"data": other}) == ["data.seed=1 (was 0)"]
    assert changed_split({"data": moons}, {"data": folder}) == []
    assert changed_split({}, {"data": moons}) == []
