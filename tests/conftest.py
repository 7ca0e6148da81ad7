"""Fixtures that all tests share. No test needs the network, a GPU or a download."""

import os
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from support.own_data import write_data
from support.paths import CONFIGS, ROOT, SMOKE
from support.processes import Server

torch.set_num_threads(1)  # a test runs on each core


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """Each test in its own directory, with W&B off and its own random state."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def mnist_dir():
    """A directory with the real MNIST files, where there is one."""
    for path in (Path(os.environ.get("MNIST_DIR", "data")), ROOT / "../shared/data"):
        if (path / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return path.resolve()
    pytest.skip("no MNIST files: set MNIST_DIR to the directory that holds MNIST/raw")


def run_cli(*args):
    """Run the command line in this process; returns the exit status."""
    from ncsn.cli import main

    try:
        main([str(arg) for arg in args])
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def cli():
    """The function :func:`run_cli`."""
    return run_cli


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """``trained("moons")`` is the directory of a smoke fit of a config, made once a session."""
    runs = {}

    def train(config):
        if config not in runs:
            directory = tmp_path_factory.mktemp(config)
            with chdir(directory), pytest.MonkeyPatch.context() as patch:
                patch.setenv("WANDB_MODE", "disabled")
                patch.delenv("PL_GLOBAL_SEED", raising=False)
                write_data(config)
                assert run_cli("fit", "--config", CONFIGS / f"{config}.yaml", *SMOKE) == 0
            runs[config] = directory / "lightning_logs" / config / "version_0"
        return runs[config]

    return train


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Starts processes of the command line; see :mod:`support.processes`."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def restore_signals():
    """For runs in this process that end in an error and do not give signal handlers back."""
    import signal

    from ncsn.runtime.signals import SIGNALS

    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
