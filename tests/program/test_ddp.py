"""Two CPU processes (gloo): the same data, noise, samples and numbers as on one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import run_process, smoke
from support.paths import ROOT
from support.processes import SUPPORT
from support.ranks import start_ranks, wait_for_ranks

MOONS = smoke("moons")
DDP = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
RUNS = Path("lightning_logs/moons")


def run_ranks(server, *args, nodes, num=2):
    """Run a command on several ranks."""
    log = Path("ranks.txt")
    ranks = start_ranks(server, num, args, log, nodes=nodes)
    assert wait_for_ranks(ranks) == [0] * num, log.read_text()[-3000:]


def test_ranks_have_their_own_data_and_noise_and_agree_on_the_rest(server):
    """The second rank is started by Lightning, as it is for a user."""
    module = ("--model", "recording.RecordingDSM", "--model.sigma", 0.1)
    network = ("--model.network", "ncsn.networks.MLP", "--ema.decay", 0.9)
    run_process(
        *(server, "fit", *MOONS, *DDP, *module, *network, "--trainer.max_epochs", 2),
        PYTHONPATH=f"{ROOT}:{SUPPORT}",
        WANDB_MODE="offline",
    )
    ranks = [torch.load(f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    data = [{tuple(point) for point in torch.cat(rank["x"][:2]).tolist()} for rank in ranks]
    assert not data[0] & data[1]
    noise = [torch.stack(rank["x_sigma"][:4]) - torch.stack(rank["x"][:4]) for rank in ranks]
    assert not torch.isclose(noise[0], noise[1]).any(dim=-1).all()
    everything = torch.cat([part.flatten(0, 1) for part in noise])  # 2 ranks, 2 epochs, 2 steps
    assert len(everything.unique(dim=0)) == len(everything)
    metric = "val/loss_per_dim"
    assert ranks[0][metric] == ranks[1][metric]
    assert len(ranks[0][metric]) == 2
    for first, second in zip(ranks[0]["weights"], ranks[1]["weights"], strict=True):
        assert torch.equal(first, second)
    assert [path.name for path in RUNS.iterdir()] == ["version_0"]
    assert len(list(Path("lightning_logs/wandb").glob("offline-run-*"))) == 1


def test_predict_draws_the_same_samples_on_one_process_and_on_two(server, cli, trained):
    checkpoint = trained("moons") / "checkpoints/last.ckpt"
    predict = ("predict", *MOONS, "--ckpt_path", checkpoint, "--num_samples", 330)
    assert cli(*predict, "--batch_size", 100) == 0
    one = np.load(RUNS / "version_0/samples.npz")["samples"]
    assert one.shape == (330, 2)
    for nodes in (1, 2):
        run_ranks(server, *predict, nodes=nodes)
        run = RUNS / f"version_{nodes}"
        np.testing.assert_allclose(np.load(run / "samples.npz")["samples"], one, atol=1e-5)
        files = {path.name for path in run.glob("[!.]*")}
        assert files == {"config.yaml", "samples.npz", "samples.png"}


def test_ranks_that_train_on_images_compare_samples_on_the_first(server):
    digits = smoke("digits")
    run_ranks(server, "fit", *digits, "--model.preview.num_compared", 32, nodes=1)
    text = Path("lightning_logs/digits/version_0/metrics.csv").read_text()
    assert "val/digits_fd_v" in text.splitlines()[0]
    last = "lightning_logs/digits/version_0/checkpoints/last.ckpt"
    few = ("--ckpt_path", last, "--num_samples", 32)
    run_ranks(server, "test", *digits, *few, "--num_likelihood_examples", 2, nodes=1)
    run_ranks(server, "diagnose", *digits, *few, nodes=1)


def test_each_rank_has_something_to_draw(server, trained):
    """Three ranks and four samples: two batches of two would leave one without any."""
    checkpoint = trained("moons") / "checkpoints/last.ckpt"
    predict = ("predict", *MOONS, "--ckpt_path", checkpoint, "--num_samples", 4)
    run_ranks(server, *predict, nodes=1, num=3)
    assert np.load(RUNS / "version_0/samples.npz")["samples"].shape == (4, 2)


def test_an_evaluation_is_the_same_on_one_process_and_on_two(server, cli, trained):
    checkpoint = trained("moons_ncsn") / "checkpoints/last.ckpt"
    test = ("test", *smoke("moons_ncsn"), "--ckpt_path", checkpoint)
    few = ("--num_samples", 50, "--num_likelihood_examples", 15)
    assert cli(*test, *few) == 0
    for nodes in (1, 2):
        run_ranks(server, *test, *few, nodes=nodes)
    one, *others = (
        json.loads(Path(f"lightning_logs/moons_ncsn/version_{n}/evaluation.json").read_text())
        for n in (0, 1, 2)
    )
    for two in others:
        assert one["estimates"].keys() == two["estimates"].keys()
        for name, estimate in one["estimates"].items():
            for number in ("value", "standard_error", "floor"):
                expected = pytest.approx(estimate[number], rel=1e-4, abs=1e-6)
                assert two["estimates"][name][number] == expected, name
