"""Samplers against closed forms, with exact scores.

Statistical tests allow five standard errors: a false alarm in 1.7 million runs each, and none
with the fixed seeds.
"""

import math

import pytest
import torch

from ncsn.diffusion import variance_exploding
from ncsn.exact import Gaussian, TwoMoons
from ncsn.noise import SampleGenerator, expand_as, geometric_noise_levels, langevin_step_size
from ncsn.sampling import (
    Ancestral,
    AnnealedLangevin,
    ConsistentAnnealedSampling,
    DPMSolver,
    Euler,
    Heun,
    Langevin,
    PredictorCorrector,
    log_density,
)


def gaussian_score(mean, std):
    """The exact score of N(mean, std² I) noised at level sigma."""
    return lambda x, sigma: -(x - mean) / (std**2 + expand_as(sigma, x) ** 2)


def mixture_score(x, sigma):
    """The exact score of 0.8 N(-2, 0.1²) + 0.2 N(2, 0.1²), noised at level sigma."""
    means, weights = torch.tensor([-2.0, 2.0]), torch.tensor([0.8, 0.2])
    v = 0.1**2 + sigma[:, None] ** 2
    responsibility = (weights.log() - (x - means) ** 2 / (2 * v)).softmax(dim=1)
    return ((means - x) * responsibility).sum(dim=1, keepdim=True) / v


def assert_variance(x, expected):
    n = x.numel()
    assert abs(x.var().item() / expected - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("eta", [0.1, 1.0, 3.0])
def test_langevin_dynamics_on_a_gaussian_has_its_closed_form_variance(eta):
    # x <- (1 - eta / 2v) x + sqrt(eta) z has the stationary variance v / (1 - eta / 4v).
    std, sigma = 0.8, 0.6
    v = std**2 + sigma**2
    x = Langevin(eta, num_steps=200, denoise=False)(
        gaussian_score(0, std), 0.5 * torch.randn(100_000, 1), torch.tensor([sigma])
    )
    assert_variance(x, v / (1 - eta / (4 * v)))


def test_annealing_finds_the_weights_of_a_mixture_and_plain_langevin_does_not():
    levels = geometric_noise_levels(10.0, 0.05, 30)
    n = 4000

    def weight(sampler):
        x = sampler.initial(torch.empty(n, 1), levels)
        return (sampler(mixture_score, x, levels) < 0).float().mean().item()

    annealed = weight(AnnealedLangevin(steps_per_level=50))
    plain = weight(Langevin(step_size=0.4 * 0.05**2, num_steps=1500, prior="uniform"))
    assert abs(annealed - 0.8) < 5 * (0.8 * 0.2 / n) ** 0.5 + 0.01  # 0.01: its own bias
    assert abs(plain - 0.5) < 0.1  # it stays where it started


def test_annealed_langevin_reaches_a_gaussian_and_removes_its_noise():
    levels = geometric_noise_levels(10.0, 0.1, 20)
    sampler = AnnealedLangevin(steps_per_level=100, step_size=None)
    x = sampler(gaussian_score(1.5, 0.5), 10 * torch.randn(20_000, 2), levels)
    assert abs(x.mean().item() - 1.5) < 5 * 0.5 / 40_000**0.5
    # The last level's chain has variance v / (1 - a sigma²/2v); Tweedie shrinks by 0.25 / v.
    v, eta = 0.5**2 + 0.1**2, 0.4 * 0.1**2
    assert_variance(x, v / (1 - eta / (4 * v)) * (0.5**2 / v) ** 2)


def test_step_size_of_annealed_langevin_is_the_users_epsilon():
    # One step at each level from x = 0 with a zero score: the variances of the noise add up.
    levels = geometric_noise_levels(2.0, 0.5, 3)
    sampler = AnnealedLangevin(steps_per_level=1, step_size=0.3, denoise=False)
    x = sampler(lambda x, sigma: torch.zeros_like(x), torch.zeros(100_000, 1), levels)
    assert_variance(x, sum(0.3 * sigma**2 / 4 for sigma in levels.tolist()))


@pytest.mark.parametrize(
    ("step_size", "convention"), [(0.72, "epsilon"), (0.0225, "step_lr"), (0.36, "relative")]
)
@pytest.mark.parametrize("make", [AnnealedLangevin, Langevin])
def test_the_three_ways_to_give_a_step_size_are_one(step_size, convention, make):
    # a = 0.36 on a ladder from 1 to 0.25. At one level, epsilon and step_lr are 2a and a times
    # its square.
    levels = geometric_noise_levels(1.0, 0.25, 3)
    if make is Langevin:
        step_size = 0.36 * {"epsilon": 2 / 16, "step_lr": 1 / 16, "relative": 1}[convention]

    def sample(step_size, convention):
        counts = {"num_steps": 2} if make is Langevin else {"steps_per_level": 2}
        sampler = make(step_size=step_size, convention=convention, **counts)
        generator = torch.Generator().manual_seed(0)
        return sampler(gaussian_score(0, 1), torch.ones(5, 2), levels, generator)

    torch.testing.assert_close(sample(step_size, convention), sample(0.36, "relative"))


GAUSSIAN_COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.5]])
GAUSSIAN = Gaussian([0.5, -1.0], GAUSSIAN_COVARIANCE)


