"""Langevin dynamics against closed forms, with exact scores.

Statistical tests allow five standard errors: each raises a false alarm once in 1.7 million runs,
and none with the fixed seeds.
"""

import math

import pytest
import torch
from closed_forms import assert_variance, gaussian_score

from ncsn.levels import Rho, geometric, langevin_step_size
from ncsn.sampling import AnnealedLangevin, Langevin
from ncsn.sampling.langevin import epsilon_from_share, epsilon_from_step_lr


def mixture_score(x, sigma):
    """The exact score of 0.8 N(-2, 0.1²) + 0.2 N(2, 0.1²), noised at level sigma."""
    means, weights = torch.tensor([-2.0, 2.0]), torch.tensor([0.8, 0.2])
    v = 0.1**2 + sigma[:, None] ** 2
    responsibility = (weights.log() - (x - means) ** 2 / (2 * v)).softmax(dim=1)
    return ((means - x) * responsibility).sum(dim=1, keepdim=True) / v


@pytest.mark.parametrize("eta", [0.1, 1.0, 3.0])
def test_langevin_dynamics_on_a_gaussian_has_its_closed_form_variance(eta):
    # x <- (1 - eta / 2v) x + sqrt(eta) z has the stationary variance v / (1 - eta / 4v).
    std, sigma = 0.8, 0.6
    v = std**2 + sigma**2
    x = Langevin(epsilon=eta, num_steps=200, denoise=False)(
        gaussian_score(0, std), 0.5 * torch.randn(100_000, 1), torch.tensor([sigma])
    )
    assert_variance(x, v / (1 - eta / (4 * v)))


def test_annealing_finds_the_weights_of_a_mixture_and_plain_langevin_does_not():
    levels = geometric(10.0, 0.05, 30)
    n = 4000

    def weight(sampler):
        x = sampler.initial(torch.empty(n, 1), levels)
        return (sampler(mixture_score, x, levels) < 0).float().mean().item()

    annealed = weight(AnnealedLangevin(steps_per_level=50))
    plain = weight(Langevin(epsilon=0.4 * 0.05**2, num_steps=1500, prior="uniform"))
    assert abs(annealed - 0.8) < 5 * (0.8 * 0.2 / n) ** 0.5 + 0.01  # 0.01: its own bias
    assert abs(plain - 0.5) < 0.1  # it stays where it started


def test_annealed_langevin_reaches_a_gaussian_and_removes_its_noise():
    levels = geometric(10.0, 0.1, 20)
    sampler = AnnealedLangevin(steps_per_level=100, epsilon=None)
    x = sampler(gaussian_score(1.5, 0.5), 10 * torch.randn(20_000, 2), levels)
    assert abs(x.mean().item() - 1.5) < 5 * 0.5 / 40_000**0.5
    # The last level's chain has variance v / (1 - eta / 4v); Tweedie shrinks by 0.25 / v.
    v, eta = 0.5**2 + 0.1**2, 0.4 * 0.1**2
    assert_variance(x, v / (1 - eta / (4 * v)) * (0.5**2 / v) ** 2)


@pytest.mark.parametrize("ladder", [geometric, Rho(3)], ids=["geometric", "rho"])
def test_epsilon_sets_the_step_at_each_level_in_proportion_to_its_variance(ladder):
    # One step at each level from x = 0 with a zero score: the variances of the noise add up.
    levels = ladder(2.0, 0.5, 3)
    sampler = AnnealedLangevin(steps_per_level=1, epsilon=0.3, denoise=False)
    x = sampler(lambda x, sigma: torch.zeros_like(x), torch.zeros(100_000, 1), levels)
    assert_variance(x, sum(0.3 * sigma**2 / 4 for sigma in levels.tolist()))


