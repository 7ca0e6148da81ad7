"""Pictures during training: when they are drawn, and from which weights."""

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from short_runs import Probe, fit, weights_of

from ncsn.callbacks import EMA, Preview, TestReport
from ncsn.data import DigitsDataModule, InMemoryDataModule, TensorBatches
from ncsn.evaluation import Trajectory
from ncsn.modules import DSM, NCSN
from ncsn.networks import MLP, UNet
from ncsn.sampling import DPMSolver, LadderSampler, Langevin

PICTURES = Path("version_0/pictures")


def run(*, every=1, epochs=3, decay=0.9, num_compared=0, version=None, **kwargs):
    """Train a probe that draws few and coarse samples."""
    module = Probe(
        MLP(hidden_dim=8),
        sampler=Langevin(epsilon=0.01, num_steps=2),
        preview=Preview(every_n_epochs=every, num_samples=10, num_compared=num_compared),
    )
    logger = CSVLogger(".", name="", version=version)
    fit(module, epochs=epochs, callbacks=[EMA(decay)], logger=logger, **kwargs)
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
    assert (sampler.num_steps, sampler.eta) == (20, 2.0)
    mine = Langevin()
    assert NCSN(MLP(), preview=Preview(mine)).preview.sampler is mine


@pytest.mark.parametrize(
    "numbers", [{"every_n_epochs": -1}, {"num_samples": 0}, {"num_compared": -1}]
)
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match=next(iter(numbers))):
        Preview(**numbers)


# ---- a sampler that reports as often as it likes ----


class Chatty(LadderSampler):
    """Reports ``often`` times a step: more or less than it declares."""

    often = 0

    def step(self, score, x, sigma, sigma_next, generator):
        return x + (sigma_next - sigma) * -sigma * score(x, sigma)

    def __call__(self, score, x, noise_levels, generator=None, monitor=None):
        def report(sigma, x):
            for i in range(self.often):
                monitor(sigma * (1 + i / 1000), x)

        return super().__call__(score, x, noise_levels, generator, monitor and report)


@pytest.mark.parametrize("often", [0, 1, 40])
@pytest.mark.parametrize("points", [True, False])
def test_a_sampler_reports_as_often_as_it_likes(often, points, capsys):
    sampler = Chatty(num_steps=8)
    sampler.often = often
    data = None if points else DigitsDataModule(batch_size=64)
    module = NCSN(
        MLP(hidden_dim=8) if points else UNet(filters=8),
        data_shape=(2,) if points else (1, 8, 8),
        sampler=sampler,
        preview=Preview(num_samples=10, num_compared=0),
    )
    trainer = fit(module, data=data, limit_train_batches=2, logger=CSVLogger(".", name=""))
    assert {"samples.png", "losses.png"} <= {path.name for path in PICTURES.iterdir()}
    assert "Sampling" in capsys.readouterr().out
    trainer.callbacks.append(TestReport(20, num_likelihood_examples=0))
    trainer.test(module, trainer.datamodule, verbose=False)
    assert Path("version_0/evaluation.json").is_file()


def test_a_trajectory_keeps_a_bounded_number_of_moments_of_any_number_of_steps():
    for num_steps in (1, 39, 80, 100, 5000):
        trajectory = Trajectory(num_frames=40)
        for step in range(num_steps):
            trajectory(1.0, torch.full((64, 1), float(step)))
        moments = [int(x[0, 0]) for _, x in trajectory.frames]
        assert min(num_steps, 40) <= len(moments) <= 80
        every = moments[1] if len(moments) > 1 else 1
        assert moments == list(range(0, num_steps, every))


def test_a_trajectory_leaves_the_tweedie_step_out_of_the_noise_levels():
    trajectory = Trajectory(tweedie=2)
    for sigma, value in ((2.0, 1.0), (0.5, 2.0), (0.5, 3.0)):
        trajectory(sigma, torch.full((1, 1), value))
    assert {sigma: x.item() for sigma, x in trajectory.levels.items()} == {2.0: 1.0, 0.5: 2.0}
    assert [x.item() for _, x in trajectory.frames] == [1.0, 2.0, 3.0]


# ---- pictures that fail ----


def broken(*_, **__):
    raise RuntimeError("no such font\nanywhere")


def warnings_of(record):
    return [str(each.message) for each in record if "left out" in str(each.message)]


@pytest.mark.parametrize("function", ["plot_samples", "plot_losses"])
def test_a_picture_that_cannot_be_drawn_does_not_end_a_fit(function, monkeypatch):
    monkeypatch.setattr(f"ncsn.plots.{function}", broken)
    with pytest.warns(UserWarning, match="left out") as record:
        module = run(epochs=1)
    assert len(module.after_steps) == 4
    found = warnings_of(record)
    assert set(found) == {"pictures of step 4 left out: RuntimeError: no such font anywhere"}
    assert (PICTURES / "losses.png").is_file() == (function != "plot_losses")


def test_pictures_that_cannot_be_written_do_not_end_a_fit():
    PICTURES.mkdir(parents=True)
    (PICTURES / "samples.png").symlink_to("/dev/full")  # a full disk
    (PICTURES / "losses.png").mkdir()
    with pytest.warns(UserWarning, match="left out") as record:
        module = run(epochs=1, version=0)
    assert len(module.after_steps) == 4
    first, second = warnings_of(record)
    assert first.startswith("picture samples left out: OSError")
    assert "No space left" in first
    assert second.startswith("picture losses left out: IsADirectoryError")
    assert (PICTURES / "score.png").is_file()


def test_a_picture_that_cannot_be_drawn_does_not_end_a_test(monkeypatch):
    module = NCSN(MLP(hidden_dim=8), sampler=DPMSolver(3), preview=Preview(every_n_epochs=0))
    trainer = fit(module, logger=CSVLogger(".", name=""))
    monkeypatch.setattr("ncsn.plots.plot_levels", broken)
    trainer.callbacks.append(TestReport(20, num_likelihood_examples=0))
    with pytest.warns(UserWarning, match="picture levels left out: RuntimeError"):
        trainer.test(module, trainer.datamodule, verbose=False)
    assert (PICTURES / "samples.png").is_file()
    assert not (PICTURES / "levels.png").exists()
    assert "excess_loss" in Path("version_0/evaluation.json").read_text()


# ---- points that are not in the plane ----


class Cube(InMemoryDataModule):
    """Points that are uniform in a cube of any dimension."""

    data_mean, data_std, data_diameter = 0.0, 0.58, 4.0

    def __init__(self, dim):
        super().__init__(batch_size=16)
        self.data_shape = (dim,)

    def load_splits(self):
        data, labels = 2 * torch.rand(64, *self.data_shape) - 1, torch.zeros(64).long()
        return dict.fromkeys(("train", "val", "test"), TensorBatches(data, labels))


@pytest.mark.parametrize("dim", [1, 3, 5])
def test_points_of_another_dimension_train_and_are_evaluated(dim):
    module = NCSN(
        MLP(dim, hidden_dim=8),
        data_shape=(dim,),
        sampler=DPMSolver(3),
        preview=Preview(num_samples=10, num_compared=20),
    )
    trainer = fit(module, data=Cube(dim), callbacks=[EMA()], logger=CSVLogger(".", name=""))
    assert "val/energy_distance" in trainer.callback_metrics
    assert {path.name for path in PICTURES.iterdir()} == {"losses.png"}
    trainer.callbacks.append(TestReport(20, num_likelihood_examples=4))
    trainer.test(module, trainer.datamodule, verbose=False)
    assert '"nll"' in Path("version_0/evaluation.json").read_text()
