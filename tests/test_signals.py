"""Signals to any rank end the whole job within seconds, with a checkpoint: real processes."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import wandb_records
from test_resume import (
    DDP,
    LAST,
    RUNS,
    assert_same_training,
    finish,
    load_last,
    short,  # noqa: F401
    start,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT", signal.SIGUSR1: "SIGUSR1"}
ENDLESS = ("--trainer.max_epochs", 10_000, "--model.lr_scheduler", "null")
SLOW_PREVIEW = ("--model.preview_sampler.num_steps", 1_000_000)
SLOW_PICTURES = ("--model.sampler.num_steps", 1_000_000, "--trainer.max_epochs", 1)


def wait_for(path, process, seconds=120):
    """The process number that a rank writes when it has come to a place."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, Path("log.txt").read_text()
        assert process.poll() is None, Path("log.txt").read_text()
        time.sleep(0.02)
    return int(path.read_text())


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def stop(process, place, signum, to=(0,), world_size=1, wait=0.3):
    """Send a signal to ranks when all are at a place; returns the seconds until all are gone."""
    pids = [wait_for(Path(f"{place}-{rank}"), process) for rank in range(world_size)]
    time.sleep(wait)
    return end(process, pids, signum, to)


def end(process, pids, signum, to):
    """Send a signal to ranks; returns the seconds until all are gone."""
    begin = time.monotonic()
    for rank in to:
        os.kill(pids[rank], signum)
    while process.poll() is None or any(map(running, pids)):
        assert time.monotonic() < begin + 60, Path("log.txt").read_text()
        time.sleep(0.02)
    return time.monotonic() - begin


@pytest.mark.parametrize(
    ("signum", "place", "options"),
    [
        (signal.SIGTERM, "training", ENDLESS),
        (signal.SIGINT, "training", ENDLESS),
        (signal.SIGUSR1, "training", ENDLESS),
        (signal.SIGTERM, "validation", ENDLESS),
        (signal.SIGINT, "preview", (*ENDLESS, *SLOW_PREVIEW)),
        (signal.SIGTERM, "pictures", SLOW_PICTURES),
    ],
)
def test_a_signal_ends_a_fit_with_a_checkpoint(signum, place, options):
    process = start(*options, PLACE=place)
    assert stop(process, place, signum) < 10
    assert process.returncode == 128 + signum
    *_, last = Path("log.txt").read_text().strip().splitlines()
    assert last.startswith(f"error: stopped by {NAMES[signum]}")
    checkpoint = load_last(RUNS / "version_0")
    if place != "pictures":
        assert f"after step {checkpoint['global_step']}; go on with --ckpt_path last" in last


@pytest.mark.parametrize(
    ("signum", "to", "place", "options"),
    [
        (signal.SIGTERM, (0,), "training", ENDLESS),
        (signal.SIGTERM, (1,), "training", ENDLESS),
        (signal.SIGTERM, (0, 1), "training", ENDLESS),
        (signal.SIGINT, (0, 1), "training", ENDLESS),  # as a terminal does
        (signal.SIGUSR1, (1,), "training", ENDLESS),
        (signal.SIGTERM, (1,), "validation", ENDLESS),
        # Rank 1 waits for rank 0, which draws.
        (signal.SIGTERM, (1,), "preview", (*ENDLESS, *SLOW_PREVIEW)),
        (signal.SIGINT, (0, 1), "preview", (*ENDLESS, *SLOW_PREVIEW)),
        (signal.SIGTERM, (1,), "pictures", SLOW_PICTURES),
    ],
)
def test_a_signal_to_any_rank_ends_all(signum, to, place, options):
    process = start(*DDP, *options, PLACE=place)
    assert stop(process, place, signum, to, world_size=2) < 10
    assert process.returncode == 128 + signum
    checkpoint = load_last(RUNS / "version_0")
    *_, last = Path("log.txt").read_text().strip().splitlines()
    assert last.startswith(f"error: stopped by {NAMES[signum]}")
    if place != "pictures":
        assert f"after step {checkpoint['global_step']}; go on with --ckpt_path last" in last


@pytest.mark.parametrize("ranks", [(), DDP])
def test_a_training_that_was_stopped_goes_on_exactly(ranks):
    finish(*ranks)
    os.rename(RUNS / "version_0", "undisturbed")
    world_size = 2 if ranks else 1
    for place in ("training", "validation"):
        process = start(*LAST, *ranks, PLACE=place)
        stop(process, place, signal.SIGTERM, world_size=world_size)
        assert process.returncode == 128 + signal.SIGTERM
    finish(*LAST, *ranks)
    assert_same_training(RUNS / "version_0", Path("undisturbed"))


@pytest.mark.parametrize("action", ["predict", "test"])
def test_a_signal_ends_what_is_not_a_training_at_once(action):
    finish("--trainer.max_epochs", 1, "--model.lr_scheduler", "null")
    slow = ("--model.sampler.num_steps", 1_000_000)
    process = start(*LAST, *slow, action=action, PLACE=action)
    assert stop(process, action, signal.SIGTERM, wait=1.0) < 10
    assert process.returncode == 128 + signal.SIGTERM
    *_, last = Path("log.txt").read_text().strip().splitlines()
    assert last.startswith("error: stopped by SIGTERM")


