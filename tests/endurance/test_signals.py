"""A signal to any rank ends the whole job within seconds, with a checkpoint: real processes."""

import fcntl
import os
import pty
import signal
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.jobs import (
    CHECKPOINT,
    DDP,
    ENDLESS,
    LAST,
    MOONS,
    PYTHON,
    RUNS,
    catches,
    descendants,
    running,
)
from support.paths import ROOT
from support.processes import SUPPORT
from support.runs import assert_same_training, load_last
from support.wandb_files import wandb_records

SIGHUP, SIGINT, SIGTERM, SIGUSR1 = signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1
FIT = (*PYTHON, "ncsn", "fit", *MOONS, *ENDLESS)
ONE_BATCH = (*ENDLESS, "--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 0)
SLOW_PREVIEW = (*ENDLESS, "--model.preview.sampler.num_steps", 1_000_000)
SLOW_PICTURES = ("--model.sampler.num_steps", 1_000_000, "--trainer.max_epochs", 1)


def assert_saved(job, signum, place):
    """The last line says which step was saved, and how to resume from it."""
    last, checkpoint = job.last_line(), load_last(RUNS / "version_0")
    assert last.startswith(f"error: stopped by {signum.name}")
    if place != "pictures":
        assert f"after step {checkpoint['global_step']}; resume with --ckpt_path last" in last


@pytest.mark.parametrize(
    ("signum", "place", "options"),
    [
        (SIGTERM, "training", ENDLESS),
        (SIGINT, "training", ENDLESS),
        (SIGUSR1, "training", ENDLESS),
        (SIGHUP, "training", ENDLESS),
        (SIGTERM, "training", ONE_BATCH),
        (SIGTERM, "validation", ENDLESS),
        (SIGINT, "preview", SLOW_PREVIEW),
        (SIGTERM, "pictures", SLOW_PICTURES),
    ],
)
def test_a_signal_ends_a_fit_with_a_checkpoint(signum, place, options, jobs):
    job = jobs.start(*options, PLACE=place)
    assert job.stop(place, signum) < 10
    assert job.wait() == 128 + signum
    assert_saved(job, signum, place)


@pytest.mark.parametrize(
    ("signum", "to", "place", "options"),
    [
        (SIGTERM, (0,), "training", ENDLESS),
        (SIGTERM, (1,), "training", ENDLESS),
        (SIGTERM, (0, 1), "training", ENDLESS),
        (SIGINT, (0, 1), "training", ENDLESS),  # as a terminal does
        (SIGUSR1, (1,), "training", ENDLESS),
        (SIGHUP, (0,), "training", ENDLESS),
        (SIGTERM, (1,), "validation", ENDLESS),
        # Rank 1 waits for rank 0, which draws.
        (SIGTERM, (1,), "preview", SLOW_PREVIEW),
        (SIGINT, (0, 1), "preview", SLOW_PREVIEW),
        (SIGTERM, (1,), "pictures", SLOW_PICTURES),
    ],
)
def test_a_signal_to_any_rank_ends_all(signum, to, place, options, jobs):
    job = jobs.start(*options, ranks=2, PLACE=place)
    assert job.stop(place, signum, to, world_size=2) < 10
    assert job.wait() == 128 + signum
    assert_saved(job, signum, place)


def test_a_signal_ends_a_process_that_was_not_forked(jobs):
    job = jobs.start_program(*FIT, PLACE="training")
    assert job.stop("training", SIGTERM) < 10
    assert job.wait() == 128 + SIGTERM
    assert_saved(job, SIGTERM, "training")


def test_a_terminal_that_closes_ends_a_fit_with_a_checkpoint(jobs):
    """Its progress bar can't be drawn any more, and a pipe may have lost its reader as well."""
    terminal, stream = pty.openpty()
    bar = ("--trainer.enable_progress_bar", "true", "--progress_bar.refresh_rate", 1)
    unsaved = ("--last.every_n_train_steps", 10_000)
    job = jobs.start_program(
        *(*FIT, *bar, *unsaved),
        PLACE="training",
        popen={
            "stdin": stream,
            "stdout": stream,
            "stderr": stream,
            "start_new_session": True,
            "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        },
    )
    os.close(stream)
    os.set_blocking(terminal, False)

    def arrived():
        with suppress(BlockingIOError):
            os.read(terminal, 2**16)
        return Path("training-0").exists()

    job.wait_until(arrived)
    os.close(terminal)  # the system sends the signal
    assert job.wait() == 128 + SIGHUP
    assert load_last(RUNS / "version_0")["global_step"]


def test_nohup_keeps_a_fit_alive(jobs):
    job = jobs.start_program("nohup", *FIT, PLACE="training")
    pid = job.wait_for("training")
    os.kill(pid, SIGHUP)
    time.sleep(1)
    assert running(pid)
    assert job.stop("training", SIGTERM) < 10
    assert_saved(job, SIGTERM, "training")


@pytest.mark.parametrize("signum", [signal.SIGQUIT, signal.SIGUSR2])
def test_other_signals_do_what_the_system_does(signum, jobs):
    job = jobs.start(*ENDLESS, PLACE="training")
    job.stop("training", signum)
    assert job.wait() == -signum
    assert "error" not in job.output()


@pytest.mark.parametrize("delay", [0, 0.7, 2.7])
@pytest.mark.parametrize(
    ("signum", "reason"), [(SIGINT, "interrupted"), (SIGTERM, "stopped by SIGTERM")]
)
def test_a_signal_while_libraries_are_imported_gets_one_line(signum, reason, delay, jobs):
    job = jobs.start_program(*FIT)
    job.wait_until(lambda: catches(job.pid, SIGUSR1))  # Python itself catches SIGINT alone
    time.sleep(delay)
    job.processes[0].send_signal(signum)
    assert job.wait() == 128 + signum
    assert job.output() == f"error: {reason}\n"


SLOW_START = """
import atexit, os, pathlib, time, ncsn.data

class {name}(ncsn.data.MoonsDataModule):
    def {method}(self, *args, **kwargs):
        if os.environ.get("LOCAL_RANK", "0") == "{rank}":
            pathlib.Path("start").write_text(str(os.getppid() if {rank} else os.getpid()))
            pathlib.Path("start").rename("start-0")
            time.sleep({seconds})
        elif {rank}:
            atexit.register(time.sleep, 6)  # on a busy machine, it takes as long to end
        super().{method}(*args, **kwargs)
"""


@pytest.mark.parametrize("signum", [SIGINT, SIGTERM, SIGHUP])
@pytest.mark.parametrize(
    ("method", "rank", "options"),
    [
        ("__init__", 0, ()),
        ("prepare_data", 0, ()),
        ("setup", 0, ()),
        ("__init__", 1, DDP),  # rank 0 has started it, and hears of a signal when it arrives
    ],
)
def test_a_signal_before_the_training_gets_one_line(signum, method, rank, options, jobs):
    Path("slow.py").write_text(
        SLOW_START.format(name="Slow", method=method, rank=rank, seconds=5 if rank else 60)
    )
    data = ("--data", "slow.Slow", *options)
    job = jobs.start(*data, PLACE="none", PYTHONPATH=f"{ROOT}:{SUPPORT}:{Path.cwd()}")
    pid = job.wait_for("start")
    children = list(descendants(pid))
    job.end([pid, *children], signum)
    assert job.wait() == 128 + signum
    assert job.last_line().startswith(("error: interrupted", f"error: stopped by {signum.name}"))
    assert job.output().count("error") == 1
    assert "Traceback" not in job.output()
    assert "graceful" not in job.output()


def test_a_signal_to_a_rank_that_lightning_has_started_ends_all(jobs):
    job = jobs.start(*DDP, *ENDLESS, PLACE="training")
    assert job.stop("training", SIGTERM, to=(1,), world_size=2) < 10
    assert job.wait() == 128 + SIGTERM
    assert_saved(job, SIGTERM, "training")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_training_that_was_stopped_resumes_exactly(ranks, jobs, undisturbed):
    for place in ("training", "validation"):
        job = jobs.start(*LAST, ranks=ranks, PLACE=place)
        job.stop(place, SIGTERM, world_size=ranks)
        assert job.wait() == 128 + SIGTERM
    jobs.finish(*LAST, ranks=ranks)
    assert_same_training(RUNS / "version_0", undisturbed(ranks))


@pytest.mark.parametrize("command", ["predict", "test"])
def test_a_signal_ends_what_is_not_a_training_at_once(command, jobs, undisturbed):
    slow = ("--ckpt_path", undisturbed() / CHECKPOINT, "--model.sampler.num_steps", 1_000_000)
    job = jobs.start(*slow, command=command, PLACE=command)
    assert job.stop(command, SIGTERM, wait=1.0) < 10
    assert job.wait() == 128 + SIGTERM
    assert job.last_line().startswith("error: stopped by SIGTERM")


def test_wandb_hears_that_the_run_has_ended_and_resumes_it(jobs):
    logger = ("--trainer.logger+", "ncsn.runtime.WandbLogger")
    for place in ("training", "preview"):
        job = jobs.start(*LAST, *ENDLESS, *logger, PLACE=place, WANDB_MODE="offline")
        job.stop(place, SIGTERM)
        assert job.wait() == 128 + SIGTERM
    runs = sorted(Path("lightning_logs/wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert len({run.name.split("-")[-1] for run in runs}) == 1  # W&B's name of the run
    for run in runs:
        ends = [r.exit for r in wandb_records(next(run.glob("*.wandb"))) if r.HasField("exit")]
        assert len(ends) == 1
        assert ends[0].exit_code
