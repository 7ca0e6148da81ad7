"""What all samplers share: where they end, how they count, and that they keep no state.

Statistical tests allow five standard errors: each raises a false alarm once in 1.7 million runs,
and none with the fixed seeds.
"""

import math

import pytest
import torch
from closed_forms import COVARIANCE, GAUSSIAN, gaussian_score

from ncsn.levels import Rho, geometric
from ncsn.random import SampleGenerator
from ncsn.sampling import (
    IPNDM,
    Ancestral,
    AnnealedLangevin,
    ConsistentAnnealedSampling,
    Corrected,
    DPMSolver,
    Euler,
    Heun,
    Langevin,
    MetropolisLangevin,
    PredictorCorrector,
    Resampling,
    SASolver,
)

LEVELS = geometric(1.0, 0.1, 4)


@pytest.mark.parametrize(
    "sampler",
    [
        Langevin(epsilon=0.02, num_steps=1000, denoise=False),
        AnnealedLangevin(steps_per_level=200),
        MetropolisLangevin(steps_per_level=40),
        Corrected(Euler(num_steps=20), MetropolisLangevin(5)),
        ConsistentAnnealedSampling(num_steps=400),
        ConsistentAnnealedSampling(step_size=0.1, num_steps=400),
        Ancestral(num_steps=400),
        Ancestral(num_steps=400, ladder=Rho(7)),
        Resampling(num_steps=400, num_resamples=2),
        PredictorCorrector(num_steps=400, corrector_steps=0),
        Euler(num_steps=400),
        Heun(num_steps=60),
        Heun(num_steps=60, ladder=Rho(7)),
        DPMSolver(num_steps=80),
        DPMSolver(num_steps=80, ladder=Rho(7)),
        DPMSolver(num_steps=80, eta=1.0),
        DPMSolver(num_steps=80, eta=1.0, ladder=Rho(7)),
        DPMSolver(num_steps=200, eta=3.0),
        IPNDM(num_steps=60, ladder=Rho(7)),
        SASolver(num_steps=60, eta=0.0),
        SASolver(num_steps=80),
        SASolver(num_steps=80, ladder=Rho(7)),
    ],
    ids=str,
)
def test_with_an_exact_score_every_sampler_reaches_the_mean_and_the_covariance(sampler):
    # Whitened, so that the minor axis counts as much as the major one. Five standard errors, and
    # 3 % of the standard deviations for the discretisation.
    n, sigma_min = 20_000, 0.1
    levels = geometric(30.0, sigma_min, 12)
    x = sampler(GAUSSIAN, sampler.initial(torch.empty(n, 2), levels), levels)
    mean, covariance = GAUSSIAN.mean, COVARIANCE.double()
    noised = covariance + sigma_min**2 * torch.eye(2)
    # The Tweedie step maps N(m, C + sigma² I) linearly to a covariance below C.
    expected = covariance @ noised.inverse() @ covariance if sampler.denoise else noised
    root = torch.linalg.cholesky(expected)
    white = torch.linalg.solve_triangular(root, (x - mean).T, upper=False)
    assert (white.mean(1).abs() < 5 / n**0.5 + 0.03).all()
    # Standard error of a sample covariance of white data: sqrt(2 / n) on the diagonal, else less.
    assert ((white.cov() - torch.eye(2)).abs() < 5 * (2 / n) ** 0.5 + 0.06).all()


def test_the_last_step_is_the_posterior_mean():
    x, v = torch.randn(10, 3), 0.7**2 + 0.4**2
    levels, states = geometric(1.0, 0.4, 4), []
    x = Ancestral()(
        gaussian_score(2.0, 0.7), x, levels, monitor=lambda sigma, state: states.append(state)
    )
    torch.testing.assert_close(x, (0.7**2 * states[-2] + 0.4**2 * 2.0) / v)


SAMPLERS = [  # with the number of evaluations and of steps on the four levels
    (Langevin(0.01, 7), 7, 7),
    (Langevin(0.01, 7, denoise=True), 8, 8),
    (AnnealedLangevin(5), 21, 21),
    (AnnealedLangevin(5, denoise=False), 20, 20),
    (AnnealedLangevin(3, prior="uniform"), 13, 13),
    (Euler(), 4, 4),
    (Heun(4), 7, 4),
    (Heun(4, denoise=False, ladder=Rho(7)), 6, 3),
    (Ancestral(5), 5, 5),
    (Resampling(5, num_resamples=3), 13, 5),
    (PredictorCorrector(6, corrector_steps=2), 16, 6),
    (ConsistentAnnealedSampling(0.9), 4, 4),
    (DPMSolver(9), 9, 9),
    (DPMSolver(9, ladder=Rho(7)), 9, 9),
    (DPMSolver(9, eta=1.0), 9, 9),
    (MetropolisLangevin(2), 29, 9),
    (MetropolisLangevin(2, num_nodes=2, prior="uniform", denoise=False), 12, 8),
    (Corrected(DPMSolver(4), MetropolisLangevin(2, num_nodes=3)), 19, 10),
    (Corrected(Langevin(0.01, 7), AnnealedLangevin(2)), 9, 9),
    (IPNDM(9), 9, 9),
    (SASolver(9), 9, 9),
    (SASolver(9, eta=0.0, corrector_order=0), 9, 9),
]
each_sampler = pytest.mark.parametrize(
    "sampler", [case[0] for case in SAMPLERS], ids=[str(case[0]) for case in SAMPLERS]
)