@pytest.mark.parametrize("to", [(1,), (0, 1)])
def test_a_signal_ends_a_rank_that_waits_for_another_at_once(to):
    # Of three batches rank 0 draws two: rank 1 waits for it, in a collective.
    finish("--trainer.max_epochs", 1, "--model.lr_scheduler", "null")
    slow = ("--num_samples", 3, "--batch_size", 1, "--model.sampler.num_steps", 15_000)
    process = start(*LAST, *DDP, *slow, action="predict", PLACE="written")
    pids = [process.pid, wait_for(Path("written-1"), process)]
    time.sleep(1.5)
    assert not Path("written-0").exists()
    assert end(process, pids, signal.SIGTERM, to) < 10
    assert process.returncode == 128 + signal.SIGTERM
    *_, last = Path("log.txt").read_text().strip().splitlines()
    assert last.startswith("error: stopped by SIGTERM")
    assert "--resume" in last


@pytest.mark.parametrize("ranks", [(), DDP])
def test_a_predict_that_has_drawn_all_or_nearly_all_goes_on(ranks):
    finish("--trainer.max_epochs", 1, "--model.lr_scheduler", "null")
    few = ("--num_samples", 6, "--batch_size", 2)
    finish(*LAST, *few, action="predict")
    whole = np.load(RUNS / "version_1/samples.npz")["samples"]
    parts = RUNS / "version_2/parts"
    for again in (0, 1):
        resume = ("--resume", parts.parent) if again else ()
        process = start(*LAST, *few, *resume, action="predict", PLACE="written")
        wait_for(Path("written-0"), process)
        process.kill()
        process.wait()
        Path("written-0").unlink()
        (parts / "000000002-000000004.npz").unlink(missing_ok=bool(again))
    finish(*LAST, *few, *ranks, "--resume", parts.parent, action="predict")
    resumed = np.load(RUNS / "version_2/samples.npz")["samples"]
    np.testing.assert_allclose(resumed, whole, atol=1e-5)
    assert not parts.exists()
    for run in ("version_0", "version_2"):  # a fit, and a predict that has ended
        before = sorted((RUNS / run).iterdir())
        assert start(*LAST, "--resume", RUNS / run, action="predict").wait() == 1
        *_, last = Path("log.txt").read_text().strip().splitlines()
        assert last.endswith("is not the directory of an interrupted predict")
        assert sorted((RUNS / run).iterdir()) == before


def test_wandb_is_told_that_the_run_has_ended_and_goes_on_with_it():
    logger = ("--trainer.logger+", "ncsn.loggers.WandbLogger")
    for place in ("training", "preview"):
        process = start(*LAST, *ENDLESS, *logger, PLACE=place, WANDB_MODE="offline")
        stop(process, place, signal.SIGTERM)
        assert process.returncode == 128 + signal.SIGTERM
    runs = sorted(Path("lightning_logs/wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert len({run.name.split("-")[-1] for run in runs}) == 1  # W&B's name of the run
    for run in runs:
        ends = [r.exit for r in wandb_records(next(run.glob("*.wandb"))) if r.HasField("exit")]
        assert len(ends) == 1
        assert ends[0].exit_code


def test_an_interrupted_predict_goes_on_without_drawing_again():
    finish("--trainer.max_epochs", 1, "--model.lr_scheduler", "null")
    many = ("--num_samples", 1000, "--batch_size", 50, "--model.sampler.num_steps", 3000)
    finish(*LAST, *many, action="predict")
    whole = np.load(RUNS / "version_1/samples.npz")["samples"]
    process = start(*LAST, *many, action="predict")
    parts = RUNS / "version_2/parts"
    while len(list(parts.glob("*.npz"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    begun = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npz")}
    assert 3 <= len(begun) < 20
    resume = ("--resume", RUNS / "version_2")
    # Others, in a directory with these, would be mixed with them.
    process = start(*LAST, *many, *resume, "--seed_everything", 5, action="predict")
    assert process.wait() == 1
    *_, last = Path("log.txt").read_text().strip().splitlines()
    assert "is of other samples: seed was 0, and is 5 now" in last
    process = start(*LAST, *many, *resume, action="predict", PLACE="predict")
    stop(process, "predict", signal.SIGTERM, wait=0.5)
    assert process.returncode == 128 + signal.SIGTERM
    *_, last = Path("log.txt").read_text().strip().splitlines()
    assert last.endswith(f"go on with --resume {RUNS / 'version_2'}")
    for name, written in begun.items():
        assert (parts / name).stat().st_mtime_ns == written
    finish(*LAST, *many, *resume, action="predict")
    resumed = np.load(RUNS / "version_2/samples.npz")["samples"]
    np.testing.assert_array_equal(resumed, whole)
    assert {path.name for path in (RUNS / "version_2").iterdir()} == {
        "config.yaml", "samples.npz", "samples.png"
    }  # fmt: skip
    first_sample = ("--first_sample", 700, "--num_samples", 100, "--batch_size", 50)
    finish(*LAST, *many, *first_sample, action="predict")
    part = np.load(RUNS / "version_3/samples.npz")["samples"]
    np.testing.assert_allclose(part, whole[700:800], atol=1e-5)
