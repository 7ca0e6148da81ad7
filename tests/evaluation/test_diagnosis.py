"""The rule by which ``diagnose`` finds the fault, and what it compares."""

import pytest
import torch

from ncsn.evaluation import Estimate, Reference, kind_of
from ncsn.evaluation.diagnosis import EXACT, decide, solvers, target
from ncsn.exact import GaussianMixture, Noised
from ncsn.levels import Listed, Rho, geometric
from ncsn.sampling import (
    Ancestral,
    AnnealedLangevin,
    Corrected,
    DPMSolver,
    Euler,
    LadderSampler,
    Langevin,
    MetropolisLangevin,
)

LEVELS = geometric(1.0, 0.1, 5)


def estimate(value, error=0.1, floor=1.0, floor_error=0.0):
    return Estimate("distance", value, error, floor, floor_error, "lower")


CASES = {  # values of the sampler and of the best other, with errors of 0.1; the floor is 1
    "at the floor": (1.1, 1.0, "neither"),
    "the other is closer": (5.0, 1.1, "solver"),
    "the other is closer, and still far": (5.0, 3.0, "both"),
    "far, with all": (5.0, 4.9, "network"),
    "far, with all, and worse": (5.0, 7.0, "network"),
    "between the two": (1.4, 1.1, "undecided"),
}


@pytest.mark.parametrize(("base", "other", "fault"), CASES.values(), ids=CASES)
def test_the_rule_without_an_exact_score(base, other, fault):
    distances = {"the sampler": estimate(base), "another": estimate(other)}
    verdict = decide("FD", distances)
    assert verdict.fault == fault
    assert verdict.sentence.lower().removeprefix("the ").startswith(fault)
    assert f"the closest is {min(base, other):.2f} ± 0.10" in verdict.sentence


CASES_OF_EXACT = {  # also of the sampler with the exact score, and the excess loss
    "at the floor": (1.1, 1.0, 1.0, 5.0, "neither"),
    "the exact score is no better": (5.0, 1.1, 5.0, 5.0, "solver"),
    "nor is it, and the score is exact": (5.0, 3.0, 5.0, 0.0, "solver"),
    "nor is it, and no other reaches the floor": (5.0, 3.0, 5.0, 5.0, "both"),
    "the exact score is better": (5.0, 4.9, 1.0, 5.0, "network"),
    "the same, and another hides it": (5.0, 1.1, 1.0, 5.0, "network"),
    "each has a part": (5.0, 4.9, 3.0, 5.0, "both"),
    "between the two": (1.4, 1.1, 1.2, 5.0, "undecided"),
}


@pytest.mark.parametrize(
    ("base", "other", "exact", "excess", "fault"), CASES_OF_EXACT.values(), ids=CASES_OF_EXACT
)
def test_the_rule_with_an_exact_score(base, other, exact, excess, fault):
    distances = {
        "the sampler": estimate(base),
        "another": estimate(other),
        EXACT: estimate(exact),
    }
    verdict = decide("FD", distances, estimate(excess, 0.1, 0.0))
    assert verdict.fault == fault
    assert verdict.sentence.lower().removeprefix("the ").startswith(fault)
    assert f"{exact:.2f} ± 0.10 with the exact score" in verdict.sentence


def test_an_excess_is_above_0_if_it_is_by_three_errors_and_more_than_rounding():
    far = {"the sampler": estimate(5.0), EXACT: estimate(1.0)}
    cases = ((0.2, 0.1, "undecided"), (0.4, 0.1, "network"), (1e-8, 0, "undecided"))
    for value, error, fault in cases:
        assert decide("FD", far, estimate(value, error, 0.0)).fault == fault


@pytest.mark.parametrize(
    "sampler",
    [
        *(AnnealedLangevin(7), AnnealedLangevin(7, denoise=False), Ancestral(), DPMSolver(9)),
        *(MetropolisLangevin(3), Corrected(Euler(9), MetropolisLangevin(2))),
    ],
    ids=str,
)
def test_other_solvers_take_about_four_times_as_many_evaluations(sampler):
    found = solvers(sampler, LEVELS, 2)
    for each in found.values():
        x = each.initial(torch.empty(4, 2), LEVELS)
        each(GaussianMixture([[0.0, 0.0]], 1.0), x, LEVELS)
        assert each.denoise == sampler.denoise
    assert list(found)[1:] == [
        *("4 times the steps", "with a corrector", "SDE-DPM-Solver++, 100 steps")
    ]
    base, finer, corrected, _ = (each.num_evaluations for each in found.values())
    assert 3 * base < finer < 5 * base
    assert 1.5 * base < corrected < 6 * base
    assert "acceptance" not in str(sampler)


def test_more_steps_stay_on_the_ladder_of_the_training():
    levels = Rho(7)(1.0, 0.1, 5)
    finer = solvers(Ancestral(), levels, 2)["4 times the steps"].path(levels)
    torch.testing.assert_close(torch.tensor(finer)[::4], levels)


def test_a_list_of_levels_has_none_with_more_steps():
    listed = DPMSolver(5, ladder=Listed(LEVELS.tolist()))
    for sampler in (listed, Ancestral(ladder=Listed(LEVELS.tolist()))):
        assert "4 times the steps" not in solvers(sampler, LEVELS, 2)


def test_at_one_level_solvers_do_not_denoise():
    sampler = Langevin(0.01, 50, denoise=True)
    found = solvers(sampler, LEVELS[:1], 2)
    assert list(found) == ["the sampler", "4 times the steps", "with a corrector"]
    assert not any(each.denoise for each in found.values())
    assert sampler.denoise


def test_of_a_sampler_that_counts_no_steps_there_is_none_with_more():
    class Own(LadderSampler):
        def __init__(self):
            super().__init__()
            del self.num_steps

        def path(self, noise_levels):
            return noise_levels.tolist()

        def step(self, score, x, sigma, sigma_next, generator):
            return x

    assert "4 times the steps" not in solvers(Own(), LEVELS, 2)


def test_what_is_not_denoised_is_compared_with_noised_data():
    points = torch.zeros(4000, 2)
    exact = GaussianMixture([[1.0, 2.0]], 0.5)
    noised = target(Reference(points, points[:, 0], points, exact), kind_of((2,)), 0.3)
    for part in (noised.train, noised.held_out):
        assert abs(part.std().item() / 0.3 - 1) < 5 * (2 / 8000) ** 0.5
    assert not torch.equal(noised.train, noised.held_out)
    images = torch.full((50, 1, 4, 4), 128, dtype=torch.uint8)
    noised = target(Reference(images, points[:50, 0], images), kind_of((1, 4, 4)), 0.3)
    assert noised.train.dtype == torch.uint8
    assert noised.exact is None
    # 127.5 times 0.3, and the rounding to grey values of variance 1 / 12.
    assert abs(noised.train.float().std().item() / 38.25 - 1) < 5 * (2 / 800) ** 0.5


def test_a_noised_density_is_that_of_wider_components():
    noised, wide = (
        Noised(GaussianMixture([[1.0], [4.0]], 0.3), 0.4),
        GaussianMixture([[1.0], [4.0]], 0.5),
    )
    x, sigma = torch.randn(20, 1).double(), torch.linspace(0, 2, 20).double()
    torch.testing.assert_close(noised.log_density(x, sigma), wide.log_density(x, sigma))
    torch.testing.assert_close(noised(x, sigma), wide(x, sigma))
    variance = noised.sample(10_000).var().item()
    assert abs(variance / (2.25 + 0.25) - 1) < 5 * (2 / 10_000) ** 0.5
