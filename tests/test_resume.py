"""Interrupted trainings go on exactly where they were: real processes, killed."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import CONFIGS, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MOONS = ("--config", CONFIGS / "moons.yaml", "--config", "short.yaml")
DDP = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
LAST = ("--ckpt_path", "last")
RUNS = Path("lightning_logs/moons")
EPOCHS, BATCHES = 3, 31

# Every other batch is a step of the optimizer; a schedule that changes at every step; averages.
SHORT = {
    "model": {
        "init_args": {
            "num_preview_samples": 10,
            "num_scored_samples": 10,
            "lr_scheduler": {
                "class_path": "torch.optim.lr_scheduler.OneCycleLR",
                "init_args": {"max_lr": 0.005, "total_steps": 16 * EPOCHS},
            },
            "lr_scheduler_interval": "step",
            "sampler": {"class_path": "Langevin", "init_args": {"num_steps": 20}},
            "preview_sampler": {"class_path": "Langevin", "init_args": {"num_steps": 20}},
        }
    },
    "trainer": {
        "max_epochs": EPOCHS,
        "check_val_every_n_epoch": 1,
        "accumulate_grad_batches": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "logger": [
            {
                "class_path": "CSVLogger",
                "init_args": {
                    "save_dir": "lightning_logs",
                    "name": "moons",
                    "flush_logs_every_n_steps": 1,
                },
            }
        ],
        "callbacks": [
            {"class_path": "recording.Misfortune"},
            {
                "class_path": "ModelCheckpoint",
                "init_args": {"filename": "last", "every_n_train_steps": 3},
            },
        ],
    },
}


@pytest.fixture(autouse=True)
def short():
    Path("short.yaml").write_text(yaml.safe_dump(SHORT))


def environment_of(**environment):
    """For processes that may meet with misfortune."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return {**env, **environment}


def start(*options, action="fit", **environment):
    """Start a training, or another action, which the caller waits for."""
    command = [sys.executable, "-m", "ncsn", *map(str, (action, *MOONS, *options))]
    log = Path("log.txt").open("a")  # noqa: SIM115
    return subprocess.Popen(command, env=environment_of(**environment), stdout=log, stderr=log)


def finish(*options, action="fit"):
    assert start(*options, action=action).wait() == 0, Path("log.txt").read_text()


def load_last(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_same(first, second, path=""):
    """Exactly the same numbers, in nested containers."""
    assert type(first) is type(second), path
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{path}/{i}")
    else:
        assert first == second, path


def losses(run):
    """The loss of each step; it depends on weights, data and noise."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    steps = [int(row["step"]) for row in rows]
    assert len(steps) == len(set(steps))
    return dict(zip(steps, (row["train/loss"] for row in rows), strict=True))


def assert_same_training(run, undisturbed, unlogged=0):
    """The same state, and the same losses but for as many steps as may be missing in the log."""
    first, second = load_last(run), load_last(undisturbed)
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert_same(first[part], second[part], part)
    assert (first["epoch"], first["global_step"]) == (second["epoch"], second["global_step"])
    found, expected = losses(run), losses(undisturbed)
    assert len(found) >= len(expected) - unlogged
    np.testing.assert_equal(found, {step: expected[step] for step in found})


def test_the_shipped_schedule_of_checkpoints_goes_on_too():
    # moons.yaml validates every fifth epoch. Stopped before that, killed after, then to its end.
    shipped = yaml.safe_load((CONFIGS / "moons.yaml").read_text())["trainer"]
    callbacks = [{"class_path": "recording.Misfortune"}, *shipped["callbacks"]]
    every_n = shipped["check_val_every_n_epoch"]
    trainer = {**SHORT["trainer"], "callbacks": callbacks, "check_val_every_n_epoch": every_n}
    trainer |= {"max_epochs": 6, "accumulate_grad_batches": 1, "enable_progress_bar": True}
    Path("short.yaml").write_text(yaml.safe_dump({**SHORT, "trainer": trainer}))
    steps = ("--model.lr_scheduler.total_steps", 6 * BATCHES)
    finish(*steps)
    os.rename(RUNS / "version_0", "undisturbed")
    process = start(*steps, PLACE="training")
    while not Path("training-0").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert load_last(RUNS / "version_0")["global_step"] < 2 * BATCHES
    kill_at = 4 * BATCHES + 10
    assert start(*steps, *LAST, KILL_AT=str(kill_at)).wait() == -signal.SIGKILL
    assert load_last(RUNS / "version_0")["global_step"] == 4 * BATCHES
    finish(*steps, *LAST)
    assert_same_training(RUNS / "version_0", Path("undisturbed"))
    written = {path.name for path in (RUNS / "version_0/checkpoints").iterdir()}
    assert written == {"best.ckpt", "last.ckpt", "last.previous.ckpt"}


def test_a_training_killed_ten_times_ends_like_one_that_was_not():
    finish()
    chance = random.Random(0)
    # The end of an epoch among them; the first is before any checkpoint.
    batches = sorted({*chance.sample(range(8, EPOCHS * BATCHES - 1), 8), BATCHES - 1, 3})
    assert len(batches) == 10
    os.rename(RUNS / "version_0", "undisturbed")
    for batch in batches:
        assert start(*LAST, KILL_AT=str(batch)).wait() == -signal.SIGKILL
    finish(*LAST)
    assert len(list(RUNS.iterdir())) == 2  # the killed before its first checkpoint, and the rest
    assert_same_training(RUNS / "version_1", Path("undisturbed"))


def test_so_does_one_killed_at_any_moment():
    finish()
    os.rename(RUNS / "version_0", "undisturbed")
    chance, kills = random.Random(1), 0
    for _ in range(6):
        process = start(*LAST)
        while process.poll() is None and not (RUNS / "version_0/metrics.csv").exists():
            time.sleep(0.01)
        time.sleep(5 + 3 * chance.random())
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    finish(*LAST)
    assert kills
    run = max(RUNS.iterdir())
    assert_same_training(run, Path("undisturbed"))
