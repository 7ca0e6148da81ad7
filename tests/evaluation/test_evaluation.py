"""What an evaluation measures: floors, and degradations that it must see."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision
from torchvision.transforms.functional import gaussian_blur

from ncsn.callbacks import TestReport
from ncsn.callbacks.common import model_of
from ncsn.data import DigitsDataModule
from ncsn.evaluation import Model, Reference, Report
from ncsn.evaluation.codec import to_float
from ncsn.evaluation.images import Images
from ncsn.evaluation.points import Points, compare_points
from ncsn.exact import Empirical, GaussianMixture, TwoMoons
from ncsn.levels import geometric
from ncsn.modules import DSM, NCSN
from ncsn.sampling import AnnealedLangevin

ONE_PROCESS = SimpleNamespace(
    world_size=1, global_rank=0, is_global_zero=True, precision_plugin=Precision()
)


@pytest.fixture(scope="module")
def digits():
    """Training and test images."""
    data = DigitsDataModule()
    data.setup("test")
    return data


@pytest.fixture
def reference(digits):
    """The data that samples are compared with."""
    return digits.reference("test")


# ---- images ----


def test_degradations_of_images_make_the_right_numbers_worse(digits, reference):
    test = digits.splits["test"]

    def compare(images):
        found = Images().compare(images, reference, errors=False)
        return {name: estimate.value for name, estimate in found.items()}

    x = to_float(test.data)
    good = compare(x)
    noisy = compare((x + 0.6 * torch.randn(len(test), 1, 8, 8)).clamp(-1, 1))
    blurred = compare(gaussian_blur(x, 3, 1.0))
    small = x[test.labels < 5]
    five_classes, as_many = compare(small), compare(x[: len(small)])
    copies = compare(to_float(reference.train[:360]))
    assert good["digits_fd_v1"] < 0.3 * min(noisy["digits_fd_v1"], blurred["digits_fd_v1"])
    assert good["precision"] > noisy["precision"] + 0.2
    assert good["confidence"] > noisy["confidence"] + 0.05
    # Half of the classes: all is right with each sample, but half of the data is missing.
    assert five_classes["precision"] > as_many["precision"] - 0.1
    assert five_classes["recall"] < as_many["recall"] - 0.2
    assert five_classes["coverage"] < as_many["coverage"] - 0.2
    assert five_classes["class_divergence"] == pytest.approx(math.log(2), abs=0.05)
    assert good["class_divergence"] < 0.01
    assert copies["memorisation_rate"] == 1
    assert good["memorisation_rate"] < 0.01


def test_the_floor_is_the_value_of_the_test_images(reference):
    estimates = Images().compare(to_float(reference.held_out), reference)
    for estimate in estimates.values():
        assert estimate.value == pytest.approx(estimate.floor, abs=1e-6)
        assert estimate.standard_error >= 0


def test_images_without_a_feature_network_are_compared_in_pixels(reference):
    reference.features = None
    x = to_float(reference.held_out)
    good = Images().compare(x, reference)
    names = ("sliced_wasserstein", "energy_distance", "mmd")
    manifolds = ("precision", "recall", "density", "coverage")
    assert set(good) == {f"pixel_{each}" for each in names + manifolds} | {"memorisation_rate"}
    assert all("in pixels" in good[name].title for name in good if name != "memorisation_rate")
    noisy = Images().compare((x + 0.6 * torch.randn_like(x)).clamp(-1, 1), reference)
    for name in names:
        estimate = noisy[f"pixel_{name}"]
        assert estimate.floor == good[f"pixel_{name}"].value
        assert estimate.value > estimate.floor + 5 * estimate.standard_error
    assert noisy["pixel_precision"].value < good["pixel_precision"].value - 0.2


def test_a_comparison_says_where_its_distances_are_taken(reference):
    assert Images().notes(reference) == {"features": "DIGITS features v1"}
    reference.features = None
    assert "ncsn features fit" in Images().notes(reference)["features"]
    reference.labels = torch.zeros_like(reference.labels)
    assert "pixels are compared: the data has no classes" in Images().notes(reference)["features"]


# ---- copies ----


def memorisation_rate(x, reference):
    """The rate among samples x, in [-1, 1]."""
    return Images().compare(x, reference, errors=False)["memorisation_rate"].value


@pytest.mark.parametrize("grey_levels", [0, 1])
def test_copies_of_a_hundred_training_images_are_caught(reference, grey_levels):
    reference.features = None
    rows = torch.randperm(len(reference.train))[:100]
    copies = reference.train[rows].int()
    noise = torch.randint(-grey_levels, grey_levels + 1, copies.shape)
    copies = (copies + noise).clamp(0, 255).byte()
    assert memorisation_rate(to_float(copies), reference) >= 0.99
    assert memorisation_rate(to_float(reference.held_out), reference) <= 0.01


def test_a_model_overfitted_to_a_hundred_images_is_caught(reference):
    # A perfect fit to a hundred images is their empirical score.
    reference.features = None
    images = to_float(reference.train[:100])
    sampler = AnnealedLangevin(steps_per_level=5)
    module = NCSN(Empirical(images), data_shape=(1, 8, 8), sigma_max=10.0, sampler=sampler)
    assert memorisation_rate(module.draw(0, 100), reference) >= 0.99


def test_mixed_precision_does_not_change_estimates(reference):
    samples = to_float(reference.held_out[:100])
    reference.held_out = reference.held_out[100:200]
    full = Images().compare(samples, reference, errors=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert Images().compare(samples, reference, errors=False) == full


def test_too_few_images_are_refused(reference):
    with pytest.raises(ValueError, match="15 images are too few to compare: take at least 16"):
        Images().compare(to_float(reference.held_out[:15]), reference)


def test_bits_per_dimension_are_those_of_the_grey_values_that_the_data_has():
    # Two pixels, independent and uniform over 17 grey values, as the digits have.
    grey = torch.arange(17).mul(255 / 16).round().byte()
    images = torch.cartesian_prod(grey, grey).view(-1, 1, 1, 2)
    network = GaussianMixture(to_float(images).double())
    module = NCSN(network, sigma_min=0.02, sigma_max=30.0, data_shape=(1, 1, 2))
    report, reference = Report({}), Reference(images, torch.zeros(289), images)
    TestReport(10, 128).add_likelihood(ONE_PROCESS, module, Images(), reference, report)
    bits = report.estimates["bits_per_dim"]
    assert bits.value == pytest.approx(math.log2(17), abs=0.01)
    assert bits.floor is None
    assert bits.standard_error < 0.003
    # One grey value that no training image has is possible all the same.
    images[0, 0, 0, 0] = 3
    reference.train = images[1:]
    TestReport(10, 1).add_likelihood(ONE_PROCESS, module, Images(), reference, report)
    assert 4 < report.estimates["bits_per_dim"].value < math.inf


# ---- points ----


def test_fresh_points_are_at_the_floor_and_others_are_not():
    moons = TwoMoons(num_points=256)
    data, fresh, samples = (moons.sample(2000).float() for _ in range(3))
    for estimate in compare_points(samples, data, fresh).values():
        error = math.hypot(estimate.standard_error, estimate.floor_standard_error)
        assert abs(estimate.value - estimate.floor) < 5 * error
    upper = samples[samples[:, 1] > 0.25]
    one_moon = torch.cat([upper, upper, upper])[:2000]
    for name, estimate in compare_points(one_moon, data, fresh).items():
        assert estimate.value > estimate.floor + 5 * estimate.standard_error, name


def test_the_exact_score_has_no_excess_of_loss_or_likelihood():
    moons = TwoMoons(num_points=256)
    exact = TwoMoons(num_points=1024)  # on a finer grid
    train, test = moons.sample(4000).float(), moons.sample(200).float()
    reference = Reference(train, torch.zeros(4000), test, exact)
    module = NCSN(moons, sigma_min=0.01, sigma_max=3.5)
    report, samples = Report({}), moons.sample(200).float()
    evaluation = TestReport(num_samples=200)
    evaluation.add_likelihood(ONE_PROCESS, module, Points(), reference, report)
    with torch.no_grad():
        model = model_of(ONE_PROCESS, module)
        pictures = evaluation.add_samples(model, Points(), samples, None, reference, report)
    estimates = report.estimates
    assert abs(estimates["excess_loss"].value) < 1e-5
    # The model's density is that at sigma = 0.01, a little flatter.
    assert estimates["excess_nll"].value == pytest.approx(0, abs=0.02)
    expected = -moons.log_density(test, torch.full((200,), 0.01))
    assert estimates["nll"].value == pytest.approx(expected.mean().item(), abs=1e-3)
    error = expected.std().item() / 200**0.5
    assert estimates["nll"].standard_error == pytest.approx(error, rel=0.02)
    assert set(pictures) == {"samples", "fields", "levels"}
    assert len(report.levels) == 10


def test_the_standard_error_of_the_excess_loss_is_that_of_repeated_evaluations(monkeypatch):
    # The levels share their examples, so their errors are not independent.
    means = torch.randn(3, 3, dtype=torch.float64)
    exact, learned = (GaussianMixture(means, stds=std) for std in (0.3, 0.4))
    model, estimates = Model(learned, geometric(3.5, 0.01, 20)), []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        for user in ("points", "metrics.per_level"):  # with the same noise each time, otherwise
            name = f"ncsn.evaluation.{user}.seeded_generator"
            monkeypatch.setattr(name, lambda *args, g=generator, **kwargs: g)
        x = exact.sample(100, generator).float()
        reference = Reference(x, torch.zeros(100), x, exact)
        estimates.append(Points().evaluate(model, x, reference)[0]["excess_loss"])
    spread = torch.tensor([estimate.value for estimate in estimates]).std().item()
    error = sum(estimate.standard_error for estimate in estimates) / len(estimates)
    # Of 40 values, a standard deviation is known to 1 / sqrt(80) = 11 %.
    assert 0.7 < error / spread < 1.45


def test_samples_that_are_not_finite_are_refused(reference):
    points = torch.zeros(20, 2)
    points[7:9] = torch.nan
    message = r"2 of 20 samples are not finite \(the first is number 7\)"
    with pytest.raises(ValueError, match=message):
        compare_points(points, torch.randn(20, 2), torch.randn(20, 2))
    images = torch.zeros(20, 1, 8, 8)
    images[7:9, 0, 3, 3] = torch.inf
    with pytest.raises(ValueError, match=message):
        Images().compare(images, reference)


def test_distances_of_points_of_which_most_coincide_are_numbers():
    counts = torch.zeros(100, 2)
    counts[:10] = torch.randn(10, 2)
    for estimate in compare_points(counts, counts.flip(0), counts.roll(5, 0)).values():
        assert math.isfinite(estimate.value)
        assert math.isfinite(estimate.standard_error)


# ---- both ----


def test_an_evaluation_leaves_weights_and_random_state_alone(reference):
    moons, images = TwoMoons(num_points=64), to_float(reference.held_out[:60])
    points = torch.randn(60, 2)
    cases = [
        (Points(), DSM(moons), points, Reference(points, torch.zeros(60), points)),
        (Images(), DSM(GaussianMixture(images), data_shape=(1, 8, 8)), images, reference),
    ]
    for kind, module, samples, data in cases:
        weights = [value.clone() for value in module.state_dict().values()]
        before = torch.get_rng_state()
        with torch.no_grad():
            kind.evaluate(model_of(ONE_PROCESS, module), samples, data)
        assert torch.equal(before, torch.get_rng_state())
        for value, as_it_was in zip(module.state_dict().values(), weights, strict=True):
            assert torch.equal(value, as_it_was)
