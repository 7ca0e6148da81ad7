"""Fixtures for trainings that are interrupted, and those that they must agree with."""

import os
import signal
import subprocess
from contextlib import chdir
from pathlib import Path

import pytest
from support.jobs import RUNS, Jobs

for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    # Ignored by a suite that runs under nohup or in a script's background, and by what it starts.
    if signal.getsignal(signum) == signal.SIG_IGN:
        default = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
        signal.signal(signum, default)


@pytest.fixture
def jobs(server):
    """Starts commands in the test's directory."""
    return Jobs(server)


@pytest.fixture(scope="session")
def undisturbed(server, tmp_path_factory):
    """``undisturbed(ranks)`` is the directory of a run that met with nothing."""
    runs = {}

    def train(ranks=1):
        if ranks not in runs:
            directory = tmp_path_factory.mktemp("undisturbed")
            with chdir(directory), pytest.MonkeyPatch.context() as patch:
                patch.setenv("WANDB_MODE", "disabled")
                Jobs(server).finish(ranks=ranks)
            runs[ranks] = directory / RUNS / "version_0"
        return runs[ranks]

    return train


@pytest.fixture
def small_disk():
    """A file system with little space."""
    path = Path("small").absolute()
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)
