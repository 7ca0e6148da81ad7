"""Runs on disk, compared."""

import csv

import numpy as np
import torch


def load_last(run):
    """The checkpoint that a run resumes from."""
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def losses(run):
    """The loss of each logged step, as text; it depends on weights, data and noise."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss_per_dim"]]
    steps = [int(row["step"]) for row in rows]
    assert len(steps) == len(set(steps))
    return dict(zip(steps, (row["train/loss_per_dim"] for row in rows), strict=True))


def assert_same(first, second, path=""):
    """Exactly the same numbers, in nested containers."""
    assert type(first) is type(second), path
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for i, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{path}/{i}")
    else:
        assert first == second, path


def assert_same_training(run, undisturbed, unlogged=0):
    """The same state, and the same losses; ``unlogged`` steps may be missing in the log."""
    first, second = load_last(run), load_last(undisturbed)
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert_same(first[part], second[part], part)
    assert (first["epoch"], first["global_step"]) == (second["epoch"], second["global_step"])
    found, expected = losses(run), losses(undisturbed)
    assert len(found) >= len(expected) - unlogged
    np.testing.assert_equal(found, {step: expected[step] for step in found})
