"""Networks whose layers work differently in training: they train, validate and sample."""

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from short_runs import fit
from torch import nn

from ncsn.callbacks import EMA, Divergence, Preview
from ncsn.callbacks.preflight import Preflight
from ncsn.modules import NCSN
from ncsn.networks import ScoreNetwork
from ncsn.sampling import DPMSolver


class Normalised(ScoreNetwork):
    """An MLP with batch norm, of which the second is frozen."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.SiLU()),
            *(nn.Linear(16, 16), nn.BatchNorm1d(16).eval(), nn.Linear(16, 2)),
        )

    def forward(self, x, sigma):
        return self.layers(torch.cat([x, sigma.log()[:, None]], dim=1))


def make():
    preview = Preview(num_samples=4, num_compared=0)
    return NCSN(Normalised(), num_levels=4, sampler=DPMSolver(5), preview=preview)


def modes(module):
    return [part.training for part in module.network.modules()]


def test_a_network_with_batch_norm_trains_validates_and_samples(tmp_path):
    module = make()
    before = modes(module)
    callbacks = [EMA(0.5), Divergence(), Preflight(), ModelCheckpoint(tmp_path, "{step}")]
    trainer = fit(module, epochs=3, callbacks=callbacks, logger=CSVLogger("."))
    assert modes(module) == before  # after previews too, the frozen layer is frozen
    norm, frozen = module.network.layers[1], module.network.layers[4]
    # Four batches an epoch; neither the trial, nor validations, nor samples count.
    assert (norm.num_batches_tracked, frozen.num_batches_tracked) == (12, 0)
    state = torch.load(tmp_path / "step=12.ckpt", weights_only=True)
    for part in ("state_dict", "current_model_state"):
        torch.testing.assert_close(state[part]["network.layers.1.running_mean"], norm.running_mean)

    module.eval()
    torch.testing.assert_close(module.draw(0, 8)[3:5], module.draw(3, 5))
    assert module.draw(0, 1).isfinite().all()  # a batch of one
    loss = trainer.callback_metrics["val/loss_per_dim"].item()
    (again,) = trainer.validate(module, trainer.datamodule, verbose=False)
    assert again["val/loss_per_dim"] == loss


def test_a_resumed_run_has_the_statistics_of_an_undisturbed_one(tmp_path):
    runs = []
    for resume in (None, "step=6.ckpt"):
        torch.manual_seed(len(runs))
        module = make()
        save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        path = resume and tmp_path / resume
        fit(module, epochs=3, callbacks=[EMA(0.5), save], ckpt_path=path)
        runs.append(module.network.state_dict())
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name
