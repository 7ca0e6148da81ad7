"""DSM and NCSN: their noise levels, their samples, what they refuse."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from short_runs import fit
from torch import nn

from ncsn.callbacks import EMA, Preflight, Preview, TestReport
from ncsn.data import DigitsDataModule
from ncsn.evaluation import Report
from ncsn.exact import GaussianMixture
from ncsn.levels import Rho, noise_level_ratio
from ncsn.modules import DSM, NCSN
from ncsn.networks import MLP, ConditionedResNet, ScoreNetwork, UNet
from ncsn.objectives import denoising_score_matching, sliced_score_matching
from ncsn.parametrisation import EDM, Noise, Score
from ncsn.random import Stream, seeded_generator
from ncsn.sampling import (
    Ancestral,
    AnnealedLangevin,
    ConsistentAnnealedSampling,
    DPMSolver,
    Langevin,
    PredictorCorrector,
)


class Linear(nn.Linear, ScoreNetwork):
    """nn.Linear(2, 2) as a score network that ignores the noise level."""

    def forward(self, x, sigma):
        return super().forward(x)


@pytest.mark.parametrize("make", [DSM, NCSN])
def test_shapes_of_losses_and_samples(make):
    module = make(Linear(2, 2), sampler=Langevin(epsilon=1e-4, num_steps=3))
    x, sigma = torch.randn(8, 2), torch.ones(8)
    assert module.loss(x, sigma).shape == (8,)
    assert module.sample(4).shape == (4, 2)
    assert module.draw(3, 7).shape == (4, 2)
    assert module.score(x, sigma).shape == x.shape


def test_a_sample_is_the_same_in_any_batch():
    module = NCSN(Linear(2, 2), sampler=AnnealedLangevin(steps_per_level=1))
    torch.testing.assert_close(module.draw(0, 8)[3:5], module.draw(3, 5))
    assert not torch.allclose(module.draw(0, 2), module.draw(2, 4))


# ---- noise levels ----


@pytest.mark.parametrize("density", [None, (-1.0, 1.5)])
def test_each_draw_of_a_level_follows_the_density_and_a_batch_has_its_share_of_each(density):
    module = NCSN(
        Linear(2, 2), sigma_max=1.0, sigma_min=0.01, num_levels=10, level_density=density
    )
    p = torch.ones(10)
    if density:
        mean, std = density
        p = (-((module.noise_levels.log() - mean) ** 2) / (2 * std**2)).exp()
    p /= p.sum()
    generator = seeded_generator(Stream.TRAINING, 0)
    drawn = torch.stack([module.sample_noise_levels(7, generator) for _ in range(2000)])
    for row in (0, 6):
        counts = (drawn[:, row, None] == module.noise_levels).sum(0)
        # 9 degrees of freedom: a false alarm in 10,000 for each of the four.
        assert ((counts - 2000 * p) ** 2 / (2000 * p)).sum() < 33.7
    for num in (3, 64, 1000):
        levels = module.sample_noise_levels(num, generator)
        counts = (levels[:, None] == module.noise_levels).sum(0)
        assert counts.sum() == num
        assert ((counts - num * p).abs() < 2).all()


def test_in_half_precision_each_of_many_levels_is_drawn():
    module = NCSN(Linear(2, 2), num_levels=1000).bfloat16()
    module.noise_levels = torch.arange(1000.0)  # which bfloat16 cannot tell apart
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # as Lightning does in a training step
    try:
        drawn = module.sample_noise_levels(2000)
    finally:
        torch.set_default_dtype(default)
    assert len(drawn.unique()) == 1000


def test_levels_without_probability_are_never_drawn():
    ladder = {"sigma_max": 1e6, "sigma_min": 1e-6, "num_levels": 7}
    module = NCSN(Linear(2, 2), **ladder, level_density=(0.0, 0.01))
    assert (module.sample_noise_levels(100_000) == module.noise_levels[3]).all()


@pytest.mark.parametrize("given", [False, True], ids=["default", "Langevin"])
def test_samples_of_dsm_follow_the_noised_data_and_shrink_below_the_data_with_tweedie(given):
    # Data and noise of one variance 0.01, as of moons.yaml across an arc.
    data, v = GaussianMixture(torch.zeros(1, 2), stds=0.1), 0.02
    eta, sampler = 0.01, Langevin(epsilon=0.01, num_steps=100) if given else None
    module = DSM(data, sigma=0.1, sampler=sampler)
    generator = torch.Generator().manual_seed(0)
    plain = module.sample(10_000, generator=generator).var().item()
    denoised = module.sample(
        10_000, sampler=Langevin(eta, num_steps=100, denoise=True), generator=generator
    )
    chain = v / (1 - eta / (4 * v))  # the chain's own, at this step size
    assert plain == pytest.approx(chain, rel=5 * 0.01)  # 20,000 values: 1 %
    assert denoised.var().item() == pytest.approx(chain * (0.01 / v) ** 2, rel=5 * 0.01)
    assert denoised.var() < 0.6 * 0.01


def test_dsm_has_one_level():
    module = DSM(Linear(2, 2), sigma=0.3)
    assert module.noise_levels.tolist() == pytest.approx([0.3])
    assert module.sample_noise_levels(3).tolist() == pytest.approx([0.3] * 3)


def test_the_ladder_of_an_ncsn_can_be_any_function():
    module = NCSN(Linear(2, 2), sigma_min=0.1, sigma_max=2.0, num_levels=7, ladder=Rho(7))
    assert torch.equal(module.noise_levels, Rho(7)(2.0, 0.1, 7))
    mine = NCSN(Linear(2, 2), ladder=lambda high, low, num: torch.linspace(high, low, num))
    assert torch.equal(mine.noise_levels, torch.linspace(1.0, 0.01, 10))


def test_auto_noise_levels_are_ncsnv2s_techniques_1_2_and_4():
    module = NCSN(
        UNet(filters=8),
        sigma_min=0.01,
        sigma_max="auto",
        num_levels="auto",
        data_shape=(1, 28, 28),
        data_diameter=33.75,
        sampler=AnnealedLangevin(5, epsilon="auto"),
    )
    ratio = module.noise_levels[0] / module.noise_levels[1]
    assert module.noise_levels[0] == pytest.approx(33.75)
    assert ratio == pytest.approx(noise_level_ratio(784), rel=1e-3)
    assert module.auto == {"sigma_max": 33.75, "num_levels": len(module.noise_levels)}
    # The command line reports all three; epsilon is 2 a sigma_max².
    values = module.auto_values
    assert values["model.sigma_max"] == 33.75
    assert values["model.num_levels"] == len(module.noise_levels)
    share = values["model.sampler.epsilon"] / (2 * 33.75**2)
    assert share == pytest.approx(module.sampler.share(module.noise_levels), rel=1e-6)
    assert 0 < share < 1


def test_nothing_is_reported_where_nothing_is_auto():
    assert NCSN(Linear(2, 2)).auto_values == DSM(Linear(2, 2)).auto_values == {}


# ---- networks ----


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


def test_a_module_made_in_python_keeps_no_second_copy_of_its_network():
    module = DSM(Linear(2, 2))
    assert not module.hparams
    assert not module.hparams_initial


# ---- what is refused ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCSN(Linear(2, 2), sigma_max="auto"), "data_diameter"),
        (lambda: NCSN(Linear(2, 2), num_levels="auto"), "give num_levels"),
        (lambda: NCSN(Linear(2, 2), label_dropout=1.0), "label_dropout"),
        (lambda: NCSN(Linear(2, 2), sampler=ConsistentAnnealedSampling(0.01)), "between"),
        (
            lambda: NCSN(Linear(2, 2), preview=Preview(ConsistentAnnealedSampling(0.01))),
            "between",
        ),
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
        (lambda: DSM(Linear(2, 2), sigma=-1.0), "sigma must be a number .* got -1.0"),
        (lambda: DSM(Linear(2, 2), sigma=1e-40), "sigma .* from 1e-15 to 1e.15, got 1e-40"),
        (lambda: DSM(Linear(2, 2), sigma=1e39), "got 1e.39"),
        (lambda: DSM(Linear(2, 2), sigma=None), "got None"),
        (lambda: NCSN(Linear(2, 2), sigma_min=1e-40), "1e-15 <= sigma_min .* sigma_min=1e-40"),
        (lambda: NCSN(Linear(2, 2), sigma_max=1e39), "sigma_max=1e.39"),
        (lambda: NCSN(Linear(2, 2), sigma_min=None), "sigma_min=None"),
        (lambda: NCSN(Linear(2, 2), num_levels=None), "num_levels must be at least 1, got None"),
        (
            lambda: NCSN(Linear(2, 2), ladder=lambda *_: torch.logspace(30, 0, 10)),
            "sigma_max=1.*e.30",
        ),
    ],
)
def test_impossible_modules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- float64 ----

PARTS = {
    "points": (lambda: MLP(hidden_dim=8), (2,)),
    "images": (lambda: ConditionedResNet(filters=8, num_blocks=1), (1, 8, 8)),
    "classes": (lambda: UNet(filters=8, num_classes=3), (1, 8, 8)),
}
each_part = pytest.mark.parametrize(("network", "shape"), PARTS.values(), ids=PARTS)


@each_part
@pytest.mark.parametrize("parametrisation", [Score, Noise, EDM])
@pytest.mark.parametrize("objective", [denoising_score_matching, sliced_score_matching])
def test_a_module_in_float64_trains_and_samples(network, shape, parametrisation, objective):
    module = NCSN(
        network(),
        num_levels=3,
        data_shape=shape,
        objective=objective,
        parametrisation=parametrisation(),
        guidance_scale=2.0,
        level_density=(-1.0, 1.0),
        sampler=AnnealedLangevin(1),
    ).double()
    label, sigma = torch.tensor([0, 1, 2, -1]), module.sample_noise_levels(4)
    for dtype in (torch.float64, torch.float32):  # data come in float32
        losses = module.loss(torch.randn(4, *shape, dtype=dtype), sigma, label)
        assert losses.dtype == torch.float64
        losses.sum().backward()
    for sampler in (None, DPMSolver(3, eta=1.0), Ancestral(3), PredictorCorrector(3)):
        assert module.draw(0, 3, sampler=sampler).dtype == torch.float64
    value, _ = module.log_likelihood(torch.randn(2, *shape), num_steps=2)
    assert value.dtype == torch.float64


def test_float64_samples_are_those_of_float32_to_its_precision():
    module = NCSN(MLP(hidden_dim=8), sampler=DPMSolver(10))
    x, sigma = torch.randn(8, 2), torch.rand(8) + 0.1
    single = module.score(x, sigma)
    torch.testing.assert_close(module.double().score(x, sigma).float(), single)


@pytest.mark.parametrize(
    ("precision", "weights", "evaluation"),
    [
        ("64-true", torch.float64, torch.float64),
        ("bf16-true", torch.bfloat16, torch.float32),
    ],
)
def test_training_and_evaluation_in_other_precisions(precision, weights, evaluation, recwarn):
    module = NCSN(
        MLP(hidden_dim=8),
        num_levels=3,
        sampler=AnnealedLangevin(1),
        preview=Preview(num_samples=4, num_compared=8),
    )
    trainer = fit(module, logger=CSVLogger("."), precision=precision, callbacks=[EMA(0.9)])
    assert module.network.layers[0].weight.dtype == weights
    trainer.callbacks.append(TestReport(20, 2))
    trainer.test(module, trainer.datamodule, verbose=False)
    assert Path("lightning_logs/version_0/evaluation.json").is_file()
    written = {path.stem for path in Path("lightning_logs/version_0/pictures").iterdir()}
    assert {"samples", "score", "losses", "levels", "fields"} <= written
    assert not [each for each in recwarn if "left out" in str(each.message)]
    assert module.draw(0, 2).dtype == evaluation


def test_in_half_precision_losses_are_averaged_in_float32():
    # In bfloat16, a count ends at 256.
    module = NCSN(MLP(hidden_dim=8), num_levels=3)
    fit(module, epochs=2, precision="bf16-true")
    assert module.network.layers[0].weight.dtype == torch.bfloat16
    assert module.val_loss.count.dtype == module.val_loss.total.dtype == torch.float32
    assert module.train_loss.weight.dtype == module.train_loss.mean_value.dtype == torch.float32


def test_another_training_does_not_begin_with_the_mean_loss_of_the_checkpoint():
    module = NCSN(MLP(hidden_dim=8), num_levels=3)
    module.on_load_checkpoint({"train_loss": (1e6, 1000)})  # as load_from_checkpoint does
    trainer = fit(module, epochs=1)
    assert trainer.logged_metrics["train/loss_per_dim_epoch"] < 100


# ---- classes ----


def test_guidance_without_an_unconditional_score_is_refused():
    network = UNet(filters=8, num_classes=10)
    with pytest.raises(ValueError, match=r"guidance_scale=2.0 needs .* label_dropout=0 leaves"):
        NCSN(network, label_dropout=0.0, guidance_scale=2.0)
    assert NCSN(network, guidance_scale=2.0).has_marginal_score


def test_a_score_of_any_class_that_was_not_trained_is_refused():
    module = NCSN(UNet(filters=8, num_classes=10), label_dropout=0.0, data_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="label_dropout=0 trained no score of any class"):
        module.sample(2)
    assert module.draw(0, 2, sampler=DPMSolver(2)).shape == (2, 1, 8, 8)


def test_classes_without_training_examples_are_warned_of():
    module = NCSN(UNet(filters=8, num_classes=12), data_shape=(1, 8, 8))
    with pytest.warns(UserWarning, match="no examples of class 10, 11 of model.network.num_cl"):
        fit(module, data=DigitsDataModule(batch_size=64), callbacks=[Preflight()])


def test_samples_that_are_compared_have_the_classes_of_the_data():
    drawn = []

    class Recorder(NCSN):
        def draw(self, start, stop, label=None, **kwargs):
            drawn.append(label)
            return super().draw(start, stop, label, **kwargs)

    network, data = UNet(filters=8, num_classes=10), DigitsDataModule(batch_size=64)
    module = Recorder(network, num_levels=2, sampler=DPMSolver(2), data_shape=(1, 8, 8))
    trainer = pl.Trainer(accelerator="cpu", logger=CSVLogger("."), enable_progress_bar=False)
    trainer.callbacks.append(TestReport(20, 0))
    trainer.test(module, data)
    assert torch.equal(torch.cat(drawn), data.splits["train"].labels[:20])


def test_without_an_unconditional_score_a_test_leaves_out_what_needs_it():
    network = UNet(filters=8, num_classes=10)
    module = NCSN(network, label_dropout=0.0, sampler=DPMSolver(2), data_shape=(1, 8, 8))
    trainer = fit(module, data=DigitsDataModule(batch_size=64), logger=CSVLogger("."))
    trainer.callbacks.append(TestReport(20, 2))
    trainer.test(module, trainer.datamodule, verbose=False)
    report = Report.read(Path("lightning_logs/version_0"))
    assert "digits_fd_v1" in report.estimates
    assert "bits_per_dim" not in report.estimates
    assert not report.levels
    assert "label_dropout=0" in report.about["likelihood"]


# ---- one noise level ----


@pytest.mark.parametrize(
    "make",
    [
        lambda: NCSN(MLP(hidden_dim=8), sigma_min=0.1, sigma_max=0.1, num_levels=1),
        lambda: DSM(MLP(hidden_dim=8), sampler=Langevin(num_steps=2)),
    ],
)
def test_with_one_noise_level_a_test_says_that_there_is_no_likelihood(make):
    module = make()
    trainer = fit(module, logger=CSVLogger("."))
    trainer.callbacks.append(TestReport(20, 2))
    trainer.test(module, trainer.datamodule, verbose=False)
    report = Report.read(Path("lightning_logs/version_0"))
    assert "nll" not in report.estimates
    assert "one noise level" in report.about["likelihood"]


def test_the_likelihood_of_an_ncsn_with_one_level_is_refused():
    module = NCSN(MLP(), sigma_min=0.1, sigma_max=0.1, num_levels=1)
    with pytest.raises(ValueError, match="one noise level"):
        module.log_likelihood(torch.randn(3, 2))