@pytest.mark.parametrize(
    "sampler",
    [
        Langevin(step_size=0.02, num_steps=1000, denoise=False),
        AnnealedLangevin(steps_per_level=200),
        ConsistentAnnealedSampling(num_steps=400),
        ConsistentAnnealedSampling(step_size=0.1, num_steps=400),
        Ancestral(num_steps=400),
        PredictorCorrector(num_steps=400, corrector_steps=0),
        Euler(num_steps=400),
        Heun(num_steps=60),
        DPMSolver(num_steps=80),
        DPMSolver(num_steps=80, eta=1.0),
        DPMSolver(num_steps=200, eta=3.0),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_with_an_exact_score_every_sampler_reaches_the_mean_and_the_covariance(sampler):
    # Whitened, so that the minor axis counts as much as the major one. Five standard errors, and
    # 3 % of the standard deviations for what finite steps cost.
    n, sigma_min = 20_000, 0.1
    levels = geometric_noise_levels(30.0, sigma_min, 12)
    x = sampler(GAUSSIAN, sampler.initial(torch.empty(n, 2), levels), levels)
    mean, covariance = GAUSSIAN.mean, GAUSSIAN_COVARIANCE.double()
    noised = covariance + sigma_min**2 * torch.eye(2)
    # The Tweedie step maps N(m, C + sigma² I) linearly to a covariance below C.
    expected = covariance @ noised.inverse() @ covariance if sampler.denoise else noised
    root = torch.linalg.cholesky(expected)
    white = torch.linalg.solve_triangular(root, (x - mean).T, upper=False)
    assert (white.mean(1).abs() < 5 / n**0.5 + 0.03).all()
    # Standard error of a sample covariance of white data: sqrt(2 / n) on the diagonal, else less.
    assert ((white.cov() - torch.eye(2)).abs() < 5 * (2 / n) ** 0.5 + 0.06).all()


def test_predictor_corrector_reaches_a_gaussian_in_many_dimensions():
    # In few dimensions the norm of the score, by which the corrector divides, comes near zero.
    levels, dim = geometric_noise_levels(30.0, 0.1, 12), 64
    sampler = PredictorCorrector(num_steps=200, signal_to_noise=0.1)
    x = sampler.initial(torch.empty(1000, dim), levels)
    x = sampler(gaussian_score(0.4, 0.5), x, levels)
    assert abs(x.mean().item() - 0.4) < 5 * 0.5 / x.numel() ** 0.5 + 0.03 * 0.5
    v = 0.5**2 * 0.5**2 / (0.5**2 + 0.1**2)  # after the Tweedie step
    assert abs(x.var().item() / v - 1) < 5 * (2 / x.numel()) ** 0.5 + 0.06


def test_step_size_auto_is_technique_4_on_the_ladder():
    levels = geometric_noise_levels(50.0, 0.01, 232).tolist()
    sampler = AnnealedLangevin(steps_per_level=5, step_size="auto")
    assert sampler.relative_step_size(levels) == langevin_step_size(levels, 5)


@pytest.mark.parametrize(("make", "order"), [(Euler, 1), (Heun, 2), (DPMSolver, 2)])
def test_solvers_of_the_probability_flow_converge_at_their_order(make, order):
    # For N(0, s²) the flow is linear: x / sqrt(s² + sigma²) stays constant.
    std, sigma_max, sigma_min = 0.5, 5.0, 1e-2
    levels = geometric_noise_levels(sigma_max, sigma_min, 2)
    x = torch.tensor([[1.0]], dtype=torch.float64)
    exact = ((std**2 + sigma_min**2) / (std**2 + sigma_max**2)) ** 0.5
    errors = [
        abs(make(steps, denoise=False)(gaussian_score(0, std), x, levels).item() - exact)
        for steps in (161, 321)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def run_alike(*samplers, num_levels=9):
    """The results of samplers that start alike and draw the same noise."""
    levels = geometric_noise_levels(5.0, 0.1, num_levels)
    x = 5 * torch.randn(16, 2)
    return [sampler(GAUSSIAN, x, levels, torch.Generator().manual_seed(1)) for sampler in samplers]


def test_the_first_step_of_the_sde_solver_is_ancestral_sampling():
    torch.testing.assert_close(*run_alike(DPMSolver(2, eta=1.0), Ancestral(2)))


def test_consistent_annealed_sampling_is_ddim_or_ancestral_sampling_at_two_step_sizes():
    g = (0.1 / 5.0) ** (1 / 8)
    ddim, ancestral = ConsistentAnnealedSampling(1 - g), ConsistentAnnealedSampling(1 - g**2)
    # Without noise, beta is the square root of a rounding error of 1e-7.
    torch.testing.assert_close(*run_alike(ddim, Euler()), rtol=0, atol=3e-3)
    torch.testing.assert_close(*run_alike(ancestral, Ancestral()))
    torch.testing.assert_close(*run_alike(ConsistentAnnealedSampling(), Ancestral()))


def test_ancestral_sampling_draws_from_the_posterior_of_the_exploding_diffusion():
    # One step from t = 1 to s = 0, with the denoiser in place of the clean data.
    levels, x = geometric_noise_levels(2.0, 0.5, 2), torch.randn(7, 2)
    denoised = x + 4 * GAUSSIAN(x, torch.full((7,), 2.0))
    ours = Ancestral(denoise=False)(GAUSSIAN, x, levels, torch.Generator().manual_seed(1))
    posterior = variance_exploding(0.5, 2.0).posterior(x, denoised, torch.zeros(7), torch.ones(7))
    torch.testing.assert_close(ours, posterior.sample(torch.Generator().manual_seed(1)))


def test_steps_are_those_of_diffusers_scheduler():
    # diffusers' ScoreSdeVeScheduler: step_pred is our predictor, step_correct our corrector, for
    # a batch of one, since its norms are means over the batch.
    diffusers = pytest.importorskip("diffusers", reason="needs the extra `dev`")
    levels, x = geometric_noise_levels(50.0, 0.01, 11), 50 * torch.randn(1, 1, 4, 4)
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


@pytest.mark.parametrize(("eta", "algorithm"), [(0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")])
def test_dpm_solver_is_that_of_diffusers(eta, algorithm):
    diffusers = pytest.importorskip("diffusers", reason="needs the extra `dev`")
    theirs = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_min=0.01,
        sigma_max=50.0,
        sigma_schedule="exponential",
        algorithm_type=algorithm,
        lower_order_final=False,
    )
    theirs.precondition_outputs = lambda x, denoised, sigma: denoised  # the network's task
    theirs.set_timesteps(12)
    levels, score = theirs.sigmas[:-1], gaussian_score(0.3, 0.7)
    x = 50 * torch.randn(4, 3)
    expected, generator = x, torch.Generator().manual_seed(2)
    for sigma, t in zip(levels[:-1], theirs.timesteps[:-1], strict=True):
        denoised = expected + sigma**2 * score(expected, sigma.expand(4))
        expected = theirs.step(denoised, t, expected, generator=generator).prev_sample
    sampler = DPMSolver(num_steps=None, eta=eta, denoise=False)
    ours = sampler(score, x, levels, torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours, expected)


def test_a_langevin_step_is_that_of_diffusers_scheduler():
    # Its step_correct chooses the step size from norms; given that one, the step is ours.
    diffusers = pytest.importorskip("diffusers", reason="needs the extra `dev`")
    levels, x, snr = torch.tensor([0.3]), torch.randn(1, 1, 4, 4), 0.16
    score = gaussian_score(0.3, 0.7)
    theirs = diffusers.ScoreSdeVeScheduler(snr=snr)
    theirs.set_timesteps(2)
    s = score(x, levels)
    expected = theirs.step_correct(s, x, generator=torch.Generator().manual_seed(2)).prev_sample
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    alpha = 2 * (snr * z.norm() / s.norm()).item() ** 2
    for step_size, convention in ((alpha, "step_lr"), (2 * alpha, "epsilon")):
        sampler = Langevin(step_size, num_steps=1, denoise=False, convention=convention)
        ours = sampler(score, x, levels, torch.Generator().manual_seed(2))
        torch.testing.assert_close(ours, expected)


def test_the_last_step_is_the_posterior_mean():
    x, v = torch.randn(10, 3), 0.7**2 + 0.4**2
    levels = geometric_noise_levels(1.0, 0.4, 4)
    states = []
    x = Ancestral()(
        gaussian_score(2.0, 0.7), x, levels, monitor=lambda sigma, state: states.append(state)
    )
    torch.testing.assert_close(x, (0.7**2 * states[-2] + 0.4**2 * 2.0) / v)


SAMPLERS = [Langevin(0.01, 7), AnnealedLangevin(5), AnnealedLangevin(5, denoise=False)]
SAMPLERS += [DPMSolver(9), AnnealedLangevin(3, prior="uniform"), Heun(4), Euler(), Ancestral(5)]
SAMPLERS += [PredictorCorrector(6, corrector_steps=2), ConsistentAnnealedSampling(0.9)]
SAMPLERS += [DPMSolver(9, eta=1.0)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_number_of_evaluations_is_as_stated_and_each_is_reported(sampler):
    levels = geometric_noise_levels(1.0, 0.1, 4)
    calls, reports = [], []

    def score(x, sigma):
        calls.append(sigma)
        return -x

    x = sampler.initial(torch.empty(2, 1), levels)
    sampler(score, x, levels, monitor=lambda sigma, x: reports.append(sigma))
    assert len(calls) == len(reports) == sampler.num_evaluations(4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sample_i_is_the_same_in_any_batch_and_the_global_state_is_left_alone(sampler):
    levels = geometric_noise_levels(1.0, 0.1, 4)
    before = torch.get_rng_state()

    def sample(start, stop):
        generator = SampleGenerator(3, start, stop)
        x = sampler.initial(torch.empty(stop - start, 2), levels, generator)
        return sampler(gaussian_score(0, 1), x, levels, generator)

    assert torch.equal(torch.cat([sample(0, 30), sample(30, 100)]), sample(0, 100))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Langevin(step_size=0),
        lambda: Langevin(num_steps=0),
        lambda: AnnealedLangevin(steps_per_level=0),
        lambda: AnnealedLangevin(step_size=-1.0),
        lambda: AnnealedLangevin(step_size=float("nan")),
        lambda: AnnealedLangevin(step_size="large"),
        lambda: AnnealedLangevin(step_size=0.1, convention="step"),
        lambda: Langevin(convention="eps"),
        lambda: DPMSolver(num_steps=1),
        lambda: DPMSolver(eta=-0.1),
        lambda: Langevin(prior="gaussian"),
        lambda: Heun(num_steps=0),
        lambda: PredictorCorrector(corrector_steps=-1),
        lambda: PredictorCorrector(signal_to_noise=0.0),
        lambda: Heun(5).ladder(torch.tensor([0.1])),
        lambda: AnnealedLangevin(5, "auto").relative_step_size([0.1]),
        lambda: ConsistentAnnealedSampling(0.1).ladder(geometric_noise_levels(1.0, 0.1, 3)),
        lambda: ConsistentAnnealedSampling(1.5).ladder(geometric_noise_levels(1.0, 0.1, 3)),
    ],
)
def test_impossible_samplers_are_refused(make):
    with pytest.raises(ValueError, match=r"step|prior|eta|signal_to_noise|has one"):
        make()


def test_log_density_of_a_gaussian():
    mean = torch.tensor([0.5, -1.0])
    x = mean + torch.randn(200, 2) @ torch.linalg.cholesky(GAUSSIAN_COVARIANCE).T
    expected = GAUSSIAN.log_density(x.double(), torch.full((200,), 0.01))
    errors = []
    for num_steps in (40, 80):
        found = log_density(
            GAUSSIAN, x.double(), 100.0, 0.01, num_steps, prior_mean=mean, prior_std=0.75**0.5
        )
        errors.append((found.value - expected).abs())
    assert errors[1].max() < 1e-3
    # The stated error is that of the finer grid, for a method of fourth order.
    assert found.error.max() == pytest.approx((errors[0] - errors[1]).max().item() / 15, rel=0.5)


def test_hutchinsons_log_density_is_unbiased():
    x = torch.tensor([[1.0, 0.5]]).expand(2000, 2)
    arguments = (100.0, 0.05, 20)
    exact = log_density(GAUSSIAN, x[:1], *arguments).value
    estimate = log_density(GAUSSIAN, x, *arguments, exact_divergence=False).value
    assert abs(estimate.mean() - exact) < 5 * estimate.std() / 2000**0.5
    assert estimate.std() > 0.01  # it does vary


def test_log_density_of_the_moons_gives_their_entropy():
    moons = TwoMoons(num_points=128)
    x = moons.sample(1000)
    mean, std = x.mean(0), x.std(0).mean().item()
    found = log_density(moons, x, 100.0, 0.01, num_steps=64, prior_mean=mean, prior_std=std)
    expected = moons.log_density(x, torch.full((1000,), 0.01))
    assert (found.value - expected).abs().mean() < 1e-3
    assert found.error.mean() < 1e-3
    entropy = 1.00758
    assert abs(-found.value.mean() - entropy) < 5 * found.value.std() / 1000**0.5


@pytest.mark.parametrize("arguments", [(1.0, 2.0), (1.0, 0.0), (1.0, 0.1, 3), (1.0, 0.1, 0)])
def test_impossible_flows_are_refused(arguments):
    with pytest.raises(ValueError, match=r"sigma_min=|num_steps"):
        log_density(GAUSSIAN, torch.zeros(1, 2), *arguments)
