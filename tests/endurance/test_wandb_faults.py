"""W&B's service is killed, its disk is full, its server is out of reach: training continues."""

import os
import signal
from pathlib import Path

from support.jobs import RUNS, STEPS
from support.runs import losses

WANDB = ("--trainer.logger+", "ncsn.runtime.WandbLogger")


def children(pid):
    """The processes below a process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield int(path.parent.name)
            yield from children(int(path.parent.name))


def assert_trained(job):
    """The training has ended, and all of its losses are in the CSV log."""
    assert job.wait() == 0, job.output()[-3000:]
    assert list(losses(RUNS / "version_0")) == list(range(STEPS))


def test_training_continues_when_the_service_is_killed(jobs):
    job = jobs.start(*WANDB, PLACE="training", WANDB_MODE="offline")
    services = list(children(job.wait_for("training")))
    assert services
    for service in services:
        os.kill(service, signal.SIGKILL)
    assert_trained(job)
    assert job.output().count("W&B failed") <= 1


def test_training_continues_when_the_disk_of_wandb_is_full(small_disk, jobs):
    with (small_disk / "filler").open("wb") as file:
        file.write(bytes(8150 * 1024))
    full = ("--trainer.logger.save_dir", small_disk)
    assert_trained(jobs.start(*WANDB, *full, WANDB_MODE="offline"))
    assert list(small_disk.glob("wandb/offline-run-*"))  # that is where W&B tried to write


def test_a_key_without_a_network_costs_seconds(jobs):
    environment = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    job = jobs.start(*WANDB, WANDB_MODE="", **environment)
    assert_trained(job)
    reason = "W&B runs offline: http://127.0.0.1:9 cannot be reached"
    assert job.output().count(reason) == 1
