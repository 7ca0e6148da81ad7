"""Pictures during training: when, and from which weights."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger

from ncsn.callbacks import PointSamples
from ncsn.data import MoonsDataModule
from ncsn.modules import DSM
from ncsn.networks import MLP
from ncsn.sampling import Langevin


def first_weight(module):
    return next(iter(module.network.parameters())).detach().clone()


class Probe(DSM):
    """Notes the weights with which it samples, and those with which it trains."""

    def setup(self, stage):
        self.sampled_with, self.trained_with = [], []

    def sample(self, *args, **kwargs):
        self.sampled_with.append(first_weight(self))
        return super().sample(*args, **kwargs)

    def training_step(self, batch, batch_idx):
        self.trained_with.append(first_weight(self))
        return super().training_step(batch, batch_idx)


def fit(tmp_path, every=1, epochs=3, ema_decay=0.9, **kwargs):
    module = Probe(
        MLP(hidden_dim=8),
        sampler=Langevin(step_size=0.01, num_steps=2),
        ema_decay=ema_decay,
        preview_every_n_epochs=every,
        num_preview_samples=10,
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(tmp_path, name=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **kwargs,
    )
    trainer.fit(module, datamodule=MoonsDataModule(num_points=80, batch_size=32))
    return module, trainer


def test_samples_come_from_the_averaged_weights_and_training_goes_on_with_its_own(tmp_path):
    module, _ = fit(tmp_path, epochs=2)
    # Two steps an epoch. Recompute the average from the weights before each later step.
    w = module.trained_with  # before steps 0, 1, 2, 3
    average = w[1]  # the first update copies
    decay = 2 / 11  # the warm-up: (1 + n) / (10 + n) at n = 1, below 0.9
    average = decay * average + (1 - decay) * w[2]
    torch.testing.assert_close(module.sampled_with[0], average)
    assert not torch.allclose(module.sampled_with[0], w[2])
    # After training, the module keeps the average, and the last pictures show it.
    assert torch.equal(module.sampled_with[-1], first_weight(module))


def test_the_average_moves_once_for_each_step_of_the_optimizer(tmp_path):
    # One batch of two is a step, so that weights change before every other batch.
    module, _ = fit(tmp_path, epochs=3, accumulate_grad_batches=2)
    w = module.trained_with[::2]
    assert all(torch.equal(*pair) for pair in zip(w, module.trained_with[1::2], strict=True))
    average = (2 / 11) * w[1] + (9 / 11) * w[2]
    torch.testing.assert_close(module.sampled_with[1], average)


def test_without_averaging_samples_come_from_the_weights_themselves(tmp_path):
    module, trainer = fit(tmp_path, epochs=2, ema_decay=0.0)
    assert torch.equal(module.sampled_with[0], module.trained_with[2])
    assert not any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)


@pytest.mark.parametrize(("every", "steps"), [(1, [2, 4, 6]), (2, [2, 4]), (5, [2])])
def test_pictures_are_drawn_at_the_interval_and_at_the_end(tmp_path, every, steps):
    fit(tmp_path, every=every)
    names = {path.name for path in (tmp_path / "version_0/pictures").iterdir()}
    expected = {f"{kind}_step={step:07d}.png" for kind in ("samples", "score") for step in steps}
    assert names == expected | {"samples.png", "score.png", "losses.png"}


def test_interval_zero_draws_nothing(tmp_path):
    _, trainer = fit(tmp_path, every=0)
    assert not any(isinstance(callback, PointSamples) for callback in trainer.callbacks)
    assert not Path(tmp_path / "version_0/pictures").exists()


def test_drawing_does_not_change_training(tmp_path):
    weights = []
    for every in (0, 1):
        torch.manual_seed(0)
        module, _ = fit(tmp_path, every=every)
        weights.append(first_weight(module))
    assert torch.equal(*weights)
