"""A user's own parts, each a few lines long, trained and sampled end to end."""

import inspect
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from jsonargparse import ArgumentParser
from support.paths import ROOT
from torch import nn
from torch.nn import functional as F

from ncsn.data import MoonsDataModule
from ncsn.exact import TwoMoons
from ncsn.levels import descend, expand_as, perturb
from ncsn.modules import NCSN
from ncsn.networks import MLP, ScoreNetwork
from ncsn.parametrisation import Parametrisation
from ncsn.random import SampleGenerator, normal_like
from ncsn.sampling import DPMSolver, LadderSampler


class Renoise(LadderSampler):
    """A sampler: denoise, and add fresh noise of the next level."""

    def step(self, score, x, sigma, sigma_next, generator):
        denoised = x + sigma**2 * score(x, sigma)
        return denoised + sigma_next * normal_like(x, generator)


def square_root(sigma_max, sigma_min, num_levels):
    """A ladder: even steps of the square root of sigma."""
    return torch.linspace(sigma_max**0.5, sigma_min**0.5, num_levels) ** 2


def huber(score, x, sigma, generator=None):
    """An objective: denoising score matching with Huber's loss."""
    x_sigma, z = perturb(x, sigma, generator)
    return F.huber_loss(expand_as(sigma, x) * score(x_sigma, sigma), -z, reduction="none")


class Denoiser(Parametrisation):
    """A parametrisation: the network returns the clean data, up to its mean."""

    def __call__(self, network, x, sigma, mean, std):
        s = expand_as(sigma, x)
        inputs = (x - mean) / (std**2 + s**2).sqrt()
        return (mean + network(inputs, sigma) - x) / s**2


class Waves(ScoreNetwork):
    """A network: sines of learned frequencies."""

    def __init__(self, width=128):
        super().__init__()
        self.waves = nn.Linear(3, width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x, sigma):
        inputs = torch.cat([x, sigma.log()[:, None]], dim=1)
        return self.layers(self.waves(inputs).sin())


class TwoClasses(Waves):
    """A class-conditional network, which remembers the labels that it was given."""

    num_classes = 2

    def forward(self, x, sigma, label=None):
        self.label = label
        return super().forward(x, sigma)


def distance_to_the_moons(samples):
    """How far samples are from the nearest data, or data from the nearest samples if farther.

    0.03 for new data, 0.06 to 0.13 after the trainings below (six seeds), 0.95 before them.
    """
    data = TwoMoons().sample(1000, torch.Generator().manual_seed(5)).float()
    distances = torch.cdist(samples, data)
    return max(distances.amin(0).mean().item(), distances.amin(1).mean().item())


def trainer(**options):
    """A trainer that writes nothing."""
    switches = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return pl.Trainer(accelerator="cpu", **dict.fromkeys(switches, False), **options)


@pytest.mark.parametrize("own", [Renoise, square_root, huber, Denoiser, Waves, TwoClasses])
def test_each_of_these_parts_is_under_15_lines(own):
    assert len(inspect.getsource(own).splitlines()) < 15


def test_own_parts_train_and_sample_in_plain_torch():
    data = TwoMoons(num_points=256).sample(4000).float()
    network, levels = Waves(), descend(square_root, 4.0, 0.02, 20)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    parametrisation, sampler = Denoiser(), Renoise(40, ladder=square_root)
    score = partial(parametrisation, network, mean=data.mean(), std=data.std())

    @torch.no_grad()
    def sample():
        generator = SampleGenerator(0, 0, 1000)
        x = sampler.initial(torch.empty(1000, 2), levels, generator)
        return sampler(score, x, levels, generator)

    assert distance_to_the_moons(sample()) > 0.8
    for _ in range(300):
        x, sigma = data[torch.randint(4000, (256,))], levels[torch.randint(20, (256,))]
        loss = huber(score, x, sigma).flatten(1).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert distance_to_the_moons(sample()) < 0.2


