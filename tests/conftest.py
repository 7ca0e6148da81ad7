"""Shared fixtures. No test needs the network, a GPU or a download."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # a test runs on each core

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
OVERLAYS = CONFIGS / "overlays"


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


@pytest.fixture
def cli(monkeypatch):
    """Run the command line in this process; returns the exit status."""
    from ncsn.cli import main

    monkeypatch.setattr(sys, "argv", ["ncsn"])  # LightningCLI warns of two sets of arguments

    def run(*args):
        try:
            main([str(arg) for arg in args])
        except SystemExit as stop:
            return stop.code
        return 0

    return run


def run_process(*args, check=True, **environment):
    """Run ``python -m ncsn`` in a process of its own; None takes a variable away."""
    # One thread a process, so that two of them do not wait for each other on two cores.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    env = {name: value for name, value in env.items() if value is not None}
    result = subprocess.run(
        [sys.executable, "-m", "ncsn", *map(str, args)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not check or result.returncode == 0, result.stderr[-3000:]
    return result


def wandb_records(run_file):
    """What is in a .wandb file: LevelDB's log format, each record a protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, pending, records = run_file.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:  # a block's end is padded
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        pending += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(pending))
            pending = b""
    return records
