"""MNIST's files: damaged, missing, or downloaded by two processes at once."""

import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest
import torchvision.datasets.mnist
from support.commands import smoke
from support.ranks import start_ranks

from ncsn.data import MNISTDataModule

RAW = Path("data/MNIST/raw")
NOBODY = "http://127.0.0.1:9"
NO_NETWORK = {"http_proxy": NOBODY, "https_proxy": NOBODY}


@pytest.fixture
def mnist_copy(mnist_dir):
    RAW.mkdir(parents=True)
    for path in (mnist_dir / "MNIST/raw").glob("*-ubyte"):
        shutil.copy(path, RAW)


def flip_a_bit():
    path = RAW / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def truncate():
    os.truncate(RAW / "t10k-images-idx3-ubyte", 1000)


def empty():
    os.truncate(RAW / "t10k-labels-idx1-ubyte", 0)


def swap():
    (RAW / "t10k-labels-idx1-ubyte").unlink()
    shutil.copy(RAW / "train-labels-idx1-ubyte", RAW / "t10k-labels-idx1-ubyte")


def make_a_directory():
    (RAW / "train-labels-idx1-ubyte").unlink()
    (RAW / "train-labels-idx1-ubyte").mkdir()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (flip_a_bit, ValueError),
        (truncate, ValueError),
        (empty, ValueError),
        (swap, ValueError),
        (make_a_directory, FileNotFoundError),
    ],
)
@pytest.mark.usefixtures("mnist_copy")
def test_damaged_files_are_named(damage, error, monkeypatch):
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)
    damage()
    with pytest.raises(error, match=f"{RAW}"):
        MNISTDataModule(Path("data")).prepare_data()


def prepare(source):
    """Download MNIST, slowly, from a directory: half of each file, then the rest."""

    def download(url, download_root, filename, md5):
        with Path("downloads").open("a") as file:
            file.write(f"{filename}\n")
        name = filename.removesuffix(".gz")
        content = (source / name).read_bytes()
        with (Path(download_root) / name).open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            time.sleep(0.5)
            file.write(content[len(content) // 2 :])

    torchvision.datasets.mnist.download_and_extract_archive = download
    MNISTDataModule(Path("data")).prepare_data()


def test_two_processes_that_prepare_the_data_at_once_wait_for_each_other(mnist_dir):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ncsn.data"])
    both = [context.Process(target=prepare, args=(mnist_dir / "MNIST/raw",)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert len(Path("downloads").read_text().splitlines()) == 4  # each file once


def test_missing_data_ends_all_ranks_without_a_traceback(server):
    Path("none").mkdir()
    args = ("fit", *smoke("mnist"), "--data.data_dir", "none")
    ranks = start_ranks(server, 2, args, "log.txt", NO_NETWORK)
    assert all(rank.wait() for rank in ranks)
    output = Path("log.txt").read_text()
    assert "Traceback" not in output
    assert "error: MNIST is not in none/MNIST/raw" in output
