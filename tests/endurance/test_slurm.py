"""The scripts for SLURM, on a real cluster of two nodes that the test starts on this machine."""

import os
import subprocess
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


@pytest.mark.parametrize("form", ["{name} {value}", "{name}={value}"], ids=["two words", "one"])
def test_files_are_found_from_the_directory_of_the_job_and_names_are_left_alone(tmp_path, form):
    program = tmp_path / "bin/srun"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    for name in ("own.yaml", "images"):
        (tmp_path / name).touch()
    options = ("--data.folder images", "--name images", "--wandb.project images", "--seed 3")
    words = [form.format(name=name, value=value) for name, value in map(str.split, options)]
    slurm = {"JOB_ID": 7, "NNODES": 1, "NTASKS_PER_NODE": 1}
    process = subprocess.run(
        ["bash", CONFIGS / "slurm/fit.sbatch", "own.yaml", *" ".join(words).split()],
        env={
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            **{f"SLURM_{key}": str(value) for key, value in slurm.items()},
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    passed = process.stdout.replace("\n", " ")
    assert f"--config {tmp_path}/own.yaml " in passed
    words[0] = form.format(name="--data.folder", value=tmp_path / "images")
    assert passed.endswith(" ".join(words) + " ")


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
