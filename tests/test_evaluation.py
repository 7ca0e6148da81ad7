"""The evaluation: floors, degradations that it must see, files, comparison of runs."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIGS, OVERLAYS
from torchvision.transforms.functional import gaussian_blur

from ncsn.callbacks import ImageEvaluation, PointEvaluation
from ncsn.data import DigitsDataModule, MNISTDataModule, MoonsDataModule
from ncsn.data.base import TensorBatches
from ncsn.errors import UserError
from ncsn.evaluation import Report, image_scores, point_scores
from ncsn.exact import GaussianMixture, TwoMoons
from ncsn.metrics import extract_features, features, load_features
from ncsn.modules import DSM, NCSN
from ncsn.sampling import Langevin

DIGITS = ("--config", CONFIGS / "digits.yaml", "--config", OVERLAYS / "smoke.yaml")
MOONS = ("--config", CONFIGS / "moons_ncsn.yaml", "--config", OVERLAYS / "smoke.yaml")
RUNS = Path("lightning_logs/moons_ncsn")
FEW = ("--num_samples", 60, "--num_likelihood_examples", 4)


@pytest.fixture(scope="module")
def digits():
    data = DigitsDataModule()
    data.setup("test")
    return data


def to_images(uint8):
    return uint8.float() / 127.5 - 1


# ---- images: known degradations ----


def test_degradations_of_images_lower_the_right_scores(digits):
    train, test = digits.splits["train"], digits.splits["test"]
    network = load_features("digits")

    def scores(images):
        found = image_scores(
            images, train.data, train.labels, test.data[: len(images)], network, errors=False
        )
        return {name: score.value for name, score in found.items()}

    good = scores(to_images(test.data))
    noisy = scores((to_images(test.data) + 0.6 * torch.randn(len(test), 1, 8, 8)).clamp(-1, 1))
    blurred = scores(gaussian_blur(to_images(test.data), 3, 1.0))
    small = test.data[test.labels < 5]
    five_classes, as_many = scores(to_images(small)), scores(to_images(test.data[: len(small)]))
    copies = scores(to_images(train.data[:360]))
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


def test_the_floor_is_the_score_of_the_test_images(digits):
    train, test = digits.splits["train"], digits.splits["test"]
    scores = image_scores(
        to_images(test.data), train.data, train.labels, test.data, load_features("digits")
    )
    for score in scores.values():
        assert score.value == pytest.approx(score.floor, abs=1e-6)
        assert score.standard_error >= 0


def test_images_without_a_feature_network_are_searched_for_copies(digits):
    train, test = digits.splits["train"], digits.splits["test"]
    scores = image_scores(to_images(test.data), train.data, train.labels, test.data, None)
    assert list(scores) == ["memorisation_rate"]


# ---- feature networks ----


def test_the_digits_network_knows_the_digits(digits):
    test = digits.splits["test"]
    logits = extract_features(load_features("digits"), test.data).logits
    assert (logits.argmax(1) == test.labels).float().mean() > 0.985


def test_the_mnist_network_knows_mnist(mnist_dir):
    data = MNISTDataModule(mnist_dir)
    data.setup("test")
    test = data.splits["test"]
    logits = extract_features(load_features("mnist"), test.data).logits
    assert (logits.argmax(1) == test.labels).float().mean() >= 0.993


def test_weights_are_small_and_others_are_refused(tmp_path, monkeypatch):
    for name in features.SHIPPED:
        assert features.weights_path(name).stat().st_size < 2**20
    data = bytearray(features.weights_path("digits").read_bytes())
    data[-1] ^= 1
    (tmp_path / "digits").write_bytes(data)
    monkeypatch.setattr(features, "weights_path", lambda name: tmp_path / name)
    with pytest.raises(ValueError, match="SHA-256"):
        load_features("digits")


def test_images_of_another_size_are_resized():
    network = load_features("mnist")
    images = torch.randint(0, 255, (3, 1, 32, 32), dtype=torch.uint8)
    assert extract_features(network, images).features.shape == (3, network.num_features)


# ---- points ----


def test_fresh_points_score_like_the_floor_and_others_do_not():
    moons = TwoMoons(num_points=256)
    data, fresh, samples = (moons.sample(2000).float() for _ in range(3))
    for score in point_scores(samples, data, fresh).values():
        error = math.hypot(score.standard_error, score.floor_standard_error)
        assert abs(score.value - score.floor) < 5 * error
    upper = samples[samples[:, 1] > 0.25]
    one_moon = torch.cat([upper, upper, upper])[:2000]
    for name, score in point_scores(one_moon, data, fresh).items():
        assert score.value > score.floor + 5 * score.standard_error, name


def stub(test_data):
    """A data module with test data alone, and a trainer of one process."""
    data = MoonsDataModule()
    data.splits = {"test": TensorBatches(test_data, torch.zeros(len(test_data)))}
    return SimpleNamespace(world_size=1, global_rank=0, is_global_zero=True), data


def test_the_exact_score_has_no_excess_of_loss_or_likelihood():
    moons = TwoMoons(num_points=256)
    trainer, data = stub(moons.sample(200).float())
    module = NCSN(moons, sigma_min=0.01, sigma_max=30.0, data_mean=0.375, data_std=0.7)
    evaluation, report = PointEvaluation(num_samples=200), Report({})
    evaluation._likelihood(trainer, module, data, report)
    with torch.no_grad():
        figures = evaluation.judge(module, data, moons.sample(200).float(), report)
    assert abs(report.scores["excess_loss"].value) < 1e-5
    # The model's density is that at sigma = 0.01, a little flatter.
    assert report.scores["excess_nll"].value == pytest.approx(0, abs=0.02)
    expected = -moons.log_density(data.splits["test"].data, torch.full((200,), 0.01))
    assert report.scores["nll"].value == pytest.approx(expected.mean().item(), abs=3e-3)
    error = expected.std().item() / 200**0.5
    assert report.scores["nll"].standard_error == pytest.approx(error, rel=0.02)
    assert set(figures) == {"samples", "fields", "levels"}


def test_bits_per_dimension_of_images_count_the_width_of_a_grey_value():
    # Images drawn from a Gaussian and rounded to grey values: the bits are those of the Gaussian's
    # entropy at this width, 1/127.5.
    std, n = 0.3, 600
    network = GaussianMixture(torch.zeros(1, 1, 2, 2, dtype=torch.float64), stds=std)
    module = NCSN(network, sigma_min=0.01, sigma_max=30.0, data_std=std, data_shape=(1, 2, 2))
    trainer, data = stub(((std * torch.randn(n, 1, 2, 2) + 1) * 127.5).round().byte())
    report = Report({})
    ImageEvaluation(10, n)._likelihood(trainer, module, data, report)
    score = report.scores["bits_per_dim"]
    entropy = 0.5 * math.log(2 * math.pi * math.e * std**2) / math.log(2)
    assert abs(score.value - (entropy + math.log2(127.5))) < 5 * score.standard_error
    assert score.standard_error < 0.03


def test_mixed_precision_does_not_change_scores(digits):
    samples = digits.to_float(digits.splits["test"].data[:100])
    train, test = digits.splits["train"], digits.splits["test"]
    args = (train.data, train.labels, test.data[100:200], load_features("digits"))
    full = image_scores(samples, *args, errors=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert image_scores(samples, *args, errors=False) == full


def test_too_few_images_are_refused(digits):
    images = digits.splits["test"].data[:15]
    train = digits.splits["train"]
    with pytest.raises(ValueError, match="15 images are too few to score: take at least 16"):
        image_scores(
            digits.to_float(images), train.data, train.labels, images, load_features("digits")
        )


def test_samples_that_are_not_finite_are_refused():
    points = torch.zeros(20, 2)
    points[7:9] = torch.nan
    with pytest.raises(ValueError, match="2 of 20 samples are not finite"):
        point_scores(points, torch.randn(20, 2), torch.randn(20, 2))


def test_an_evaluation_leaves_weights_and_random_state_alone(digits):
    module = DSM(TwoMoons(num_points=64), sigma=0.1, sampler=Langevin(num_steps=3))
    _, data = stub(torch.randn(60, 2))
    images = to_images(digits.splits["test"].data[:60])
    of_images = DSM(GaussianMixture(images), sigma=0.1, data_shape=(1, 8, 8))
    of_images.sampler = module.sampler
    weights = [value.clone() for value in of_images.state_dict().values()]
    samples, before = torch.randn(60, 2), torch.get_rng_state()
    with torch.no_grad():
        PointEvaluation(60).judge(module, data, samples, Report({}))
        ImageEvaluation(60).judge(of_images, digits, images, Report({}))
    assert torch.equal(before, torch.get_rng_state())
    for value, as_it_was in zip(of_images.state_dict().values(), weights, strict=True):
        assert torch.equal(value, as_it_was)


# ---- the command line ----


def read(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_test_writes_a_report_and_compare_puts_runs_side_by_side(cli, capsys):
    assert cli("fit", *MOONS) == 0
    test = ("test", *MOONS, *FEW, "--ckpt_path", RUNS / "version_0/checkpoints/last.ckpt")
    assert cli(*test) == 0
    assert cli(*test, "--model.sampler", "Euler") == 0
    assert "sliced Wasserstein-2" in capsys.readouterr().out
    run = RUNS / "version_1"
    report = json.loads((run / "evaluation.json").read_text())
    expected = ["nll", "excess_nll", "sliced_wasserstein", "energy_distance", "mmd", "excess_loss"]
    assert list(report["scores"]) == expected
    assert report["about"]["num_samples"] == 60
    assert report["about"]["checkpoint"].endswith("version_0/checkpoints/last.ckpt")
    assert [row["name"] for row in read(run / "scores.csv")] == expected
    assert len(read(run / "levels.csv")) == len(report["levels"]) == 20
    logged = {name: value for row in read(run / "metrics.csv") for name, value in row.items()}
    for name, score in report["scores"].items():
        assert float(logged[f"test/{name}"]) == pytest.approx(score["value"], rel=1e-4)
        assert float(logged[f"test/{name}_floor"]) == pytest.approx(score["floor"], rel=1e-4)
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert pictures == {"samples.png", "fields.png", "levels.png"}

    # A fit comes with its latest test, and a test with the curves of its fit.
    assert cli("compare", RUNS / "version_0", run) == 0
    rows = read("lightning_logs/comparison/comparison.csv")
    assert [row["run"] for row in rows[:2]] == ["moons_ncsn/version_0", "moons_ncsn/version_1"]
    assert len(rows) == 2 * len(expected)
    values = {(row["run"], row["name"]): float(row["value"]) for row in rows}
    for name, score in report["scores"].items():
        assert values["moons_ncsn/version_1", name] == score["value"]
    assert len({values[f"moons_ncsn/version_{n}", "mmd"] for n in (0, 1)}) == 2
    assert Path("lightning_logs/comparison/comparison.png").is_file()
    assert cli("compare", "lightning_logs") == 1
    assert "is not a run" in capsys.readouterr().err


def test_a_damaged_report_is_named(tmp_path):
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match=r"evaluation.json is damaged .* run the test again"):
        Report.read(tmp_path)


def test_images_are_scored_in_training_and_a_checkpoint_can_be_chosen_by_it(cli):
    best = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/digits_fd_v1")
    named = ("--trainer.callbacks.filename=nearest",)
    # Previews at epochs 1 and 3; at epoch 2 the ModelCheckpoint sees the score of the first.
    epochs = ("--trainer.max_epochs=3", "--model.preview_every_n_epochs=3")
    assert cli("fit", *DIGITS, *best, *named, *epochs) == 0
    run = Path("lightning_logs/digits/version_0")
    rows = [row for row in read(run / "metrics.csv") if row.get("val/digits_fd_v1")]
    assert [row["epoch"] for row in rows] == ["0", "2"]
    assert all(float(row["val/digits_fd_v1"]) > 0 for row in rows)
    assert (run / "checkpoints/nearest.ckpt").is_file()
    assert cli("test", *DIGITS, *FEW, "--ckpt_path", run / "checkpoints/nearest.ckpt") == 0
    tested = run.parent / "version_1"
    scores = json.loads((tested / "evaluation.json").read_text())["scores"]
    assert {"digits_fd_v1", "digits_kd_v1", "precision", "memorisation_rate"} <= set(scores)
    assert scores["digits_fd_v1"]["title"] == "DIGITS-FD, features v1"
    pictures = {path.name for path in (tested / "pictures").iterdir()}
    assert pictures == {"levels.png", "neighbours.png", "classes.png"}


def test_a_diverging_sampler_is_named(cli, capsys):
    assert cli("fit", *MOONS) == 0
    checkpoint = "lightning_logs/moons_ncsn/version_0/checkpoints/last.ckpt"
    sampler = ("--model.sampler.steps_per_level", 50, "--model.sampler.step_size", 1e9)
    assert cli("test", *MOONS, *FEW, *sampler, "--ckpt_path", checkpoint) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "60 samples are not finite" in last


def test_inceptions_fid_says_what_it_needs():
    from torchmetrics.utilities.imports import _TORCH_FIDELITY_AVAILABLE

    from ncsn.metrics import load_inception

    if _TORCH_FIDELITY_AVAILABLE:
        pytest.skip("torch-fidelity is installed")
    with pytest.raises(UserError, match="pip install torch-fidelity"):
        load_inception()
