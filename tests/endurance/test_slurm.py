"""The scripts for SLURM, on a real cluster of one node that the test starts."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from support.jobs import CHECKPOINT, MOONS, RUNS, genuine
from support.paths import CONFIGS
from support.ranks import free_port
from support.runs import assert_same_training

pytestmark = pytest.mark.timeout(1500)

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
NODE = socket.gethostname().split(".")[0]
SLURM_CONF = """
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def install():
    """Install SLURM, or skip the test."""
    if all(map(shutil.which, PROGRAMS)):
        return
    for command in (
        ["update"],
        ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"],
    ):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        result = subprocess.run(["apt-get", *command], env=env, capture_output=True, check=False)
        if result.returncode:
            pytest.skip(f"SLURM cannot be installed: {result.stderr.decode().strip()[-200:]}")


@pytest.fixture(scope="module")
def turn():
    """One cluster at a time: munged is one for the machine."""
    with FileLock(Path(tempfile.gettempdir()) / "ncsn-test-slurm.lock"):
        yield


@pytest.fixture(scope="module")
def cluster(turn, tmp_path_factory):
    """A controller and a node."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("SLURM can only be installed and started by root, on Debian")
    install()
    directory = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (directory / name).mkdir()
    text = SLURM_CONF.format(
        node=NODE,
        port=free_port(),
        node_port=free_port(),
        directory=directory,
        cpus=os.cpu_count(),
    )
    (directory / "slurm.conf").write_text(text)
    subprocess.run(["install", "-d", "-o", "munge", "/run/munge"], check=True)
    env = {**os.environ, "SLURM_CONF": str(directory / "slurm.conf")}
    commands = (
        ["runuser", "-u", "munge", "--", "munged", "--foreground"],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    services = []
    try:
        for command in commands:
            log = (directory / f"{command[-2]}.out").open("w")
            services.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            time.sleep(1)
        end = time.monotonic() + 60
        while "idle" not in output_of(["sinfo"], env):
            assert time.monotonic() < end, (directory / "slurmd.log").read_text()
            time.sleep(0.5)
        yield env
    finally:
        for service in reversed(services):
            service.terminate()
            service.wait()


def output_of(command, env):
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout


def submit(cluster, *arguments, **environment):
    """Submit a job; returns its number."""
    env = genuine(**environment, SLURM_CONF=cluster["SLURM_CONF"])
    command = ["sbatch", "--parsable", *map(str, arguments)]
    return subprocess.run(command, env=env, stdout=-1, text=True, check=True).stdout.strip()


def wait(cluster, condition, job, seconds=240):
    """Wait until a condition on what SLURM says about a job is true."""
    end = time.monotonic() + seconds
    while True:
        state = output_of(["scontrol", "show", "job", job], cluster)
        if condition(state):
            return
        logs = "\n".join(path.read_text()[-3000:] for path in Path().glob("*.log"))
        assert time.monotonic() < end, state + logs
        assert "JobState=FAILED" not in state, state + logs
        time.sleep(0.2)


def test_a_fit_is_preempted_and_requeued_and_ends_like_an_undisturbed_one(cluster, undisturbed):
    job = submit(
        cluster,
        *("--gpus-per-node=0", "--ntasks-per-node=2", "--cpus-per-task=1"),
        *(CONFIGS / "slurm/fit.sbatch", *MOONS[1:]),
        *("--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"),
        PLACE="training",
    )
    directory = Path(f"lightning_logs/slurm/{job}")
    wait(cluster, lambda state: (directory / "training-1").exists(), job)
    subprocess.run(["scancel", "--signal=USR1", job], env=cluster, check=True)
    wait(cluster, lambda state: "Restarts=1" in state, job)
    wait(cluster, lambda state: "JobState=COMPLETED" in state, job)
    log = Path(f"ncsn-{job}.log").read_text()
    assert "stopped by SIGUSR1 after step" in log
    assert "Restoring states from the checkpoint" in log
    assert_same_training(directory / "lightning_logs/moons/version_0", undisturbed(2))


def test_an_array_of_jobs_shards_the_samples(cluster, jobs, undisturbed):
    checkpoint = undisturbed() / CHECKPOINT
    jobs.finish("--ckpt_path", checkpoint, "--num_samples", 40, command="predict")
    # Files are given as seen from here, and a name is left alone even if there is such a file.
    Path("checkpoint.ckpt").symlink_to(checkpoint)
    Path("mine").touch()
    job = submit(
        cluster,
        *("--gpus-per-node=0", "--array=0-1", "--cpus-per-task=1"),
        *(CONFIGS / "slurm/sample.sbatch", MOONS[1], "checkpoint.ckpt", 20, *MOONS[2:]),
        *("--name", "mine"),
    )
    wait(cluster, lambda state: state.count("JobState=COMPLETED") == 2, job)
    parts = [
        np.load(f"lightning_logs/slurm/{job}_{task}/lightning_logs/mine/version_0/samples.npz")
        for task in (0, 1)
    ]
    whole = np.load(RUNS / "version_0/samples.npz")["samples"]
    samples = np.concatenate([part["samples"] for part in parts])
    np.testing.assert_allclose(samples, whole, atol=1e-5)
