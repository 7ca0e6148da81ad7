"""The accuracy of a classifier that is trained on samples and tested on data."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import error_line, smoke

from ncsn.data import DigitsDataModule
from ncsn.evaluation import Reference, classifier
from ncsn.evaluation.classifier import classifier_accuracy, train_classifier

NAME = "classifier_accuracy"


@pytest.fixture(scope="module")
def reference():
    """Digits as they are stored."""
    return DigitsDataModule().reference("test")


@pytest.fixture
def brief(monkeypatch):
    """Classifiers that are trained for a short time."""
    monkeypatch.setattr(classifier, "NUM_EPOCHS", 4)
    monkeypatch.setattr(classifier, "NUM_SPLITS", 1)


@pytest.mark.usefixtures("brief")
def test_what_samples_do_not_tell_apart_costs_accuracy(reference):
    samples, labels = reference.train[:400], reference.labels[:400]
    good = classifier_accuracy(samples, labels, reference)[NAME]
    assert good.value > 0.9
    assert good.value == pytest.approx(good.floor, abs=0.05)  # they are real examples
    merged = torch.where(labels < 5, 0, labels)  # five classes are one: 40 % cannot be right
    assert classifier_accuracy(samples, merged, reference)[NAME].value == pytest.approx(
        0.6 * good.value, abs=0.06
    )
    shuffled = labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert classifier_accuracy(samples, shuffled, reference)[NAME].value < 0.3


@pytest.mark.usefixtures("brief")
def test_the_error_is_at_least_that_of_the_number_of_test_images(reference):
    few = Reference(
        *(reference.train, reference.labels, reference.held_out[:50]),
        held_out_labels=reference.held_out_labels[:50],
    )
    found = classifier_accuracy(reference.train[:200], reference.labels[:200], few)[NAME]
    for value, error in (
        (found.value, found.standard_error),
        (found.floor, found.floor_standard_error),
    ):
        assert error >= math.sqrt(value * (1 - value) / 50)
        assert 0.005 < error < 0.3


@pytest.mark.usefixtures("brief")
def test_a_classifier_depends_on_its_images_alone_also_where_nothing_is_learned(reference):
    images, labels = reference.train[:64], reference.labels[:64]
    state = torch.get_rng_state()
    first = train_classifier(images, labels, 10)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    with torch.inference_mode():
        again = train_classifier(images.clone(), labels.clone(), 10)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.usefixtures("brief")
def test_samples_with_labels_are_evaluated(reference, cli, capsys):
    arrays = {"samples": reference.train[:400].numpy(), "labels": reference.labels[:400].numpy()}
    np.savez("samples.npz", **arrays)
    data = ("--data", "DigitsDataModule")
    assert cli("evaluate", "samples.npz", *data, "--classifier_accuracy", "true") == 0
    assert "classifier accuracy" in capsys.readouterr().out
    report = json.loads(Path("lightning_logs/evaluation/version_0/evaluation.json").read_text())
    found = report["estimates"][NAME]
    assert found["better"] == "higher"
    # All 400 samples train it, although 360 are compared with the 360 test images.
    assert report["about"]["num_samples"] == 360
    direct = classifier_accuracy(reference.train[:400], reference.labels[:400], reference)[NAME]
    assert found["value"] == pytest.approx(direct.value, abs=0.01)
    assert found["floor"] == pytest.approx(direct.floor, abs=0.01)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "bad.npz has no labels, which --classifier_accuracy needs: give an .npz"),
        (np.zeros(3, int), "shape (3,): write an integer for each of the 20 samples"),
        (np.zeros(20), "labels of type float64"),
        (np.full(20, -1), "labels of samples must be classes of the data, from 0 to 9, got"),
        (np.full(20, 10), "from 10 to 10"),
    ],
)
def test_other_labels_are_refused(labels, message, cli, capsys):
    arrays = {} if labels is None else {"labels": labels}
    np.savez("bad.npz", samples=np.zeros((20, 8, 8), "uint8"), **arrays)
    args = ("bad.npz", "--data", "DigitsDataModule", "--classifier_accuracy", "true")
    assert cli("evaluate", *args) == 1
    assert message in error_line(capsys.readouterr().err)
    assert [path.name for path in Path().iterdir()] == ["bad.npz"]


def test_points_and_images_without_labels_have_no_classifier(cli, capsys):
    Path("pngs").mkdir()
    np.save("points.npy", np.zeros((20, 2)))
    for path, data in (("points.npy", "MoonsDataModule"), ("pngs", "DigitsDataModule")):
        assert cli("evaluate", path, "--data", data, "--classifier_accuracy", "true") == 1
        line = error_line(capsys.readouterr().err)
        assert "is for images" in line or "has no" in line


@pytest.mark.usefixtures("brief")
def test_a_test_of_a_class_conditional_model_measures_it(cli, capsys, trained):
    unconditional = trained("digits") / "checkpoints/last.ckpt"
    options = ("--num_samples", 40, "--num_likelihood_examples", 0, "--classifier_accuracy=true")
    assert cli("test", *smoke("digits"), "--ckpt_path", unconditional, *options) == 1
    assert "is for class-conditional models" in error_line(capsys.readouterr().err)
    assert cli("fit", *smoke("digits"), "--model.network.num_classes", 10) == 0
    checkpoint = "lightning_logs/digits/version_0/checkpoints/last.ckpt"
    assert cli("test", *smoke("digits"), "--ckpt_path", checkpoint, *options) == 0
    report = json.loads(Path("lightning_logs/digits/version_1/evaluation.json").read_text())
    found = report["estimates"][NAME]
    assert 0 <= found["value"] <= 1
    assert found["better"] == "higher"