def run(sampler, num=8, levels=LEVELS, seed=3, monitor=None, score=GAUSSIAN):
    """A run from noise of a seed."""
    generator = torch.Generator().manual_seed(seed)
    x = sampler.initial(torch.empty(num, 2), levels, generator)
    return sampler(score, x, levels, generator, monitor)


@pytest.mark.parametrize(("sampler", "evaluations", "steps"), SAMPLERS, ids=str)
def test_evaluations_are_counted_and_each_step_is_reported(sampler, evaluations, steps):
    calls, reports = [], []

    def score(x, sigma):
        calls.append(sigma)
        return -x

    for _ in range(2):  # the count is that of the last call
        calls.clear()
        reports.clear()
        run(sampler, score=score, monitor=lambda sigma, x: reports.append(sigma))
        assert sampler.num_evaluations == len(calls) == evaluations
        assert sampler.num_steps_on(LEVELS) == len(reports) == steps
    path = sampler.path(LEVELS)
    assert reports == path[1:] + path[-1:] * sampler.denoise


@each_sampler
def test_states_given_to_the_monitor_are_never_written_to_again(sampler):
    states, copies = [], []

    def monitor(sigma, x):
        states.append(x)
        copies.append(x.clone())

    x = run(sampler, monitor=monitor)
    assert all(map(torch.equal, states, copies))
    assert torch.equal(states[-1], x)


@each_sampler
def test_two_calls_from_the_same_seed_give_the_same_samples(sampler):
    first = run(sampler)
    run(sampler, num=3, levels=geometric(5.0, 0.2, 6))  # another batch on another ladder
    assert torch.equal(run(sampler), first)


@each_sampler
def test_a_run_inside_the_monitor_of_another_does_not_disturb_it(sampler):
    outer, inner, nested = run(sampler), run(sampler, num=3, seed=5), []
    x = run(sampler, monitor=lambda sigma, x: nested.append(run(sampler, num=3, seed=5)))
    assert torch.equal(x, outer)
    assert all(torch.equal(x, inner) for x in nested)


def test_a_run_counts_its_own_evaluations_and_not_those_of_a_run_inside_its_monitor():
    sampler, counts = DPMSolver(9), []

    def monitor(sigma, x):
        if len(counts) < 2:  # after the first and after the second step
            run(sampler, levels=geometric(5.0, 0.2, 6))
            counts.append(sampler.num_evaluations)

    run(sampler, monitor=monitor)
    assert [*counts, sampler.num_evaluations] == [9, 9, 9]


@each_sampler
def test_an_interrupted_run_leaves_nothing_behind(sampler):
    first = run(sampler)

    def interrupt(sigma, x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(sampler, seed=5, monitor=interrupt)
    assert torch.equal(run(sampler), first)


@each_sampler
def test_sample_i_is_the_same_in_any_batch_and_the_global_state_is_left_alone(sampler):
    before = torch.get_rng_state()

    def sample(start, stop):
        generator = SampleGenerator(3, start, stop)
        x = sampler.initial(torch.empty(stop - start, 2), LEVELS, generator)
        return sampler(gaussian_score(0, 1), x, LEVELS, generator)

    assert torch.equal(torch.cat([sample(0, 30), sample(30, 100)]), sample(0, 100))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Langevin(epsilon=0),
        lambda: Langevin(epsilon=math.inf),
        lambda: Langevin(num_steps=0),
        lambda: AnnealedLangevin(steps_per_level=0),
        lambda: AnnealedLangevin(epsilon=-1.0),
        lambda: AnnealedLangevin(epsilon=math.nan),
        lambda: AnnealedLangevin(epsilon="large"),
        lambda: Langevin(epsilon="auto"),
        lambda: DPMSolver(num_steps=1),
        lambda: DPMSolver(eta=-0.1),
        lambda: Langevin(prior="gaussian"),
        lambda: Heun(num_steps=0),
        lambda: Resampling(num_resamples=0),
        lambda: PredictorCorrector(corrector_steps=-1),
        lambda: PredictorCorrector(signal_to_noise=0.0),
        lambda: Heun(5).path(torch.tensor([0.1])),
        lambda: AnnealedLangevin(5, "auto").path(torch.tensor([0.1])),
        lambda: ConsistentAnnealedSampling(0.1).path(geometric(1.0, 0.1, 3)),
        lambda: ConsistentAnnealedSampling(1.5).path(geometric(1.0, 0.1, 3)),
        lambda: ConsistentAnnealedSampling(0.5, num_steps=9, ladder=Rho(7)).path(
            geometric(50.0, 0.01, 3)
        ),
    ],
)
def test_impossible_samplers_are_refused(make):
    with pytest.raises(
        ValueError, match=r"step|resample|prior|eta|epsilon|signal_to_noise|has one"
    ):
        make()
