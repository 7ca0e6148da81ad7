import warnings

import lightning.pytorch as pl
import pytest
import torch
from conftest import CONFIGS, OVERLAYS
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from ncsn.data import MoonsDataModule
from ncsn.errors import UserError
from ncsn.modules import DSM, NCSN
from ncsn.networks import MLP, ConditionedResNet, ScoreNetwork, UNet
from ncsn.noise import Stream, noise_level_ratio, seeded_generator
from ncsn.objectives import (
    denoising_score_matching,
    implicit_score_matching,
    sliced_score_matching,
)
from ncsn.sampling import AnnealedLangevin, ConsistentAnnealedSampling, Langevin


class Linear(nn.Linear, ScoreNetwork):
    """nn.Linear(2, 2) as a score network that ignores the noise level."""

    def forward(self, x, sigma):
        return super().forward(x)


@pytest.mark.parametrize("make", [DSM, NCSN])
def test_shapes_of_losses_and_samples(make):
    module = make(Linear(2, 2), sampler=Langevin(step_size=1e-4, num_steps=3))
    x = torch.randn(8, 2)
    assert module.loss(x, reduction="none").shape == x.shape
    assert module.loss(x).shape == ()
    assert module.sample(4).shape == (4, 2)
    assert module.score(x, torch.ones(8)).shape == x.shape


def test_loss_is_the_weighted_one_of_the_paper():
    # sigma² / sigma_max² |s + z / sigma|², summed over dimensions; here s = -x.
    module = NCSN(Linear(2, 2), sigma_min=0.1, sigma_max=2.0, num_levels=4)
    nn.init.zeros_(module.network.bias)
    module.network.weight.data = -torch.eye(2)
    x, sigma = torch.randn(5, 2), module.noise_levels[[0, 1, 2, 3, 3]]
    generator = seeded_generator(Stream.TRAINING, 1)
    loss = module.loss(x, sigma, reduction="none", generator=generator)
    z = torch.empty(5, 2).normal_(generator=seeded_generator(Stream.TRAINING, 1))
    s = sigma[:, None]
    expected = s**2 / 2.0**2 * (-(x + s * z) + z / s) ** 2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("density", [None, (-1.0, 1.5)])
def test_ncsn_draws_levels_by_their_density(density):
    module = NCSN(
        Linear(2, 2), sigma_max=1.0, sigma_min=0.01, num_levels=10, level_density=density
    )
    levels = module.sample_noise_levels(10_000, seeded_generator(Stream.TRAINING, 0))
    counts = torch.stack([(levels == level).sum() for level in module.noise_levels])
    expected = torch.ones(10)
    if density:
        mean, std = density
        expected = (-((module.noise_levels.log() - mean) ** 2) / (2 * std**2)).exp()
    expected = 10_000 * expected / expected.sum()
    assert counts.sum() == 10_000
    # 9 degrees of freedom: a false alarm in 10,000.
    assert ((counts - expected) ** 2 / expected).sum() < 33.7


def test_dsm_has_one_level():
    module = DSM(Linear(2, 2), sigma=0.3)
    assert module.noise_levels.tolist() == pytest.approx([0.3])
    assert module.sample_noise_levels(3).tolist() == pytest.approx([0.3] * 3)


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


def test_ranks_epochs_and_batches_have_their_own_noise(monkeypatch):
    seen = {}
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for rank in (0, 1):
        for epoch in (0, 1):
            for batch in (0, 1):
                module = NCSN(Linear(2, 2))
                nn.init.zeros_(module.network.weight)
                nn.init.zeros_(module.network.bias)
                monkeypatch.setattr(NCSN, "global_rank", rank)
                monkeypatch.setattr(NCSN, "current_epoch", epoch)
                module.trainer = trainer
                module.log = lambda *args, **kwargs: None
                x = torch.zeros(64, 2), torch.zeros(64)
                seen[rank, epoch, batch] = module.training_step(x, batch).item()
                again = module.training_step(x, batch).item()
                assert again == seen[rank, epoch, batch]
    assert len(set(seen.values())) == 8


def test_auto_noise_levels_are_ncsnv2s_techniques_1_and_2():
    module = NCSN(
        UNet(filters=8),
        sigma_min=0.01,
        sigma_max="auto",
        num_levels="auto",
        data_shape=(1, 28, 28),
        data_diameter=33.75,
        sampler=AnnealedLangevin(5, step_size="auto"),
    )
    ratio = module.noise_levels[0] / module.noise_levels[1]
    assert module.noise_levels[0] == pytest.approx(33.75)
    assert ratio == pytest.approx(noise_level_ratio(784), rel=1e-3)
    assert module.chosen["sigma_max"] == 33.75
    assert module.chosen["num_levels"] == len(module.noise_levels)
    assert 0 < module.chosen["sampler.relative_step_size"] < 1


def test_the_network_learns_the_ladder():
    network = ConditionedResNet(filters=8, num_blocks=1)
    NCSN(network, sigma_max=5.0, num_levels=17, data_shape=(1, 8, 8))
    table = network.blocks[0].embedding
    assert table.table.num_embeddings == 17
    torch.testing.assert_close(table(torch.tensor([5.0])), table.table.weight[:1])


