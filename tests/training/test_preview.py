"""Pictures during training: when they are drawn, and from which weights."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from short_runs import Probe, fit, weights_of

from ncsn.callbacks import EMA, Preview
from ncsn.modules import DSM, NCSN
from ncsn.networks import MLP
from ncsn.sampling import DPMSolver, Langevin

PICTURES = Path("version_0/pictures")


def run(*, every=1, epochs=3, decay=0.9, num_compared=0, **kwargs):
    """Train a probe that draws few and coarse samples."""
    module = Probe(
        MLP(hidden_dim=8),
        sampler=Langevin(epsilon=0.01, num_steps=2),
        preview=Preview(every_n_epochs=every, num_samples=10, num_compared=num_compared),
    )
    fit(module, epochs=epochs, callbacks=[EMA(decay)], logger=CSVLogger(".", name=""), **kwargs)
    return module


def test_samples_come_from_the_average_and_those_at_the_end_too():
    module = run(epochs=2)
    assert len(module.sampled_with) == 3
    assert torch.equal(module.sampled_with[0], module.validated_with[0])
    assert not torch.allclose(module.sampled_with[0], module.after_steps[3])
    assert torch.equal(module.sampled_with[-1], weights_of(module))


def test_without_an_average_samples_come_from_the_weights_themselves():
    module = run(epochs=2, decay=0.0)
    assert torch.equal(module.sampled_with[0], module.after_steps[3])
    assert torch.equal(module.sampled_with[-1], module.after_steps[-1])


@pytest.mark.parametrize(("every", "steps"), [(1, [4, 8, 12]), (2, [4, 8]), (5, [4])])
def test_pictures_are_drawn_at_the_interval_and_at_the_end(every, steps):
    run(every=every)
    names = {path.name for path in PICTURES.iterdir()}
    expected = {f"{kind}_step={step:07d}.png" for kind in ("samples", "score") for step in steps}
    assert names == expected | {"samples.png", "score.png", "losses.png"}


def test_interval_zero_draws_nothing():
    module = run(every=0)
    assert not module.sampled_with
    assert not PICTURES.exists()


def test_without_a_logger_there_is_no_place_for_pictures():
    module = Probe(MLP(hidden_dim=8))
    fit(module)
    assert not module.sampled_with


def test_drawing_does_not_change_training():
    weights = []
    for every in (0, 1):
        torch.manual_seed(0)
        weights.append(weights_of(run(every=every)))
    assert torch.equal(*weights)


def test_samples_are_compared_with_validation_data_and_the_last_estimate_is_repeated():
    module = run(every=2, num_compared=20)
    with Path("version_0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/sliced_wasserstein"]]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    # A ModelCheckpoint that monitors it finds it at the third validation too.
    last = float(rows[-1]["val/sliced_wasserstein"])
    found = module.trainer.callback_metrics["val/sliced_wasserstein"].item()
    assert found == pytest.approx(last, rel=1e-4)


def test_losses_over_epochs_are_remembered_for_the_picture():
    preview = run(epochs=2).preview
    for curve in ("train", "validation"):
        assert [epoch for epoch, _ in preview.losses[curve]] == [1, 2]


def test_a_module_returns_the_preview_that_it_was_given():
    preview = Preview(num_samples=5)
    assert DSM(MLP(), preview=preview).configure_callbacks() == [preview]
    assert isinstance(*DSM(MLP()).configure_callbacks(), Preview)


def test_an_ncsn_draws_previews_in_few_steps_unless_it_was_given_a_sampler():
    sampler = NCSN(MLP()).preview_sampler
    assert isinstance(sampler, DPMSolver)
    assert (sampler.num_steps, sampler.eta) == (20, 1.0)
    mine = Langevin()
    assert NCSN(MLP(), preview=Preview(mine)).preview.sampler is mine


@pytest.mark.parametrize(
    "numbers", [{"every_n_epochs": -1}, {"num_samples": 0}, {"num_compared": -1}]
)
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match=next(iter(numbers))):
        Preview(**numbers)
