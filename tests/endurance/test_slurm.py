"""The scripts for SLURM, on a real cluster of two nodes that the test starts on this machine."""

from pathlib import Path

import numpy as np
import pytest
from support.jobs import CHECKPOINT, MOONS, RUNS
from support.paths import CONFIGS
from support.runs import assert_same_training
from support.slurm import Cluster

pytestmark = pytest.mark.timeout(1500)

FIT = (
    *("--gpus-per-node=0", "--cpus-per-task=1", CONFIGS / "slurm/fit.sbatch", *MOONS[1:]),
    *("--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def signal(cluster, job):
    """What SLURM does before a job's time is up."""
    cluster.run("scancel", "--signal=USR1", job)


def preempt(cluster, job):
    """Submit an urgent job, which takes both nodes from this one."""
    cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=true")


def test_a_fit_on_two_nodes_is_interrupted_and_ends_like_an_undisturbed_one(cluster, undisturbed):
    """By the signal before its time is up, and by another job; as two processes on one node."""
    job = cluster.submit("--nodes=2", *FIT, PLACE="training", LINGER="0.2")
    directory = Path(f"lightning_logs/slurm/{job}")
    for start, interrupt in enumerate((signal, preempt), 1):
        cluster.wait(lambda state: (directory / "training-1").exists(), job)
        interrupt(cluster, job)
        cluster.wait(lambda state, start=start: f"Restarts={start}" in state, job)
        (directory / "training-1").unlink()
    cluster.wait(lambda state: "JobState=COMPLETED" in state, job)
    log = Path(f"ncsn-{job}.log").read_text()
    assert "stopped by SIGUSR1 after step" in log
    assert "stopped by SIGTERM after step" in log
    assert_same_training(directory / "lightning_logs/moons/version_0", undisturbed(2))


def test_an_array_of_jobs_is_interrupted_and_shards_the_samples(cluster, jobs, undisturbed):
    checkpoint = undisturbed() / CHECKPOINT
    jobs.finish("--ckpt_path", checkpoint, "--num_samples", 40, command="predict")
    # Files are given as seen from here, and a name is left alone even if there is such a file.
    Path("checkpoint.ckpt").symlink_to(checkpoint)
    Path("mine").touch()
    job = cluster.submit(
        *("--gpus-per-node=0", "--array=0-1", "--cpus-per-task=1"),
        *(CONFIGS / "slurm/sample.sbatch", MOONS[1], "checkpoint.ckpt", 20, *MOONS[2:]),
        *("--name", "mine", "--batch_size", 4),
        PLACE="drawing",
        LINGER="1",
    )
    tasks = [Path(f"lightning_logs/slurm/{job}_{task}") for task in (0, 1)]
    cluster.wait(lambda state: any(any(task.rglob("parts/*.npz")) for task in tasks), job)
    preempt(cluster, job)
    cluster.wait(lambda state: state.count("Restarts=1") == 2, job)
    cluster.wait(lambda state: state.count("JobState=COMPLETED") == 2, job)
    logs = [Path(f"ncsn-samples-{job}_{task}.log").read_text() for task in (0, 1)]
    assert any("its samples are kept: resume with" in log for log in logs)
    paths = [path for task in tasks for path in task.glob("lightning_logs/mine/*/samples.npz")]
    samples = np.concatenate([np.load(path)["samples"] for path in paths])
    whole = np.load(RUNS / "version_0/samples.npz")["samples"]
    np.testing.assert_allclose(samples, whole, atol=1e-5)