def test_a_network_that_knows_the_ladder_keeps_what_it_has_learned():
    network = ConditionedResNet(filters=8, num_blocks=1)
    NCSN(network, sigma_max=5.0, num_levels=17, data_shape=(1, 8, 8))
    before = network.blocks[0].embedding.table.weight.clone()
    NCSN(network, sigma_max=5.0, num_levels=17, data_shape=(1, 8, 8))
    assert torch.equal(network.blocks[0].embedding.table.weight, before)


@pytest.mark.parametrize("objective", [implicit_score_matching, sliced_score_matching])
def test_other_objectives_train_and_estimate_the_same_loss(objective):
    x, losses = torch.randn(20_000, 2), []
    for each in (denoising_score_matching, objective):
        module = DSM(Linear(2, 2), sigma=0.5, objective=each)
        nn.init.constant_(module.network.weight, -0.3)
        nn.init.zeros_(module.network.bias)
        loss = module.loss(x, reduction="none").sum(1)
        loss.mean().backward()
        assert module.network.weight.grad.abs().sum() > 0
        losses.append(loss.detach())
    difference = losses[0].mean() - losses[1].mean()
    assert abs(difference) < 5 * ((losses[0].var() + losses[1].var()) / 20_000).sqrt()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCSN(Linear(2, 2), sigma_max="auto"), "data_diameter"),
        (lambda: NCSN(Linear(2, 2), num_levels="auto"), "give num_levels"),
        (lambda: NCSN(Linear(2, 2), label_dropout=1.0), "label_dropout"),
        (lambda: NCSN(Linear(2, 2), sampler=ConsistentAnnealedSampling(0.01)), "between"),
        (lambda: NCSN(Linear(2, 2), sigma_min=2.0, sigma_max=1.0), "sigma_min=2.0"),
        (
            lambda: NCSN(
                UNet(filters=8),
                sigma_min=2.0,
                sigma_max=1.0,
                num_levels="auto",
                data_shape=(1, 8, 8),
            ),
            "sigma_min=2.0",
        ),
        (lambda: NCSN(Linear(2, 2), num_levels=0), "num_levels"),
        (lambda: DSM(Linear(2, 2), sigma=-1.0), "sigma_max=-1.0"),
        (lambda: DSM(Linear(2, 2), ema_decay=1.0), "ema_decay"),
    ],
)
def test_impossible_modules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class SmallMemory(MLP):
    """Raises what torch raises, when a batch is larger than it likes."""

    limit = 16

    def forward(self, x, sigma):
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x, sigma)


def test_a_training_that_needs_too_much_memory_says_what_to_lower(cli, capsys):
    smoke = ("--config", CONFIGS / "moons.yaml", "--config", OVERLAYS / "smoke.yaml")
    network = ("--model.network", "test_modules.SmallMemory", "--data.batch_size", 64)
    assert cli("fit", *smoke, *network) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: out of memory: lower data.batch_size")


def test_samples_are_drawn_fewer_at_a_time_when_memory_is_short():
    torch.manual_seed(0)
    module = NCSN(MLP(hidden_dim=8), sampler=AnnealedLangevin(steps_per_level=1))
    torch.manual_seed(0)
    small = NCSN(SmallMemory(hidden_dim=8), sampler=AnnealedLangevin(steps_per_level=1))
    with pytest.warns(UserWarning, match="drawing 25 samples at a time"):
        samples = small.draw(30, 80)
    torch.testing.assert_close(samples, module.draw(30, 80))
    small.network.limit = 0
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(UserError, match="not enough memory for a single sample"),
    ):
        small.draw(0, 4)


def test_a_loss_far_above_the_usual_is_named_with_its_noise_level():
    module = NCSN(MLP(hidden_dim=8))
    losses, sigma = torch.ones(4), torch.tensor([1.0, 0.5, 0.25, 0.1])
    for _ in range(3):
        module._warn_of_spike(losses, sigma)
    losses[2] = 100.0
    with pytest.warns(UserWarning, match=r"is 25\.8, 26 times the usual 1; .* noise level 0\.25"):
        module._warn_of_spike(losses, sigma)


class NotANumber(torch.autograd.Function):
    """Zero, whose gradient is not a number."""

    @staticmethod
    def forward(ctx, x):
        return 0 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.nan


class BadGradient(DSM):
    """The loss is fine."""

    def loss(self, *args, **kwargs):
        weight = next(self.parameters())
        return super().loss(*args, **kwargs) + NotANumber.apply(weight.sum())


def test_a_gradient_that_is_not_finite_ends_the_training(tmp_path):
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        log_every_n_steps=1,
        logger=CSVLogger(tmp_path),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    module = BadGradient(MLP(hidden_dim=8), preview_every_n_epochs=0)
    with pytest.raises(UserError, match="the gradient is not finite at step 0"):
        trainer.fit(module, datamodule=MoonsDataModule(num_points=80, batch_size=32))
