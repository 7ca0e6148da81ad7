"""DSM and NCSN: their noise levels, their samples, what they refuse."""

import pytest
import torch
from torch import nn

from ncsn.callbacks import Preview
from ncsn.levels import Rho, noise_level_ratio
from ncsn.modules import DSM, NCSN
from ncsn.networks import ConditionedResNet, ScoreNetwork, UNet
from ncsn.random import Stream, seeded_generator
from ncsn.sampling import AnnealedLangevin, ConsistentAnnealedSampling, Langevin


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
        (lambda: DSM(Linear(2, 2), sigma=-1.0), "sigma must be a positive number, got -1.0"),
    ],
)
def test_impossible_modules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
