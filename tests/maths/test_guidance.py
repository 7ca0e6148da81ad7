"""Classes, guidance and interpolation, with exact scores."""

import pytest
import torch

from ncsn.exact import Gaussian
from ncsn.levels import expand_as, geometric
from ncsn.random import InterpolatedGenerator, SampleGenerator
from ncsn.sampling import MMPS, Ancestral, DPMSolver, Matrix, classifier_free_guidance
from ncsn.sampling.guidance import hide_labels

MEANS = torch.tensor([-1.0, 2.0])  # of two classes N(mean, 0.5²), equally likely


def class_score(x, sigma, label):
    """The exact score of the class, or of the mixture of both for the label -1."""
    v = (0.25 + sigma**2)[:, None]
    r = (-((x - MEANS) ** 2) / (2 * v)).softmax(1)
    mean = torch.where(label < 0, (r * MEANS).sum(1), MEANS[label.clamp(min=0)])
    return (mean[:, None] - x) / v


def test_guidance_is_bayes_rule_with_a_power_of_the_classifier():
    # s(x) + w (s(x | y) - s(x)): the gradient of log p(x) + w log p(y | x).
    x, sigma = torch.linspace(-2, 3, 7)[:, None].requires_grad_(), torch.full((7,), 0.8)
    label, v, w = torch.ones(7, dtype=torch.long), 0.25 + 0.8**2, 3.0
    logits = -((x - MEANS) ** 2) / (2 * v)
    log_p = logits.logsumexp(1) + w * logits.log_softmax(1)[:, 1]
    (expected,) = torch.autograd.grad(log_p.sum(), x)
    guided = classifier_free_guidance(class_score, label, w)
    torch.testing.assert_close(guided(x, sigma), expected)


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_guidance_of_weight_zero_ignores_the_class_and_of_weight_one_is_the_class(w):
    x, sigma, label = torch.randn(5, 1), torch.rand(5) + 0.1, torch.tensor([0, 1, 1, 0, 1])
    expected = class_score(x, sigma, label if w else torch.full_like(label, -1))
    torch.testing.assert_close(classifier_free_guidance(class_score, label, w)(x, sigma), expected)


def test_guided_samples_lie_in_their_class():
    levels = geometric(20.0, 0.05, 40)
    label = torch.arange(2000) % 2
    score = classifier_free_guidance(class_score, label)
    x = DPMSolver(40)(score, 20 * torch.randn(2000, 1), levels)
    for k in (0, 1):
        of_class = x[label == k]
        assert abs(of_class.mean() - MEANS[k]) < 5 * 0.5 / 1000**0.5
        assert abs(of_class.std() / 0.5 - 1) < 5 / 2000**0.5 + 0.02


def test_labels_are_hidden_at_the_stated_rate_and_the_same_ones_from_the_same_generator():
    label = torch.ones(10_000, dtype=torch.long)
    hidden = [hide_labels(label, 0.3, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*hidden)
    assert hidden[0].unique().tolist() == [-1, 1]
    rate = (hidden[0] == -1).float().mean().item()
    assert abs(rate - 0.3) < 5 * (0.3 * 0.7 / 10_000) ** 0.5
    assert torch.equal(hide_labels(label, 0.0), label)


CORRELATED = Gaussian([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]])


def test_interpolation_ends_at_the_two_samples():
    levels = geometric(5.0, 0.1, 8)
    sampler = Ancestral()

    def sample(num, generator):
        x = sampler.initial(torch.empty(num, 2), levels, generator)
        return sampler(CORRELATED, x, levels, generator)

    path = sample(6, InterpolatedGenerator(0, 2, 9, num=6))
    torch.testing.assert_close(path[0], sample(1, SampleGenerator(0, 2, 3))[0])
    torch.testing.assert_close(
        path[-1], sample(1, SampleGenerator(0, 9, 10))[0], rtol=1e-4, atol=1e-4
    )


def test_guidance_works_on_images():
    label = torch.tensor([0, 1, 2])
    guided = classifier_free_guidance(
        lambda x, sigma, label: x * expand_as(label.float(), x), label, 2.0
    )
    assert guided(torch.ones(3, 1, 4, 4), torch.ones(3)).shape == (3, 1, 4, 4)


def test_a_posterior_takes_a_class_and_its_guidance():
    # Two classes N(±1, 0.5²), each with its own posterior given y = x + 0.5 n.
    means = torch.tensor([-1.0, 1.0])

    def class_score(x, sigma, label):
        mean = torch.where(label < 0, 0.0, means[label.clamp(min=0)])
        return (mean[:, None] - x) / (0.25 + expand_as(sigma, x) ** 2)

    label, y = torch.arange(4000) % 2, torch.full((4000, 1), 0.4)
    operator = Matrix((1,), torch.ones(1, 1))
    score = MMPS(1)(classifier_free_guidance(class_score, label), operator, y, 0.5)
    x = Ancestral(100)(score, 20 * torch.randn(4000, 1), geometric(20.0, 0.005, 40))
    for k in (0, 1):
        expected = (0.4 + means[k].item()) / 2
        assert abs(x[label == k].mean() - expected) < 5 * 0.125**0.5 / 2000**0.5 + 0.02
