"""What a measurement may come from: ``restore``, with the model that comes with the package."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import error_line, smoke

from ncsn.data import DigitsDataModule
from ncsn.evaluation.codec import to_float, to_uint8
from ncsn.modules import NCSN
from ncsn.modules.pretrained import SHIPPED
from ncsn.random import Stream, seeded_generator
from ncsn.sampling import MMPS, Downsampling, DPMSolver, RandomProjection

SHAPE = (1, 8, 8)
SOLVER = ("--model.sampler", "DPMSolver", "--model.sampler.num_steps", 20)
FEW = (*SOLVER, "--model.sampler.eta", 1, "--num_samples", 4)
RESTORE = ("restore", "--pretrained", "digits", *FEW)
RUN = Path("lightning_logs/digits/version_0")


@pytest.fixture
def digits():
    """Three test images, also in ``digits.npy``."""
    data = DigitsDataModule()
    data.setup("test")
    images = data.splits["test"].data[:3]
    np.save("digits.npy", images.numpy())
    return images


def restored(run=RUN):
    """What a run has written."""
    with np.load(run / "restored.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def test_floats_from_0_to_255_are_refused_also_with_noise(cli, capsys, digits):
    np.save("noisy.npy", digits.numpy() + np.float32(-5))
    half = ("--operator", "HiddenBox", "--operator.left", 4, "--noise", 0.04)
    assert cli(*RESTORE, "--input", "noisy.npy", *half) == 1
    assert "noisy.npy has values from -5 to 250" in error_line(capsys.readouterr().err)
    np.save("none.npy", digits.numpy()[:0])
    assert cli(*RESTORE, "--input", "none.npy", *half) == 1
    assert "none.npy is empty" in error_line(capsys.readouterr().err)


def test_a_hidden_half_is_filled_in_and_the_other_kept(cli, digits):
    hidden = digits.clone()
    hidden[..., 4:] = 77  # does not matter
    np.save("hidden.npy", hidden.numpy())
    half = ("--operator", "HiddenBox", "--operator.left", 4, "--noise", 0.02)
    assert cli(*RESTORE, "--input", "hidden.npy", *half) == 0
    found = restored()
    assert found["samples"].shape == (3, 4, *SHAPE)
    assert found["samples"].dtype == torch.uint8
    known = to_float(found["samples"])[..., :4] - to_float(digits)[:, None, ..., :4]
    assert known.square().mean().sqrt() < 0.06  # noise of 0.02, and the network's error
    torch.testing.assert_close(
        found["mean"], to_float(found["samples"]).mean(1), rtol=0, atol=0.1
    )  # which are rounded, and clipped where they are above 1
    assert found["std"][..., 4:].mean() > 3 * found["std"][..., :4].mean()
    assert (RUN / "restored.png").is_file()
    about = json.loads((RUN / "restored.json").read_text())
    assert about["operator"]["class_path"] == "ncsn.sampling.operators.HiddenBox"
    assert (about["noise"], about["seed"]) == (0.02, 0)


def test_the_samples_are_those_of_python_whatever_the_batch_size(cli, digits):
    a, noise = Downsampling(SHAPE), 0.1
    small = to_uint8(a(to_float(digits)))
    np.save("small.npy", small.numpy())
    args = ("--input", "small.npy", "--operator", "Downsampling", "--noise", noise)
    assert cli(*RESTORE, *args) == 0
    assert cli(*RESTORE, *args, "--batch_size", 5) == 0
    first, second = (restored(RUN.with_name(f"version_{n}"))["samples"] for n in (0, 1))
    difference = first.int() - second.int()
    assert difference.abs().max() <= 1  # rounding differs with the batch size
    module = NCSN.from_pretrained(SHIPPED / "digits")
    y = to_float(small).repeat_interleave(4, 0)
    drawn = module.draw(
        0,
        12,
        sampler=DPMSolver(20, eta=1.0),
        modify=lambda score: MMPS()(score, a, y, noise),
    )
    assert torch.equal(to_uint8(drawn).view(first.shape), first)


def test_a_restoration_computes_in_the_precision_that_is_given(cli, digits):
    half = ("--operator", "HiddenBox", "--operator.left", 4, "--noise", 0.04)
    for precision in ("32-true", "bf16-mixed"):
        options = ("--input", "digits.npy", "--trainer.precision", precision)
        assert cli(*RESTORE, *half, *options) == 0
    exact, rounded = (restored(RUN.with_name(f"version_{i}"))["mean"] for i in (0, 1))
    error = (exact - rounded).abs()
    assert 1e-4 < error.max() < 0.5  # of values in [-1, 1]
    assert error.mean() < 0.02


def test_measurements_are_simulated_from_images_and_the_truth_is_kept(cli, digits):
    method = ("--method", "PiGDM", "--method.data_std", 0.75)
    blur = ("--operator", "Blur", "--operator.std", 0.8, "--noise", 0.1, *method)
    Path("pngs").mkdir()
    for number, image in enumerate(digits):
        Image.fromarray(image[0].numpy()).save(f"pngs/{number}.png")
    assert cli(*RESTORE, "--input", "pngs", "--simulate", "true", *blur) == 0
    found = restored()
    assert torch.equal(found["truth"], digits)
    near, far = (found["mean"] - to_float(digits), found["mean"] - to_float(digits).roll(1, 0))
    assert near.square().mean() < 0.3 * far.square().mean()
    assert cli(*RESTORE, "--input", "pngs/0.png", "--simulate", "true", *blur) == 0
    assert restored(RUN.with_name("version_1"))["samples"].shape == (1, 4, *SHAPE)


def test_measurements_that_are_no_images_are_read_as_numbers(cli, digits):
    random = ("--operator", "RandomProjection", "--operator.num", 20, "--noise", 0.1)
    assert cli(*RESTORE, "--input", "digits.npy", "--simulate", "true", *random) == 0
    found = restored()
    assert found["measurement"].shape == (3, 20)
    generator = seeded_generator(Stream.MEASUREMENT, 0)
    y = RandomProjection(SHAPE, 20).measure(to_float(digits), 0.1, generator)
    torch.testing.assert_close(found["measurement"], y)
    np.save("y.npy", y.numpy())
    assert cli(*RESTORE, "--input", "y.npy", *random) == 0
    again = restored(RUN.with_name("version_1"))
    assert torch.equal(again["samples"], found["samples"])


def test_measured_images_may_be_floats_that_noise_has_taken_beyond_white(cli, digits):
    a = ("--operator", "Downsampling", "--noise", 0.1)
    assert cli(*RESTORE, "--input", "digits.npy", "--simulate", "true", *a) == 0
    found = restored()
    assert found["measurement"].abs().max() > 1
    np.save("y.npy", found["measurement"].numpy())
    assert cli(*RESTORE, "--input", "y.npy", *a) == 0
    assert torch.equal(restored(RUN.with_name("version_1"))["samples"], found["samples"])


def test_points_are_restored_with_an_operator_of_ones_own(cli, trained, tmp_path, monkeypatch):
    Path("own.py").write_text(
        "from ncsn.sampling import LinearOperator\n\n\n"
        "class Total(LinearOperator):\n"
        "    def __call__(self, x):\n"
        "        return x.sum(1, keepdim=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    np.save("y.npy", np.array([[0.5], [1.0]]))
    args = ("--ckpt_path", trained("moons_ncsn") / "checkpoints/last.ckpt", *FEW)
    own = ("--operator", "own.Total", "--noise", 0.1, "--input", "y.npy")
    assert cli("restore", *smoke("moons_ncsn"), *args, *own) == 0
    run = Path("lightning_logs/moons_ncsn/version_0")
    assert restored(run)["samples"].shape == (2, 4, 2)
    assert (run / "restored_samples.png").is_file()


BOX = ("--operator", "HiddenBox", "--operator.left", 4, "--noise", 0.1)
DOWN, MASK = (("--noise", 0.1, "--operator", name) for name in ("Downsampling", "Mask"))
MISTAKES = {
    "missing file": (("--input", "no.npy", *BOX), "no.npy: No such file"),
    "missing PNG": (("--input", "no.png", *BOX), "no.png: No such file"),
    "empty directory": (("--input", "empty", *BOX), "empty has no PNGs"),
    "wrong size": (
        ("--input", "large.npy", *BOX),
        "samples of shape (9, 9), and the data has (1, 8, 8)",
    ),
    "channels": (("--input", "colours.png", *BOX), "colours.png has colours"),
    "floats of any range": (
        ("--input", "floats.npy", *BOX),
        "without a negative value, which may mean any range of values: write uint8",
    ),
    "floats to measure": (("--input", "floats.npy", "--simulate", "true", *BOX), "write uint8"),
    "the size of the data, but not of A x": (
        ("--input", "digits.npy", *DOWN),
        "(1, 8, 8), and a measurement has (1, 4, 4)",
    ),
    "an operator that does not fit": (
        ("--input", "digits.npy", *DOWN, "--operator.factor", 3),
        "divide 8x8 pixels, got 3",
    ),
    "a box outside": (
        ("--input", "digits.npy", *BOX, "--operator.width", 9),
        "must hide a part of 8x8 pixels",
    ),
    "a mask that does not fit": (
        ("--input", "digits.npy", *MASK, "--operator.known", "floats.npy"),
        "floats.npy has the shape (2, 1, 8, 8), and the data has (1, 8, 8)",
    ),
    "negative noise": (
        ("--input", "digits.npy", *BOX, "--noise", -1),
        "noise must be a number of at least 0, got -1",
    ),
    "no noise": (("--input", "digits.npy", *BOX[:4]), "required: noise"),
    "no operator": (("--input", "digits.npy", "--noise", 0.1), "required: operator"),
    "no input": (BOX, "required: input"),
    "unknown operator": (
        ("--input", "digits.npy", "--operator", "Blurr", "--noise", 0.1),
        "did you mean Blur?",
    ),
    "unknown method": (
        ("--input", "digits.npy", *BOX, "--method", "MMSP"),
        "did you mean MMPS?",
    ),
    "a Tweedie step with steps of fixed length": (
        ("--input", "digits.npy", *BOX, "--method", "DPS", "--method.step_size", 1),
        "add --model.sampler.denoise false",
    ),
    "no samples": (("--input", "digits.npy", *BOX, "--num_samples", 0), "--num_samples"),
    "a class": (("--input", "digits.npy", *BOX, "--label", 3), "is not class-conditional"),
}


@pytest.mark.parametrize(("args", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_line_and_leaves_nothing(args, hint, cli, capsys, digits):
    Path("empty").mkdir()
    np.save("large.npy", np.zeros((2, 9, 9), np.uint8))
    np.save("floats.npy", np.zeros((2, 1, 8, 8), np.float32))
    Image.fromarray(np.eye(8, dtype=np.uint8)[..., None] * np.uint8([255, 0, 0])).save(
        "colours.png"
    )
    assert cli(*RESTORE, *args) in (1, 2)
    last = error_line(capsys.readouterr().err)
    assert hint in last
    assert len(last) < 250
    assert not RUN.exists()
