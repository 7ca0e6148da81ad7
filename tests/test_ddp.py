"""Two CPU processes (gloo), started the way a user starts them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, OVERLAYS, ROOT, run_process

SMOKE = ("--config", CONFIGS / "moons.yaml", "--config", OVERLAYS / "smoke.yaml")
NCSN_MOONS = ("--config", CONFIGS / "moons_ncsn.yaml", "--config", OVERLAYS / "smoke.yaml")
DDP = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
RUNS = Path("lightning_logs/moons")


pytestmark = pytest.mark.slow


def test_ranks_have_their_own_data_and_noise_and_agree_on_the_rest():
    module = ("--model", "recording.RecordingDSM", "--model.sigma", 0.1)
    network = ("--model.network", "ncsn.networks.MLP", "--model.ema_decay", 0.9)
    run_process(
        *("fit", *SMOKE, *DDP, *module, *network, "--trainer.max_epochs", 2),
        PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}",
        WANDB_MODE="offline",
    )
    ranks = [torch.load(f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    data = [{tuple(point) for point in torch.cat(rank["x"][:2]).tolist()} for rank in ranks]
    assert not data[0] & data[1]
    noise = [torch.stack(rank["x_sigma"][:4]) - torch.stack(rank["x"][:4]) for rank in ranks]
    assert not torch.isclose(noise[0], noise[1]).any(dim=-1).all()
    everything = torch.cat([part.flatten(0, 1) for part in noise])  # 2 ranks, 2 epochs, 2 steps
    assert len(everything.unique(dim=0)) == len(everything)
    assert ranks[0]["val/loss"] == ranks[1]["val/loss"]
    assert len(ranks[0]["val/loss"]) == 2
    for first, second in zip(ranks[0]["weights"], ranks[1]["weights"], strict=True):
        assert torch.equal(first, second)
    assert [path.name for path in RUNS.iterdir()] == ["version_0"]
    assert len(list(Path("lightning_logs/wandb").glob("offline-run-*"))) == 1


def test_predict_draws_the_same_samples_on_one_process_and_on_two():
    run_process("fit", *SMOKE)
    checkpoint = RUNS / "version_0/checkpoints/last.ckpt"
    predict = ("predict", *SMOKE, "--ckpt_path", checkpoint, "--num_samples", 330)
    run_process(*predict, "--batch_size", 100)
    run_process(*predict, *DDP)
    one, two = (np.load(RUNS / f"version_{n}/samples.npz")["samples"] for n in (1, 2))
    assert one.shape == (330, 2)
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert {path.name for path in (RUNS / "version_2").iterdir()} == {
        "config.yaml", "samples.npz", "samples.png"
    }  # fmt: skip


def test_an_evaluation_is_the_same_on_one_process_and_on_two():
    run_process("fit", *NCSN_MOONS)
    checkpoint = "lightning_logs/moons_ncsn/version_0/checkpoints/last.ckpt"
    test = ("test", *NCSN_MOONS, "--ckpt_path", checkpoint)
    few = ("--num_samples", 50, "--num_likelihood_examples", 15)
    run_process(*test, *few)
    run_process(*test, *few, *DDP)
    one, two = (
        json.loads(Path(f"lightning_logs/moons_ncsn/version_{n}/evaluation.json").read_text())
        for n in (1, 2)
    )
    assert one["scores"].keys() == two["scores"].keys()
    for name, score in one["scores"].items():
        for number in ("value", "standard_error", "floor"):
            expected = pytest.approx(score[number], rel=1e-4, abs=1e-6)
            assert two["scores"][name][number] == expected, name
