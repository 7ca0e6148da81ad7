"""A training whose images are read by workers: the same as one whose images are in memory."""

import os
import signal
import time
from pathlib import Path

import torch
from support.commands import QUICK, error_line, smoke
from support.own_data import write_images
from support.ranks import start_ranks, wait_for_ranks
from support.runs import assert_same, load_last

FOLDER = (
    *(*smoke("folder"), *QUICK, "--model.network.filters", 8, "--data.size", 16),
    *("--model.num_levels", 4, "--trainer.limit_train_batches", 6, "--trainer.max_epochs", 2),
    *("--model.lr_scheduler", "null"),
)
WORKERS = ("--data.in_memory", "false", "--data.num_workers", 2)
MEMORY = ("--data.in_memory", "true")
RUNS = Path("lightning_logs/folder")


def trained(version):
    """The weights that a run has ended with."""
    return load_last(RUNS / f"version_{version}")["current_model_state"]


def test_a_training_is_the_same_in_memory_and_by_workers_and_when_it_is_resumed(cli, recwarn):
    write_images()
    assert cli("fit", *FOLDER, *MEMORY) == 0
    steps = ("--last.every_n_train_steps", 4, "--last.save_top_k=-1", "--last.filename={step}")
    assert cli("fit", *FOLDER, *WORKERS, *steps) == 0
    final = RUNS / "version_1/checkpoints/step=12.ckpt"
    weights = torch.load(final, weights_only=True)["current_model_state"]
    assert_same(weights, trained(0))
    # From the middle of either epoch of 6 batches; by workers, and from memory.
    recwarn.clear()
    for version, (step, where) in enumerate(((4, WORKERS), (8, WORKERS), (8, MEMORY)), 2):
        checkpoint = RUNS / f"version_1/checkpoints/step={step}.ckpt"
        assert cli("fit", *FOLDER, *where, "--ckpt_path", checkpoint) == 0
        assert_same(weights, trained(version))
    said = [str(each.message) for each in recwarn]
    assert not [text for text in said if "will not end exactly" in text or "resumed with" in text]


def test_two_ranks_train_the_same_in_memory_and_by_workers(server):
    write_images()
    for where in (MEMORY, WORKERS):
        log = Path("ranks.txt")
        short = ("--trainer.max_epochs", 1, "--trainer.limit_val_batches", 1)
        ranks = start_ranks(server, 2, ("fit", *FOLDER, *short, *where), log)
        assert wait_for_ranks(ranks) == [0, 0], log.read_text()[-3000:]
    assert_same(trained(1), trained(0))


def test_a_signal_to_all_processes_saves_and_leaves_no_worker(server):
    write_images()
    log = Path("log.txt")
    every = ("--last.every_n_train_steps", 1, "--trainer.max_epochs", 1000)
    process = server.start(("fit", *FOLDER, *WORKERS, *every), log)
    end, saved = time.monotonic() + 200, RUNS / "version_0/checkpoints/last.ckpt"
    while not saved.is_file():
        assert time.monotonic() < end, log.read_text()[-3000:]
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as a cluster does
    assert process.wait() == 128 + signal.SIGTERM, log.read_text()[-3000:]
    assert "stopped by SIGTERM after step" in error_line(log.read_text())
    assert torch.load(saved, weights_only=True)["global_step"] >= 1
    end = time.monotonic() + 30
    while has_processes(process.pid):
        assert time.monotonic() < end, "a worker is left"
        time.sleep(0.1)


def has_processes(group):
    """Whether a process group has processes."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
