"""Numbers that are not finite end a training; spikes of the loss are reported."""

import csv
import warnings
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from short_runs import fit

from ncsn.callbacks import EMA, Divergence, Preview
from ncsn.modules import DSM
from ncsn.networks import MLP


def make(module_class=DSM, **kwargs):
    return module_class(MLP(hidden_dim=8), preview=Preview(every_n_epochs=0), **kwargs)


# ---- spikes ----


def test_a_loss_far_above_the_usual_is_reported_with_its_noise_level():
    divergence = Divergence()
    losses, sigma = torch.ones(4), torch.tensor([1.0, 0.5, 0.25, 0.1])
    for step in range(3):
        divergence.warn_of_spike(losses, sigma, step)
    losses[2] = 100.0
    message = r"loss of step 3 is 25\.8, 26 times the usual 1; .* noise level 0\.25"
    with pytest.warns(UserWarning, match=message):
        divergence.warn_of_spike(losses, sigma, 3)


def test_losses_that_vary_and_fall_are_not_reported():
    divergence, sigma = Divergence(), torch.ones(4)
    with warnings.catch_warnings(action="error"):
        for step, loss in enumerate((1.0, 5.0, 0.5, 3.0, 0.01, 0.001)):
            divergence.warn_of_spike(torch.full((4,), loss), sigma, step)


# ---- the loss ----


class BadLoss(DSM):
    """The loss of one example is not a number from the third step on."""

    bad = 4

    def loss(self, x, sigma, *args, **kwargs):
        losses = super().loss(x, sigma, *args, **kwargs)
        at = torch.arange(len(losses)) == self.bad
        return losses.where(~at, torch.nan) if self.global_step >= 2 else losses


@pytest.mark.parametrize("log_every_n_steps", [1, 1000])
def test_a_loss_that_is_not_finite_ends_the_training_at_once_on_a_cpu(log_every_n_steps):
    module = make(BadLoss, sigma=0.3)
    message = r"the loss is not finite at step 2, at noise levels from 0\.3 to 0\.3: resume from"
    with pytest.raises(FloatingPointError, match=message):
        fit(module, callbacks=[Divergence()], log_every_n_steps=log_every_n_steps)
    assert module.global_step == 3


# ---- the gradient ----


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


def test_a_gradient_that_is_not_finite_ends_the_training():
    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 0"):
        fit(make(BadGradient), callbacks=[Divergence()])


class NormOfGradient(Callback):
    """Computes the norm of the gradient before each step."""

    def __init__(self):
        self.norms = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = torch.cat([p.grad.flatten() for p in pl_module.parameters()])
        self.norms.append(gradients.norm().item())


def test_the_norm_of_the_gradient_is_logged():
    norm = NormOfGradient()
    fit(make(), callbacks=[Divergence(), norm], logger=CSVLogger(".", name=""))
    with Path("version_0/metrics.csv").open() as file:
        logged = [row["train/grad_norm"] for row in csv.DictReader(file)]
    assert [float(value) for value in logged if value] == pytest.approx(norm.norms, rel=1e-4)


# ---- the weights ----


class SpoiltMLP(MLP):
    """Has a weight that no loss depends on."""

    def __init__(self):
        super().__init__(hidden_dim=8)
        self.unused = torch.nn.Parameter(torch.zeros(1))


class Spoil(Callback):
    """Makes this weight infinite before the third step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            pl_module.network.unused.data.fill_(torch.inf)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_weights_that_are_not_finite_are_kept_out_of_checkpoints(tmp_path, decay):
    module = DSM(SpoiltMLP(), preview=Preview(every_n_epochs=0))
    save = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    with pytest.raises(FloatingPointError, match="weights are not finite at step 3"):
        fit(module, callbacks=[EMA(decay), Divergence(), Spoil(), save])
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"step=1.ckpt", "step=2.ckpt"}
