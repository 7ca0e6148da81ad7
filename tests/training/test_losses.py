"""The loss: its formula, what a training step returns, and what is logged."""

import csv
import functools
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from short_runs import fit
from torch import nn

from ncsn.callbacks import Preview
from ncsn.data import InMemoryDataModule, TensorBatches
from ncsn.modules import DSM, NCSN
from ncsn.networks import MLP, ScoreNetwork
from ncsn.objectives import (
    denoising_score_matching,
    hyvarinen_score_matching,
    implicit_score_matching,
    sliced_score_matching,
)
from ncsn.random import Stream, seeded_generator


class Linear(nn.Linear, ScoreNetwork):
    """s(x) = slope x, whatever the noise level."""

    def __init__(self, slope, dim=2):
        super().__init__(dim, dim)
        self.weight.data = slope * torch.eye(dim)
        nn.init.zeros_(self.bias)

    def forward(self, x, sigma):
        return super().forward(x)


def noise(like, *key):
    """What a generator draws next, in the shape of ``like``."""
    generator = seeded_generator(Stream.TRAINING, *key)
    return torch.empty_like(like).normal_(generator=generator)


def metrics(version):
    """The metrics of a run, by name."""
    with Path(f"lightning_logs/version_{version}/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


# ---- the formula ----


@pytest.mark.parametrize("dim", [2, 5])
def test_the_loss_of_an_example_is_that_of_the_paper(dim):
    # (sigma² / sigma_max²) |s(x + sigma z) + z / sigma|², summed over dimensions; here s(x) = -x.
    module = NCSN(Linear(-1.0, dim), sigma_min=0.1, sigma_max=2.0, num_levels=4, data_shape=(dim,))
    x, sigma = torch.randn(5, dim), module.noise_levels[[0, 1, 2, 3, 3]]
    losses = module.loss(x, sigma, generator=seeded_generator(Stream.TRAINING, 1))
    z = noise(x, 1)
    for i in range(5):
        residual = -(x[i] + sigma[i] * z[i]) + z[i] / sigma[i]
        expected = sigma[i] ** 2 / 2.0**2 * residual.square().sum()
        torch.testing.assert_close(losses[i], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", [implicit_score_matching, sliced_score_matching])
def test_other_objectives_train_and_estimate_the_same_loss(objective):
    x, losses = torch.randn(20_000, 2), []
    for each in (denoising_score_matching, objective):
        module = DSM(Linear(-0.3), sigma=0.5, objective=each)
        loss = module.loss(x, torch.full((20_000,), 0.5))
        loss.mean().backward()
        assert module.network.weight.grad.abs().sum() > 0
        losses.append(loss.detach())
    difference = losses[0].mean() - losses[1].mean()
    assert abs(difference) < 5 * ((losses[0].var() + losses[1].var()) / 20_000).sqrt()


class Wide(InMemoryDataModule):
    """Points of N(0, 0.25 I), all of them in one batch."""

    data_shape, data_mean, data_std, data_diameter = (2,), 0.0, 0.5, 4.0

    def load_splits(self):
        data = 0.5 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
        labels = torch.zeros(2000, dtype=torch.long)
        return dict.fromkeys(("train", "val", "test"), TensorBatches(data, labels))


def test_a_module_learns_the_score_of_the_data_itself():
    # With one batch an epoch, gradient descent ends at minus the inverse second moment of the
    # data, of which -4 is the value for infinitely many points. With the noise of level 1 it
    # would be -0.8.
    optimizer = functools.partial(torch.optim.SGD, lr=0.5)
    module = DSM(Linear(0.0), sigma=1.0, objective=hyvarinen_score_matching, optimizer=optimizer)
    data = Wide(batch_size=2000)
    fit(module, epochs=40, data=data, limit_val_batches=0)
    x = data.splits["train"].data
    x = torch.cat([x, torch.ones(2000, 1)], dim=1)  # weight and bias
    found = torch.cat([module.network.weight, module.network.bias[:, None]], dim=1)
    moments = x.T @ x / 2000
    expected = -torch.linalg.inv(moments)[:2]
    torch.testing.assert_close(found.detach(), expected, rtol=1e-3, atol=1e-3)
    # Five standard errors of an eigenvalue of the covariance.
    assert found[0, 0].item() == pytest.approx(-4, rel=5 * (2 / 2000) ** 0.5)


# ---- the training step ----


@pytest.fixture
def ncsn():
    """A module whose score is 0, so that its losses show the noise that was drawn."""
    module = NCSN(Linear(0.0), sigma_max=2.0, num_levels=5)
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    return module


def test_a_training_step_returns_the_loss_and_the_loss_and_level_of_each_example(ncsn):
    step = ncsn.training_step((torch.randn(64, 2), torch.zeros(64)), 0)
    assert step.keys() == {"loss", "losses", "sigma"}
    assert step["losses"].shape == step["sigma"].shape == (64,)
    assert step["loss"].requires_grad
    assert not step["losses"].requires_grad
    assert set(step["sigma"].tolist()) == set(ncsn.noise_levels.tolist())


def test_the_loss_of_a_batch_is_the_mean_of_the_sums_over_dimensions(ncsn):
    x = torch.randn(64, 2)
    step = ncsn.training_step((x, torch.zeros(64)), 0)
    torch.testing.assert_close(step["loss"], step["losses"].mean())
    # The noise of rank 0 in batch 0 of epoch 0: first the levels, then z; the residual is z.
    generator = seeded_generator(Stream.TRAINING, 0, 0, 0, 0)
    sigma = ncsn.sample_noise_levels(64, generator)
    assert torch.equal(sigma, step["sigma"])
    z = torch.empty(64, 2).normal_(generator=generator)
    torch.testing.assert_close(step["losses"], z.square().sum(1) / 2.0**2)


def test_ranks_epochs_and_batches_have_their_own_noise(ncsn, monkeypatch):
    seen = {}
    batch = torch.zeros(64, 2), torch.zeros(64)
    for rank in (0, 1):
        for epoch in (0, 1):
            for index in (0, 1):
                monkeypatch.setattr(NCSN, "global_rank", rank)
                monkeypatch.setattr(NCSN, "current_epoch", epoch)
                seen[rank, epoch, index] = ncsn.training_step(batch, index)["loss"].item()
                again = ncsn.training_step(batch, index)["loss"].item()
                assert again == seen[rank, epoch, index]
    assert len(set(seen.values())) == 8


# ---- what is logged ----


class Recorder(NCSN):
    """Records the losses of each batch."""

    def training_step(self, batch, batch_idx):
        step = super().training_step(batch, batch_idx)
        self.losses = [*getattr(self, "losses", []), step["loss"].item()]
        return step


def run(sigma_max, slope=0.0, lr=0.0):
    """Train with a logger; by default the score stays 0."""
    module = Recorder(
        Linear(slope),
        sigma_min=0.01,
        sigma_max=sigma_max,
        optimizer=functools.partial(torch.optim.SGD, lr=lr),
        preview=Preview(every_n_epochs=0),
    )
    fit(module, logger=CSVLogger("."))
    return module


def test_the_logged_loss_is_per_dimension_and_without_the_factor_of_sigma_max():
    module = run(sigma_max=3.0, slope=-0.5, lr=1e-3)
    logged, expected = metrics(0), [loss * 3.0**2 / 2 for loss in module.losses]
    assert len(expected) == 4
    assert logged["train/loss_per_dim"] == pytest.approx(expected, rel=1e-4)
    assert logged["train/loss_per_dim_epoch"] == pytest.approx([sum(expected) / 4], rel=1e-4)


def test_runs_that_differ_in_sigma_max_alone_log_comparable_numbers():
    modules = [run(sigma_max) for sigma_max in (1.0, 100.0)]
    ratios = [a / b for a, b in zip(*(module.losses for module in modules), strict=True)]
    assert ratios == pytest.approx([100.0**2] * 4, rel=1e-4)
    # With a score of 0, the residual is the noise z, in both.
    first, second = metrics(0), metrics(1)
    for name in ("train/loss_per_dim", "train/loss_per_dim_epoch", "val/loss_per_dim"):
        assert first[name] == pytest.approx(second[name], rel=1e-4), name
    # The mean of z² over 128 values has a standard deviation of 1/8.
    assert first["train/loss_per_dim_epoch"] == pytest.approx([1.0], abs=5 / 8)


def test_the_loss_at_each_noise_level_is_logged_and_its_mean():
    module = run(sigma_max=1.0)
    logged = metrics(0)
    names = [f"val_levels/sigma={sigma:.4g}" for sigma in module.noise_levels.tolist()]
    assert len(names) == 10
    values = [value for name in names for value in logged[name]]
    assert logged["val/loss_per_dim"] == pytest.approx([sum(values) / 10], rel=1e-4)
    assert not {"train/loss", "val/loss"} & logged.keys()


def test_few_validation_examples_are_noised_at_levels_from_all_of_the_ladder():
    module = NCSN(MLP(hidden_dim=8), num_levels=200, sigma_max=4.0)
    module.validation_step((torch.randn(40, 2), torch.zeros(40)), 0)
    (levels,) = module.val_loss.compute().isfinite().nonzero(as_tuple=True)
    assert len(levels) == 40
    assert levels.diff().max() <= 10  # twice the mean


@pytest.mark.parametrize("num_levels", [1, 2, 3, 10, 97, 232])
def test_enough_validation_examples_have_each_level_equally_often(num_levels):
    module = NCSN(MLP(hidden_dim=8), num_levels=num_levels, sigma_min=0.01 ** (num_levels > 1))
    module.validation_step((torch.randn(2 * num_levels, 2), torch.zeros(2 * num_levels)), 0)
    assert module.val_loss.count.tolist() == [2] * num_levels


def test_one_validation_gives_the_same_number_as_the_next():
    module = NCSN(MLP(hidden_dim=8), num_levels=5)
    batches = [(torch.randn(16, 2), torch.zeros(16)) for _ in range(3)]

    def validate():
        module.val_loss.reset()
        for i, batch in enumerate(batches):
            module.validation_step(batch, i)
        return module.val_loss.compute()

    first = validate()
    torch.randn(100)  # whatever else draws in between
    assert first.shape == (5,)
    assert torch.equal(first, validate())


def test_a_run_that_resumes_within_an_epoch_logs_the_mean_loss_of_all_of_it(tmp_path):
    def train(ckpt_path=None):
        torch.manual_seed(0)
        save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = fit(NCSN(MLP(hidden_dim=8)), callbacks=[save], ckpt_path=ckpt_path)
        return trainer.callback_metrics["train/loss_per_dim_epoch"].item()

    whole = train()
    assert train(tmp_path / "step=2.ckpt") == pytest.approx(whole, rel=1e-6)
