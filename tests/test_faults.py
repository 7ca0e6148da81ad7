"""Faults of disks, of data and of W&B."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import CONFIGS, OVERLAYS, ROOT, run_process
from test_resume import DDP, LAST, RUNS, finish, losses, start
from test_resume import short as short
from test_signals import ENDLESS, wait_for

from ncsn.checkpoints import load_checkpoint
from ncsn.data import MNISTDataModule
from ncsn.errors import UserError

SMOKE = ("--config", CONFIGS / "moons.yaml", "--config", OVERLAYS / "smoke.yaml")
MNIST = ("--config", CONFIGS / "mnist.yaml", "--config", OVERLAYS / "smoke.yaml")
RAW = Path("data/MNIST/raw")


def last_line(text):
    return text.strip().splitlines()[-1]


# ---- disks ----------------------------------------------------------------------------------


def test_a_place_that_cannot_be_written_is_found_before_training(cli, capsys):
    Path("lightning_logs").touch()
    assert cli("fit", *SMOKE) == 1
    output = capsys.readouterr()
    assert last_line(output.err).startswith("error: lightning_logs")
    assert "Epoch 0" not in output.out


@pytest.fixture
def small_disk():
    """A file system with little space."""
    path = Path("small").absolute()
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_training_that_fills_the_disk_keeps_its_checkpoint(small_disk):
    options = ("--trainer.logger.save_dir", small_disk, "--model.preview_every_n_epochs", 0)
    process = start(*options, PLACE="validation")
    wait_for(Path("validation-0"), process)
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert process.wait() == 1
    assert "No space left on device" in last_line(Path("log.txt").read_text())
    (checkpoint,) = small_disk.rglob("last.ckpt")
    assert load_checkpoint(checkpoint)["global_step"] >= 15


# ---- MNIST ----------------------------------------------------------------------------------


@pytest.fixture
def mnist_copy(mnist_dir):
    RAW.mkdir(parents=True)
    for path in (mnist_dir / "MNIST/raw").glob("*-ubyte"):
        shutil.copy(path, RAW)
    return RAW


def flip_a_bit(raw):
    path = raw / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def truncate(raw):
    os.truncate(raw / "t10k-images-idx3-ubyte", 1000)


def empty(raw):
    os.truncate(raw / "t10k-labels-idx1-ubyte", 0)


def swap(raw):
    (raw / "t10k-labels-idx1-ubyte").rename(raw / "x")
    shutil.copy(raw / "train-labels-idx1-ubyte", raw / "t10k-labels-idx1-ubyte")


def make_a_directory(raw):
    os.remove(raw / "train-labels-idx1-ubyte")
    (raw / "train-labels-idx1-ubyte").mkdir()


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, swap, make_a_directory])
def test_damaged_mnist_is_named(damage, mnist_copy, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    damage(mnist_copy)
    with pytest.raises(UserError, match="data"):
        MNISTDataModule(Path("data")).prepare_data()


SERVER = """
import shutil, sys, time
from pathlib import Path
import torchvision.datasets.mnist as mnist
from ncsn.checkpoints import load_checkpoint
from ncsn.data import MNISTDataModule
source = Path(sys.argv[1])
def download(url, download_root, filename, md5):
    with open("downloads", "a") as file:
        file.write(filename + "\\n")
    name = filename.removesuffix(".gz")
    content = (source / name).read_bytes()
    with open(Path(download_root) / name, "wb") as file:  # slowly: half of it, and the rest
        file.write(content[: len(content) // 2])
        file.flush()
        time.sleep(0.5)
        file.write(content[len(content) // 2 :])
mnist.download_and_extract_archive = download
MNISTDataModule(Path("data")).prepare_data()
"""


@pytest.mark.slow
def test_two_processes_that_prepare_the_data_at_once_wait_for_each_other(mnist_dir):
    command = [sys.executable, "-c", SERVER, str(mnist_dir / "MNIST/raw")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=env) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(Path("downloads").read_text().splitlines()) == 4  # each file once


@pytest.mark.slow
def test_missing_data_ends_all_ranks_without_a_traceback():
    nobody = "http://127.0.0.1:9"
    args = ("fit", *MNIST, *DDP, "--data.data_dir", "none")
    result = run_process(*args, check=False, http_proxy=nobody, https_proxy=nobody)
    assert result.returncode
    assert "Traceback" not in result.stderr
    assert "error: MNIST is not in none/MNIST/raw" in result.stderr


# ---- W&B ----------------------------------------------------------------------------------

WANDB = ("--trainer.logger+", "ncsn.loggers.WandbLogger")


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


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_training_goes_on_when_the_service_of_wandb_is_killed():
    process = start(*WANDB, PLACE="training", WANDB_MODE="offline")
    pid = wait_for(Path("training-0"), process)
    services = list(children(pid))
    assert services
    for service in services:
        os.kill(service, signal.SIGKILL)
    assert process.wait() == 0, Path("log.txt").read_text()[-3000:]
    assert list(losses(RUNS / "version_0")) == list(range(48))
    assert Path("log.txt").read_text().count("W&B failed") <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_training_goes_on_when_the_disk_of_wandb_is_full(small_disk):
    with (small_disk / "filler").open("wb") as file:
        file.write(bytes(8150 * 1024))
    full = ("--trainer.logger.save_dir", small_disk)
    process = start(*WANDB, *full, WANDB_MODE="offline")
    assert process.wait() == 0, Path("log.txt").read_text()[-3000:]
    assert list(losses(RUNS / "version_0")) == list(range(48))


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_key_without_a_network_costs_seconds():
    environment = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    process = start(*WANDB, WANDB_MODE="", **environment)
    assert process.wait() == 0
    log = Path("log.txt").read_text()
    assert log.count("W&B runs offline: http://127.0.0.1:9 cannot be reached") == 1
    assert list(losses(RUNS / "version_0")) == list(range(48))


# ---- long runs ----------------------------------------------------------------------------------


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, Path("log.txt").read_text()[-3000:]
        time.sleep(0.05)


def resources(pid):
    """Resident memory in MB, open files and threads of a process."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    memory = int(status["VmRSS"].split()[0]) / 1024
    return memory, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_long_training_needs_no_more_than_a_short_one():
    # An epoch has 31 steps, a validation, pictures and ten checkpoints.
    options = ("--trainer.accumulate_grad_batches", 1, "--trainer.log_every_n_steps", 31)
    process = start(*ENDLESS, *options, "--model.preview_every_n_epochs", 1)
    pictures, seen = RUNS / "version_0/pictures", []
    for epochs in (15, 66):  # 66 epochs are 2,046 steps
        wait_until(lambda n=epochs: len(list(pictures.glob("samples_step*"))) >= n, process)
        seen.append(resources(process.pid))
    process.terminate()
    process.wait()
    (memory, files, threads), (later, files_later, threads_later) = seen
    assert later < memory + 30, seen
    assert (files_later, threads_later) <= (files, threads), seen


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_drawing_many_samples_needs_no_more_than_drawing_few():
    finish("--trainer.max_epochs", 1, "--model.lr_scheduler", "null")
    many = ("--num_samples", 50_000, "--batch_size", 500, "--model.sampler.num_steps", 500)
    process = start(*LAST, *many, action="predict")
    parts, seen = RUNS / "version_1/parts", []
    for batches in (10, 60):
        wait_until(lambda n=batches: len(list(parts.glob("*.npz"))) >= n, process)
        seen.append(resources(process.pid))
    process.terminate()
    process.wait()
    (memory, files, threads), (later, files_later, threads_later) = seen
    assert later < memory + 10, seen
    assert (files_later, threads_later) <= (files, threads), seen
