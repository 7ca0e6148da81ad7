"""Samplers that reverse the noising, against each other, the posterior and diffusers."""

import pytest
import torch
from closed_forms import GAUSSIAN, gaussian_score

from ncsn.diffusion import variance_exploding
from ncsn.levels import Rho, geometric
from ncsn.sampling import (
    Ancestral,
    ConsistentAnnealedSampling,
    DPMSolver,
    Euler,
    PredictorCorrector,
)

each_ladder = pytest.mark.parametrize("ladder", [geometric, Rho(7)], ids=["geometric", "rho"])


def run_alike(*samplers, ladder=geometric):
    """The results of samplers that start alike and draw the same noise."""
    levels = ladder(5.0, 0.1, 9)
    x = 5 * torch.randn(16, 2)
    return [sampler(GAUSSIAN, x, levels, torch.Generator().manual_seed(1)) for sampler in samplers]


@each_ladder
def test_the_first_step_of_the_sde_solver_is_ancestral_sampling(ladder):
    torch.testing.assert_close(*run_alike(DPMSolver(2, eta=1.0), Ancestral(2), ladder=ladder))


def test_consistent_annealed_sampling_is_ddim_or_ancestral_sampling_at_two_step_sizes():
    g = (0.1 / 5.0) ** (1 / 8)
    ddim, ancestral = ConsistentAnnealedSampling(1 - g), ConsistentAnnealedSampling(1 - g**2)
    # Without noise, beta is the square root of a rounding error of 1e-7.
    torch.testing.assert_close(*run_alike(ddim, Euler()), rtol=0, atol=3e-3)
    torch.testing.assert_close(*run_alike(ancestral, Ancestral()))


@each_ladder
def test_consistent_annealed_sampling_is_by_default_ancestral_sampling(ladder):
    samplers = ConsistentAnnealedSampling(), Ancestral()
    torch.testing.assert_close(*run_alike(*samplers, ladder=ladder))


def test_ancestral_sampling_draws_from_the_posterior_of_the_exploding_diffusion():
    # One step from t = 1 to s = 0, with the denoiser in place of the clean data.
    levels, x = geometric(2.0, 0.5, 2), torch.randn(7, 2)
    denoised = x + 4 * GAUSSIAN(x, torch.full((7,), 2.0))
    ours = Ancestral(denoise=False)(GAUSSIAN, x, levels, torch.Generator().manual_seed(1))
    posterior = variance_exploding(0.5, 2.0).posterior(x, denoised, torch.zeros(7), torch.ones(7))
    torch.testing.assert_close(ours, posterior.sample(torch.Generator().manual_seed(1)))


def test_ancestral_sampling_is_the_formula_of_its_docstring():
    levels, x, g = geometric(2.0, 0.5, 2), torch.randn(7, 2), 0.5 / 2
    denoised = x + 4 * GAUSSIAN(x, torch.full((7,), 2.0))
    z = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
    expected = g**2 * x + (1 - g**2) * denoised + 0.5 * (1 - g**2) ** 0.5 * z
    ours = Ancestral(denoise=False)(GAUSSIAN, x, levels, torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, expected)


def test_predictor_corrector_reaches_a_gaussian_in_many_dimensions():
    # Five standard errors, and 3 % of the standard deviation for the discretisation. In few
    # dimensions the norm of the score, by which the corrector divides, comes near zero.
    levels, dim = geometric(30.0, 0.1, 12), 64
    sampler = PredictorCorrector(num_steps=200, signal_to_noise=0.1)
    x = sampler.initial(torch.empty(1000, dim), levels)
    x = sampler(gaussian_score(0.4, 0.5), x, levels)
    assert abs(x.mean().item() - 0.4) < 5 * 0.5 / x.numel() ** 0.5 + 0.03 * 0.5
    v = 0.5**2 * 0.5**2 / (0.5**2 + 0.1**2)  # after the Tweedie step
    assert abs(x.var().item() / v - 1) < 5 * (2 / x.numel()) ** 0.5 + 0.06


def test_steps_of_predictor_and_corrector_are_those_of_diffusers():
    # diffusers' ScoreSdeVeScheduler: step_pred is our predictor, step_correct our corrector, for
    # a batch of one, since its norms are means over the batch.
    diffusers = pytest.importorskip("diffusers", reason="needs the extra `dev`")
    levels, x = geometric(50.0, 0.01, 11), 50 * torch.randn(1, 1, 4, 4)
    theirs = diffusers.ScoreSdeVeScheduler(
        num_train_timesteps=11, snr=0.16, sigma_min=0.01, sigma_max=50.0, sampling_eps=0.0
    )
    theirs.set_timesteps(11)
    theirs.set_sigmas(11, 0.01, 50.0, 0.0)
    score = gaussian_score(0.3, 0.7)
    generator, expected = torch.Generator().manual_seed(2), x
    sigmas = theirs.discrete_sigmas.flip(0)
    torch.testing.assert_close(sigmas, levels)
    for i, t in enumerate(theirs.timesteps[:-1]):
        expected = theirs.step_pred(
            score(expected, sigmas[i : i + 1]), t, expected, generator=generator
        ).prev_sample
        expected = theirs.step_correct(
            score(expected, sigmas[i + 1 : i + 2]), expected, generator=generator
        ).prev_sample
    sampler = PredictorCorrector(corrector_steps=1, signal_to_noise=0.16, denoise=False)
    ours = sampler(score, x, levels, torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("scale", [0.0, 1e-30])
def test_where_the_score_is_zero_the_corrector_takes_no_step(scale):
    # By the ratio of the norms the step would be infinite, and 0 times infinity is no number.
    sampler = PredictorCorrector(corrector_steps=1)
    x = sampler(lambda x, sigma: scale * x, torch.zeros(5000, 2), geometric(2.0, 0.5, 2))
    # The predictor adds noise of variance 2² - 0.5².
    assert abs(x.var().item() / (4 - 0.25) - 1) < 5 * (2 / x.numel()) ** 0.5
