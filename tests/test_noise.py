import itertools

import pytest
import torch

from ncsn.noise import (
    SampleGenerator,
    Stream,
    geometric_noise_levels,
    langevin_step_size,
    largest_distance,
    noise_level_ratio,
    normal_like,
    perturb,
    seeded_generator,
    uniform_like,
)


def test_ladder_descends_in_geometric_progression_between_its_ends():
    levels = geometric_noise_levels(10.0, 0.01, 7)
    assert levels[0] == pytest.approx(10.0)
    assert levels[-1] == pytest.approx(0.01)
    torch.testing.assert_close(levels[1:] / levels[:-1], torch.full((6,), 1e-3 ** (1 / 6)))


@pytest.mark.parametrize(
    "args",
    [
        (1.0, 0.0, 5),
        (1.0, -1.0, 5),
        (0.1, 1.0, 5),
        (1.0, 0.1, 0),
        (1.0, 0.1, 1),
        (float("inf"), 0.1, 5),
        (float("nan"), 0.1, 5),
        (1.0, float("nan"), 5),
    ],
)
def test_impossible_ladders_are_refused(args):
    with pytest.raises(ValueError, match=r"sigma_max|num_levels"):
        geometric_noise_levels(*args)


def test_largest_distance_is_that_of_all_pairs():
    x = torch.randn(2500, 1, 3, 3)  # more than two chunks
    assert largest_distance(x) == pytest.approx(torch.pdist(x.flatten(1)).max().item())


def test_ratio_of_the_levels_is_that_of_the_paper():
    # Song & Ermon 2020, section 3.2: for large D, sqrt(2D) (gamma - 1) = 3 gamma, nearly.
    for dim in (784, 3072, 10**6):
        gamma = noise_level_ratio(dim)
        assert gamma == pytest.approx(1 / (1 - 3 / (2 * dim) ** 0.5), rel=1e-3)
    with pytest.raises(ValueError, match="num_levels"):
        noise_level_ratio(2)


@pytest.mark.parametrize(
    ("sigma_max", "num_levels", "epsilon"),
    [(50.0, 232, 6.2e-6), (90.0, 500, 3.3e-6)],  # the settings for CIFAR-10 and CelebA
)
def test_langevin_step_size_is_that_of_the_paper(sigma_max, num_levels, epsilon):
    levels = geometric_noise_levels(sigma_max, 0.01, num_levels).tolist()
    a = langevin_step_size(levels, steps_per_level=5)
    assert a * 0.01**2 == pytest.approx(epsilon, abs=0.05e-6)


def test_langevin_step_size_keeps_the_variance_of_one_point_closest_to_the_next_level():
    # Iterate the variance of a chain at sigma_i = 1 that starts at gamma².
    levels, steps = geometric_noise_levels(10.0, 0.1, 12).tolist(), 7

    def variance(a):
        v = (levels[0] / levels[1]) ** 2
        for _ in range(steps):
            v = (1 - a) ** 2 * v + 2 * a
        return v

    a = langevin_step_size(levels, steps)
    assert 1 < variance(a) < min(variance(0.9 * a), variance(1.1 * a))


def test_perturb_adds_noise_of_the_given_level_to_each_example():
    x = torch.randn(3, 2, 5)
    sigma = torch.tensor([0.1, 1.0, 10.0])
    x_sigma, z = perturb(x, sigma)
    torch.testing.assert_close((x_sigma - x) / sigma[:, None, None], z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("draw", [normal_like, uniform_like])
@pytest.mark.parametrize("cuts", [[0, 200], [0, 64, 128, 200], [0, 1, 63, 65, 199, 200]])
def test_sample_i_has_the_same_noise_in_any_batch(draw, cuts):
    whole = SampleGenerator(seed=5, start=0, stop=200)
    parts = [SampleGenerator(5, a, b) for a, b in itertools.pairwise(cuts)]
    for _ in range(3):  # also later in the stream
        expected = draw(torch.empty(200, 3), whole)
        rows = zip(cuts[:-1], cuts[1:], parts, strict=True)
        got = torch.cat([draw(torch.empty(b - a, 3), part) for a, b, part in rows])
        assert torch.equal(got, expected)
    assert not torch.equal(expected, draw(torch.empty(200, 3), SampleGenerator(6, 0, 200)))


def test_generators_of_different_keys_differ_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    x = torch.empty(8)
    keys = [(Stream.TRAINING, 0, 0, 0, 0), (Stream.TRAINING, 0, 1, 0, 0), (Stream.SAMPLING, 0, 0)]
    draws = [normal_like(x, seeded_generator(*key)) for key in keys]
    normal_like(torch.empty(2, 8), SampleGenerator(0, 0, 2))
    assert torch.equal(draws[0], normal_like(x, seeded_generator(*keys[0])))
    assert len({tuple(draw.tolist()) for draw in draws}) == len(keys)
    assert torch.equal(before, torch.get_rng_state())


def test_sample_generator_needs_samples():
    with pytest.raises(ValueError, match="start=3 and stop=3"):
        SampleGenerator(0, 3, 3)