def ncsn_reference(score, x, levels, step_lr, generator):
    """One step at each level, as in the code of Song & Ermon 2019."""
    for sigma in levels.tolist():
        alpha = step_lr * (sigma / levels[-1].item()) ** 2
        z = torch.empty_like(x).normal_(generator=generator)
        x = x + alpha * score(x, torch.full((len(x),), sigma)) + math.sqrt(2 * alpha) * z
    return x


@pytest.mark.parametrize(
    "epsilon", [epsilon_from_share(0.36, 1.0), epsilon_from_step_lr(0.36 * 0.25**2, 1.0, 0.25)]
)
def test_a_share_and_a_step_lr_convert_to_the_same_epsilon(epsilon):
    # a = 0.36 on a ladder from 1 to 0.25.
    assert epsilon == pytest.approx(0.72)
    levels, score, x = geometric(1.0, 0.25, 3), gaussian_score(0, 1), torch.ones(5, 2)
    sampler = AnnealedLangevin(steps_per_level=1, epsilon=epsilon, denoise=False)
    assert sampler.share(levels) == pytest.approx(0.36)
    ours = sampler(score, x, levels, torch.Generator().manual_seed(0))
    step_lr, generator = 0.36 * 0.25**2, torch.Generator().manual_seed(0)
    torch.testing.assert_close(ours, ncsn_reference(score, x, levels, step_lr, generator))


@pytest.mark.parametrize(
    "epsilon", [epsilon_from_share(0.36, 0.25), epsilon_from_step_lr(0.0225, 0.25, 0.25)]
)
def test_conversions_hold_at_one_level_too(epsilon):
    # There, epsilon is eta = 2 a sigma², and step_lr is half of it.
    assert epsilon == pytest.approx(2 * 0.36 * 0.25**2)
    level, score, x = torch.tensor([0.25]), gaussian_score(0, 1), torch.ones(5, 2)
    ours = Langevin(epsilon, num_steps=1, denoise=False)(
        score, x, level, torch.Generator().manual_seed(0)
    )
    expected = ncsn_reference(score, x, level, 0.0225, torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours, expected)


def test_shares_of_the_papers_are_those_of_the_docstring():
    levels = geometric(1.0, 0.01, 10)
    ncsn = AnnealedLangevin(epsilon=epsilon_from_step_lr(2e-5, 1.0, 0.01))
    assert ncsn.share(levels) == pytest.approx(0.2)
    assert AnnealedLangevin(epsilon=None).share(levels) == 0.2
    ncsnv2 = AnnealedLangevin(steps_per_level=5, epsilon="auto")
    assert ncsnv2.share(geometric(50.0, 0.01, 232)) == pytest.approx(0.062, abs=5e-4)


def test_step_size_auto_is_technique_4_on_the_ladder():
    levels = geometric(50.0, 0.01, 232)
    sampler = AnnealedLangevin(steps_per_level=5, epsilon="auto")
    assert sampler.share(levels) == langevin_step_size(levels.tolist(), 5)


def test_a_langevin_step_is_that_of_diffusers():
    # Its step_correct chooses the step size from norms; given that one, the step is ours.
    diffusers = pytest.importorskip("diffusers", reason="needs the extra `dev`")
    levels, x, snr = torch.tensor([0.3]), torch.randn(1, 1, 4, 4), 0.16
    score = gaussian_score(0.3, 0.7)
    theirs = diffusers.ScoreSdeVeScheduler(snr=snr)
    theirs.set_timesteps(2)
    s = score(x, levels)
    expected = theirs.step_correct(s, x, generator=torch.Generator().manual_seed(2)).prev_sample
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    step_lr = 2 * (snr * z.norm() / s.norm()).item() ** 2
    for epsilon in (2 * step_lr, epsilon_from_step_lr(step_lr, 0.3, 0.3)):
        sampler = Langevin(epsilon, num_steps=1, denoise=False)
        ours = sampler(score, x, levels, torch.Generator().manual_seed(2))
        torch.testing.assert_close(ours, expected)
