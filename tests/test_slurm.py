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
from conftest import CONFIGS
from filelock import FileLock
from test_resume import (
    DDP,
    LAST,
    RUNS,
    assert_same_training,
    environment_of,
    finish,
    short,  # noqa: F401
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

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


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


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
            time.sleep(2)
        end = time.monotonic() + 60
        while (
            "idle" not in subprocess.run(["sinfo"], env=env, capture_output=True).stdout.decode()
        ):
            assert time.monotonic() < end, (directory / "slurmd.log").read_text()
            time.sleep(1)
        yield env
    finally:
        for service in reversed(services):
            service.terminate()
            service.wait()


def submit(cluster, *arguments, **environment):
    env = {**environment_of(**environment), "SLURM_CONF": cluster["SLURM_CONF"]}
    result = subprocess.run(
        ["sbatch", "--parsable", *map(str, arguments)], env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def wait(cluster, condition, job, seconds=240):
    """Wait until a condition on what SLURM says of a job is true."""
    end = time.monotonic() + seconds
    while True:
        show = ["scontrol", "show", "job", job]
        told = subprocess.run(show, env=cluster, capture_output=True, text=True).stdout
        if condition(told):
            return told
        logs = "\n".join(path.read_text()[-3000:] for path in Path().glob("*.log"))
        assert time.monotonic() < end, told + logs
        assert "JobState=FAILED" not in told, told + logs
        time.sleep(0.5)


def test_a_fit_is_pre_empted_queued_again_and_ends_like_an_undisturbed_one(cluster):
    finish(*DDP)
    os.rename(RUNS / "version_0", "undisturbed")
    job = submit(
        cluster,
        *("--gpus-per-node=0", "--ntasks-per-node=2", "--cpus-per-task=1"),
        *(CONFIGS / "slurm/fit.sbatch", CONFIGS / "moons.yaml", "--config", "short.yaml"),
        *("--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"),
        PLACE="training",
    )
    directory = Path(f"lightning_logs/slurm/{job}")
    wait(cluster, lambda told: (directory / "training-1").exists(), job)
    subprocess.run(["scancel", "--signal=USR1", job], env=cluster, check=True)
    wait(cluster, lambda told: "Restarts=1" in told, job)
    wait(cluster, lambda told: "JobState=COMPLETED" in told, job)
    log = Path(f"ncsn-{job}.log").read_text()
    assert "stopped by SIGUSR1 after step" in log
    assert "Restoring states from the checkpoint" in log
    assert_same_training(directory / "lightning_logs/moons/version_0", Path("undisturbed"))


def test_an_array_of_jobs_shares_the_samples_out(cluster):
    finish("--trainer.max_epochs", 1, "--model.lr_scheduler", "null")
    finish(*LAST, "--num_samples", 40, action="predict")
    job = submit(
        cluster,
        *("--gpus-per-node=0", "--array=0-1", "--cpus-per-task=1"),
        *(CONFIGS / "slurm/sample.sbatch", CONFIGS / "moons.yaml"),
        *(RUNS / "version_0/checkpoints/last.ckpt", 20, "--config", "short.yaml"),
    )
    wait(cluster, lambda told: told.count("JobState=COMPLETED") == 2, job)
    parts = [
        np.load(f"lightning_logs/slurm/{job}_{task}/lightning_logs/moons/version_0/samples.npz")
        for task in (0, 1)
    ]
    whole = np.load(RUNS / "version_1/samples.npz")["samples"]
    samples = np.concatenate([part["samples"] for part in parts])
    np.testing.assert_allclose(samples, whole, atol=1e-5)