def test_own_parts_train_and_sample_in_a_module():
    data = MoonsDataModule(num_points=5000, batch_size=256)
    module = NCSN(
        Waves(),
        sigma_min=0.02,
        sigma_max=4.0,
        num_levels=20,
        ladder=square_root,
        sampler=Renoise(40, ladder=square_root),
        parametrisation=Denoiser(),
        objective=huber,
        optimizer=partial(torch.optim.Adam, lr=3e-3),
        data_mean=data.data_mean,
        data_std=data.data_std,
    )
    assert torch.equal(module.noise_levels, square_root(4.0, 0.02, 20))
    drawn = module.sample_noise_levels(1000)
    assert set(drawn.tolist()) == set(module.noise_levels.tolist())
    assert distance_to_the_moons(module.draw(0, 1000)) > 0.8
    trainer(max_epochs=16).fit(module, data)
    assert distance_to_the_moons(module.draw(0, 1000)) < 0.2
    assert module.sampler.num_evaluations == 40


def test_the_loss_of_an_own_objective_is_the_mean_over_the_batch_of_its_sum_over_dimensions():
    def constant(score, x, sigma, generator=None):
        return torch.arange(6.0).view(3, 2)

    module = NCSN(MLP(), sigma_max=2.0, objective=constant)
    x, label = torch.randn(3, 2), torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(module.loss(x, torch.ones(3)), torch.tensor([1.0, 5.0, 9.0]) / 4)
    assert module.training_step((x, label), 0)["loss"].item() == pytest.approx(15 / 3 / 4)


def test_an_own_class_conditional_network_is_trained_without_a_share_of_the_labels():
    module = NCSN(TwoClasses(), label_dropout=0.3)
    batch = torch.randn(10_000, 2), torch.ones(10_000, dtype=torch.long)
    labels = []
    for _ in range(2):
        module.training_step(batch, batch_idx=0)
        labels.append(module.network.label)
    assert torch.equal(*labels)  # a resumed run hides the same ones
    rate = (labels[0] == -1).float().mean().item()
    assert abs(rate - 0.3) < 5 * (0.3 * 0.7 / 10_000) ** 0.5


@pytest.mark.parametrize(
    "option",
    [
        "ladder=test_extend.square_root",
        "objective=test_extend.huber",
        "parametrisation=test_extend.Denoiser",
        "network=test_extend.Waves",
        "sampler=test_extend.Renoise",
        'sampler={"class_path": "Euler", "init_args": {"ladder": "test_extend.square_root"}}',
        'ladder={"class_path": "ncsn.levels.Rho", "init_args": {"rho": 5}}',
    ],
)
def test_own_parts_without_type_annotations_can_be_named_in_a_config(option):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(NCSN, "model")
    parser.parse_args(["--model.network=MLP", f"--model.{option}"])  # raises if it refuses


def test_an_exact_score_can_replace_the_network():
    module = NCSN(TwoMoons(num_points=256), sigma_min=0.01, sigma_max=20.0, sampler=DPMSolver(40))
    samples = module.sample(2000)
    assert samples.dtype == torch.float32
    log_density = TwoMoons().log_density(samples, torch.zeros(2000))
    assert log_density.mean().item() == pytest.approx(-1.00758, abs=0.15)


def test_the_example_of_the_guide_has_an_operator_of_ones_own():
    text = (ROOT / "docs/guide/inverse.md").read_text()
    assert len(text.splitlines()) < 80
    source = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in source.splitlines() if line]) < 15
    names = {}
    exec(source, names)
    x, prior = names["x"], names["TwoMoons"](num_points=256)
    # Against draws of the prior, weighted by their likelihood.
    draws = prior.sample(200_000)
    weights = (-((draws.sum(1) - 0.5) ** 2) / (2 * names["noise"] ** 2)).exp()
    weights = (weights / weights.sum())[:, None]
    mean = (weights * draws).sum(0)
    std = (weights * (draws - mean) ** 2).sum(0).sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * std / 1000**0.5 + 0.1 * std).all()
    assert (x.std(0) / std - 1).abs().max() < 0.15
    assert abs(x.sum(1).std() - names["noise"]) < 0.02
