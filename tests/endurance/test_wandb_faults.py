"""W&B fails in any way: training continues, ends well, and is held up for seconds only."""

import os
import signal
import time
from pathlib import Path

import pytest
from support.jobs import EPOCHS, LAST, MOONS, PYTHON, RUNS, STEPS, descendants
from support.runs import losses
from support.wandb_server import KEY, wandb_server

WANDB = ("--trainer.logger+", "ncsn.runtime.WandbLogger")
LIMIT = 90  # seconds for all; W&B alone would take many minutes
TROUBLES = (401, 403, 500, "silence", "garbage", "closed", "empty")


def assert_trained(job, warnings=1):
    """The training has ended, and all of its losses are in the CSV log."""
    assert job.wait() == 0, job.output()[-3000:]
    assert list(losses(RUNS / "version_0")) == list(range(STEPS))
    output = job.output()
    assert output.count("warning: W&B") + output.count("damaged: W&B") == warnings, output
    assert "Traceback" not in output


def seconds(job):
    begin = time.monotonic()
    job.wait()
    return time.monotonic() - begin


def test_a_run_is_uploaded(jobs):
    with wandb_server() as server:
        job = jobs.start(*WANDB, **server.environment)
        assert_trained(job, warnings=0)
    streams = b"".join(body for path, body in server.requests if "file_stream" in path)
    assert b"train/loss_per_dim" in streams
    assert b'"exitcode":0' in streams


@pytest.mark.parametrize("trouble", TROUBLES)
def test_training_continues_when_the_server_fails(trouble, jobs):
    with wandb_server(trouble) as server:
        job = jobs.start(*WANDB, **server.environment)
        assert seconds(job) < LIMIT
        assert_trained(job)
    assert "W&B runs offline: http://127.0.0.1:" in job.output()
    assert list(Path("lightning_logs/wandb").glob("offline-run-*"))


@pytest.mark.parametrize("trouble", [*TROUBLES, "gone"])
def test_training_continues_when_the_server_fails_in_mid_run(trouble, jobs):
    with wandb_server() as server:
        job = jobs.start(*WANDB, PLACE="training", **server.environment)
        job.wait_for("training")
        server.trouble = trouble
        if trouble == "gone":
            server.shutdown()
            server.server_close()
        assert seconds(job) < LIMIT
        assert_trained(job, warnings=0)


@pytest.mark.parametrize(
    "environment",
    [
        {"WANDB_MODE": "ofline"},
        {"WANDB_MODE": "online", "WANDB_BASE_URL": "api.wandb.ai", "WANDB_API_KEY": KEY},
        {"WANDB_MODE": "online", "WANDB_BASE_URL": "https://api wandb", "WANDB_API_KEY": KEY},
        {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://*..", "WANDB_API_KEY": KEY},
        {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY},
    ],
)
def test_training_continues_with_mistakes_in_the_environment(environment, jobs):
    job = jobs.start(*WANDB, **environment)
    assert seconds(job) < LIMIT
    assert_trained(job)


@pytest.mark.parametrize("key", ["0", "ü"])
def test_training_continues_with_a_key_of_a_wrong_format(key, jobs):
    with wandb_server() as server:
        job = jobs.start(*WANDB, **server.environment | {"WANDB_API_KEY": key})
        assert_trained(job)


def test_training_continues_when_the_service_is_killed(jobs):
    job = jobs.start(*WANDB, PLACE="training", WANDB_MODE="offline")
    services = list(descendants(job.wait_for("training")))
    assert services
    for service in services:
        os.kill(service, signal.SIGKILL)
    assert_trained(job)


def test_training_continues_when_the_disk_of_wandb_is_full(small_disk, jobs):
    with (small_disk / "filler").open("wb") as file:
        file.write(bytes(8150 * 1024))
    full = ("--trainer.logger.save_dir", small_disk)
    assert jobs.start(*WANDB, *full, WANDB_MODE="offline").wait() == 0
    assert list(losses(RUNS / "version_0")) == list(range(STEPS))
    assert list(small_disk.glob("wandb/offline-run-*"))  # that is where W&B tried to write


def test_training_continues_when_the_directory_of_wandb_is_a_file(jobs):
    Path("file").touch()
    occupied = ("--trainer.logger.save_dir", "file")
    assert_trained(jobs.start(*WANDB, *occupied, WANDB_MODE="offline"))


def test_training_continues_without_wandb(jobs):
    Path("wandb.py").write_text("raise ImportError('a broken installation')")
    args = ("fit", *MOONS, *WANDB)
    job = jobs.start_program(*PYTHON, "ncsn", *args, WANDB_MODE="offline")
    assert_trained(job)
    assert "a broken installation" in job.output()


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff\xfe", b"a/b", b"x" * 1000])
def test_a_damaged_identifier_starts_a_new_run_of_wandb(content, jobs):
    short = ("--trainer.max_epochs", 1, "--model.lr_scheduler", "null")
    jobs.finish(*WANDB, *short, WANDB_MODE="offline")
    (RUNS / "version_0/wandb_id.txt").write_bytes(content)
    more = ("--trainer.max_epochs", EPOCHS, "--model.lr_scheduler", "null")
    job = jobs.start(*WANDB, *LAST, *more, WANDB_MODE="offline")
    assert_trained(job)
    assert len(list(Path("lightning_logs/wandb").glob("offline-run-*"))) == 2
