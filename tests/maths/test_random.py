"""Reproducible noise: a sample's noise depends on its number, and generators on their key."""

import itertools
import re

import pytest
import torch
from support.paths import ROOT

from ncsn.random import (
    InterpolatedGenerator,
    SampleGenerator,
    Stream,
    global_seed,
    normal_like,
    seeded_generator,
    uniform_like,
)


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


def test_different_keys_give_different_noise_and_leave_the_global_state_alone():
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


@pytest.mark.parametrize(("draw", "variance"), [(normal_like, 1.0), (uniform_like, 1 / 3)])
@pytest.mark.parametrize(
    "make", [lambda: None, torch.Generator, lambda: SampleGenerator(0, 10, 100_010)]
)
def test_noise_from_any_source_has_mean_zero_and_the_stated_variance(draw, variance, make):
    # Five standard errors: those of normal noise, which uniform noise stays below.
    n = 100_000
    x = draw(torch.empty(n, 1), make())
    assert abs(x.mean()) < 5 * (variance / n) ** 0.5
    assert abs(x.var() / variance - 1) < 5 * (2 / n) ** 0.5


def test_global_seed_is_that_of_lightning(monkeypatch):
    assert global_seed() == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert global_seed() == 7


def test_interpolated_noise_leads_from_one_sample_to_the_other_and_is_normal_between():
    x = torch.empty(9, 20_000)
    generator = InterpolatedGenerator(3, first=5, second=70, num=9)
    ends = [SampleGenerator(3, i, i + 1) for i in (5, 70)]
    for _ in range(2):
        noise = normal_like(x, generator)
        expected = [normal_like(x[:1], end)[0] for end in ends]
        torch.testing.assert_close(noise[0], expected[0])
        torch.testing.assert_close(noise[-1], expected[1], rtol=1e-4, atol=1e-5)
        assert (noise.std(dim=1) - 1).abs().max() < 5 / 40_000**0.5
    uniform = uniform_like(x, generator)
    assert uniform.abs().max() <= 1
    assert (uniform.var(dim=1) - 1 / 3).abs().max() < 5 * (4 / 45 / 20_000) ** 0.5


def test_no_two_places_draw_from_the_same_stream():
    # Two draws with the same key are the same numbers; here a stream is the key's first number.
    sources = "\n".join(path.read_text() for path in (ROOT / "ncsn").rglob("*.py"))
    used = re.findall(r"seeded_generator\(\s*Stream\.(\w+)", sources)
    assert sorted(used) == sorted(stream.name for stream in Stream)
