"""The command ``evaluate``: what it reads, what it measures, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import error_line, smoke

from ncsn.data import DigitsDataModule, MoonsDataModule
from ncsn.evaluation import Reference
from ncsn.evaluation.features import FeatureNetwork, read_features, save_features
from ncsn.evaluation.samples import evaluate_samples, read_samples

DIGITS, MOONS = smoke("digits"), smoke("moons_ncsn")
SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def digits():
    """Digits as they are stored, and what they are compared with."""
    return DigitsDataModule().reference("test")


def write_pngs(images, mode="L"):
    """A directory of images, ``(n, 8, 8)``."""
    directory = Path("pngs")
    (directory / "more").mkdir(parents=True)
    for i, image in enumerate(images):
        path = directory / ("more" if i % 2 else "") / f"{i:03d}.png"
        Image.fromarray(image).convert(mode).save(path)
    return directory


# ---- what is read ----


def test_images_are_read_in_all_layouts(digits):
    images = digits.held_out[:20]
    grey = images[:, 0].numpy()
    np.save("nhw.npy", grey)
    np.save("nhwc.npy", grey[..., None])
    np.savez("samples.npz", samples=images.numpy(), labels=np.zeros(20))
    np.savez_compressed("single.npz", whatever=images.numpy())
    for name in ("nhw.npy", "nhwc.npy", "samples.npz", "single.npz"):
        assert torch.equal(read_samples(Path(name), SHAPE), images), name
    colour = torch.randint(0, 256, (5, 3, 8, 6), dtype=torch.uint8)
    np.save("colour.npy", colour.permute(0, 2, 3, 1).numpy())
    assert torch.equal(read_samples(Path("colour.npy"), (3, 8, 6)), colour)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_pngs_are_read_whatever_colours_they_are_written_in(digits, mode):
    read = read_samples(write_pngs(digits.held_out[:20, 0].numpy(), mode), SHAPE)
    expected = digits.held_out[:20]
    # In the order of the paths: the sub-directory comes after the files.
    assert torch.equal(read, torch.cat([expected[::2], expected[1::2]]))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_points_of_any_type_are_read(dtype):
    points = (10 * np.random.default_rng(0).normal(size=(20, 3))).astype(dtype)
    np.save("points.npy", points)
    read = read_samples(Path("points.npy"), (3,))
    assert read.dtype == torch.float32
    np.testing.assert_array_equal(read.numpy(), points.astype("float32"))


def test_an_archive_whose_compressed_data_is_damaged_is_named():
    np.savez_compressed("bad.npz", samples=np.random.default_rng(0).normal(size=(500, 3)))
    content = bytearray(Path("bad.npz").read_bytes())
    content[2000:2100] = bytes(100)
    Path("bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.npz is not an array of numbers"):
        read_samples(Path("bad.npz"), (3,))


def save(**arrays):
    np.savez("bad.npz", **arrays)


GREY = np.zeros((20, 8, 8), "uint8")
POINTS = np.zeros((20, 2))


@pytest.mark.parametrize(
    ("write", "shape", "message"),
    [
        (lambda: save(a=GREY, b=GREY), SHAPE, "has the arrays a, b: call the one"),
        (lambda: save(), SHAPE, "has the arrays none"),
        (lambda: save(samples=GREY / 255), SHAPE, "type float64.*write uint8"),
        (
            lambda: save(samples=GREY[:, :5]),
            SHAPE,
            r"shape \(5, 8\), and the data has \(1, 8, 8\)",
        ),
        (lambda: save(samples=POINTS), (5,), r"shape \(2,\), and the data has \(5,\)"),
        (lambda: save(samples=GREY), (2,), r"shape \(8, 8\), and the data has \(2,\)"),
        (lambda: save(samples=np.float32(1)), (2,), r"shape \(\), and the data has \(2,\)"),
        (lambda: save(samples=np.full((20, 2), "a")), (2,), "<U1: write numbers"),
        (lambda: save(samples=POINTS + 1j), (2,), "complex128: write numbers"),
        (lambda: save(samples=np.array([None] * 20)), (2,), "is not an array of numbers"),
        (
            lambda: save(samples=np.where(np.eye(20, 2), np.nan, 0)),
            (2,),
            "2 of 20 samples are not",
        ),
        (lambda: save(samples=POINTS + 1e300), (2,), "20 of 20 samples are not finite"),
        (lambda: Path("bad.npz").write_bytes(b"PK\3\4"), (2,), "is not an array of numbers"),
        (lambda: Path("bad.npz").write_text("1 2 3"), (2,), "is not an array of numbers"),
        (lambda: Path("bad.npz").write_text(""), (2,), "is not an array of numbers"),
    ],
)
def test_other_arrays_are_refused_by_name(write, shape, message):
    write()
    with pytest.raises(ValueError, match=f"bad.npz.*{message}"):
        read_samples(Path("bad.npz"), shape)


def draw(size=(8, 8), mode="L", colour=0, name="b.png"):
    Image.new(mode, size, colour).save(name)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda: draw((8, 9)), "b.png and .*a.png differ in size: 9x8 and 8x8"),
        (lambda: draw(mode="RGB", colour=(1, 2, 3)), "b.png has colours"),
        (lambda: draw(mode="RGBA", colour=(1, 1, 1, 9)), "b.png is transparent"),
        (lambda: draw(mode="I;16"), "b.png has more than 8 bits"),
        (lambda: Path("b.png").write_text("no image"), "b.png is not a PNG"),
        (lambda: Path("a.png").unlink(), "has no PNGs"),
    ],
)
def test_other_pngs_are_refused_by_name(write, message):
    draw(name="a.png")
    write()
    with pytest.raises(ValueError, match=message):
        read_samples(Path().absolute(), SHAPE)


def test_a_png_that_ends_early_is_named(digits):
    directory = write_pngs(digits.held_out[:2, 0].numpy())
    path = directory / "000.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises((OSError, ValueError), match=r"000\.png"):
        read_samples(directory, SHAPE)


# ---- what is measured ----


def read_report(run):
    return json.loads((Path("lightning_logs") / run / "evaluation.json").read_text())


@pytest.mark.parametrize("config", ["digits", "moons_ncsn"])
def test_samples_of_a_model_get_the_numbers_that_its_test_gives(config, cli, trained):
    options = (*smoke(config), "--ckpt_path", trained(config) / "checkpoints/last.ckpt")
    assert cli("predict", *options, "--num_samples", 60) == 0
    samples = f"lightning_logs/{config}/version_0/samples.npz"
    assert cli("test", *options, "--num_samples", 60, "--num_likelihood_examples", 0) == 0
    assert cli("evaluate", samples, *smoke(config)) == 0
    tested, found = (
        read_report(run)["estimates"] for run in (f"{config}/version_1", "evaluation/version_0")
    )
    of_the_model = {"excess_loss"}
    assert set(found) == set(tested) - of_the_model
    for name, estimate in found.items():
        for key, value in estimate.items():
            expected = tested[name][key]
            if isinstance(value, float):
                expected = pytest.approx(expected, rel=1e-3, abs=1e-3)
            assert value == expected, (name, key)
    assert not Path("lightning_logs/evaluation/version_0/levels.csv").exists()


def test_a_directory_of_pngs_is_evaluated_and_compared(digits, cli, capsys):
    pngs = write_pngs(digits.held_out[:40, 0].numpy())
    data = ("--data", "DigitsDataModule", "--data.val_fraction", 0.3)
    assert cli("evaluate", pngs, *data) == 0
    output = capsys.readouterr().out
    assert "40 samples in pngs" in output
    assert "DIGITS-FD, features v1" in output
    run = Path("lightning_logs/evaluation/version_0")
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert pictures == {"samples.png", "neighbours.png", "classes.png"}
    assert (run / "estimates.csv").is_file()
    assert cli("evaluate", pngs, *data, "--name", "again") == 0
    assert cli("compare", run, "lightning_logs/again/version_0") == 0
    assert "DIGITS-FD" in capsys.readouterr().out


def test_more_samples_than_held_out_data_are_chosen_at_random(digits, capsys):
    classes = digits.labels.argsort()
    np.save("sorted.npy", digits.train[classes].numpy())
    report, _ = evaluate_samples(Path("sorted.npy"), "digits", digits)
    assert (report.about["num_read"], report.about["num_samples"]) == (1437, 360)
    report.print(Path())
    assert "360 of 1,437 samples in sorted.npy" in capsys.readouterr().out
    assert report.estimates["class_divergence"].value < 0.05
    assert report.estimates["memorisation_rate"].value == pytest.approx(1)


def test_unlabelled_images_are_compared_in_pixels_and_the_table_says_so(digits, capsys):
    plain = Reference(digits.train, torch.zeros_like(digits.labels), digits.held_out)
    np.save("samples.npy", digits.held_out[:50].numpy())
    report, pictures = evaluate_samples(Path("samples.npy"), "Plain", plain)
    assert "pixel_sliced_wasserstein" in report.estimates
    assert set(pictures) == {"neighbours", "samples"}
    report.print(Path())
    output = capsys.readouterr().out
    assert "pixels are compared" in output
    assert "in pixels" in output


def test_points_are_evaluated_with_and_without_their_density():
    data = MoonsDataModule(num_points=1000)
    known = data.reference("test")
    unknown = Reference(known.train, known.labels, known.held_out)
    np.save("points.npy", data.exact.sample(600).numpy())
    for reference, num in ((known, 600), (unknown, 200)):
        report, pictures = evaluate_samples(Path("points.npy"), "Moons", reference)
        assert report.about["num_samples"] == num
        assert list(report.estimates) == ["sliced_wasserstein", "energy_distance", "mmd"]
        assert set(pictures) == {"samples"}


# ---- features of one's own ----


def test_a_feature_network_is_trained_by_one_command_and_used_by_path(digits, cli, capsys):
    data = ("--data", "DigitsDataModule", "--trainer.accelerator", "cpu")
    assert cli("features", "fit", *data, "--trainer.max_epochs", 1, "--model.widths", "[4,6]") == 0
    path = Path("lightning_logs/features/version_0/features.safetensors")
    network = read_features(path)
    assert network.image_size == (8, 8)
    np.save("samples.npy", digits.held_out[:50].numpy())
    assert cli("evaluate", "samples.npy", *data[:2], "--features", path) == 0
    about, estimates = (read_report("evaluation/version_0")[key] for key in ("about", "estimates"))
    assert about["features"] == network.title
    assert f"own_fd_v{network.version}" in estimates


@pytest.fixture(scope="module")
def own_features(tmp_path_factory):
    """The file of a feature network of grey images with random weights, and its version."""
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    return path, save_features(FeatureNetwork((8, 8), (4, 6)), path)[:8]


def test_a_fit_and_a_test_compare_in_features_of_ones_own(own_features, cli, capsys):
    path, version = own_features
    metric = f"own_fd_v{version}"
    best = ("--best.monitor", f"val/{metric}")
    assert cli("fit", *DIGITS, "--features", path, *best) == 0
    run = Path("lightning_logs/digits/version_0")
    checkpoint = run / "checkpoints/last.ckpt"
    # What the checkpoint is resumed with by itself.
    assert cli("fit", "--ckpt_path", checkpoint, "--trainer.max_epochs", 2) == 0
    for name in ("version_0", "version_1"):
        header = (run.parent / name / "metrics.csv").read_text().splitlines()[0]
        assert f"val/{metric}" in header.split(",")
        assert "digits_fd" not in header
    few = ("--num_samples", 20, "--num_likelihood_examples", 0)
    assert cli("test", *DIGITS, "--ckpt_path", checkpoint, "--features", path, *few) == 0
    assert metric in read_report("digits/version_2")["estimates"]
    assert f"features: OWN features v{version}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*smoke("moons_ncsn"), "--features", "own"), "--features own is for images, and Moons"),
        ((*DIGITS, "--features", "none"), "none: No such file or directory"),
        ((*DIGITS, "--features", "colour"), "takes images of 3 channels, and those of Digits"),
        ((*DIGITS, "--features", "text"), "text is not a feature network that"),
    ],
)
def test_features_that_do_not_fit_are_refused_before_a_run_begins(
    options, message, own_features, cli, capsys
):
    Path("own").write_bytes(own_features[0].read_bytes())
    save_features(FeatureNetwork((8, 8), (4, 6), channels=3), Path("colour"))
    Path("text").write_text("text")
    assert cli("fit", *options) == 1
    assert message in error_line(capsys.readouterr().err)
    assert {path.name for path in Path().iterdir()} == {"own", "colour", "text"}


def test_a_network_of_colours_and_classes_survives_its_file(tmp_path):
    network = FeatureNetwork((8, 12), (4, 6), num_classes=3, channels=3).eval()
    network.name = "flowers"
    checksum = save_features(network, tmp_path / "a.safetensors")
    loaded = read_features(tmp_path / "a.safetensors")
    images = torch.rand(5, 3, 8, 12)
    assert torch.equal(network(images).logits, loaded(images).logits)
    assert (loaded.name, loaded.version) == ("flowers", checksum[:8])
    with pytest.raises(ValueError, match="takes images of 3 channels, got 1"):
        loaded(images[:, :1])


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 100])
def test_other_files_are_no_feature_networks(content):
    Path("features").write_bytes(content)
    with pytest.raises(ValueError, match="features is not a feature network that"):
        read_features(Path("features"))


def test_features_cannot_be_trained_on_points(cli, capsys):
    data = ("--data", "MoonsDataModule", "--trainer.accelerator", "cpu")
    assert cli("features", "fit", *data) == 1
    assert "no images of several classes" in error_line(capsys.readouterr().err)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (("missing.npy", *DIGITS), 1, "missing.npy: No such file or directory"),
        (("few.npy", *DIGITS), 1, "few.npy has 9 examples, too few to compare: take at least 16"),
        (("few.npy", *MOONS), 1, "few.npy has samples of shape (8, 8), and the data has (2,)"),
        (("few.npy",), 1, "give --config CONFIG or --data CLASS"),
        (("few.npy", "--data", "Digits"), 2, "there is no class Digits"),
        (("few.npy", "--config", "bad.yaml"), 2, "bad.yaml"),
        (("few.npy", *DIGITS, "--features", "none"), 1, "none: No such file or directory"),
        (("few.npy", *DIGITS, "--features", "few.npy"), 1, "few.npy is not a feature network"),
        (("few.npy", *MOONS, "--features", "few.npy"), 1, "--features few.npy is for images"),
        (("few.npy", *DIGITS, "--feature", "few.npy"), 2, "--features"),
        ((*DIGITS,), 2, "samples"),
        (("few.npy", "--config", "few.npy"), 1, "--config is the path of a text file: few.npy"),
        (
            ("few.npy", "--data", "DigitsDataModule", "--data.val_fraction", 0.01),
            1,
            "few.npy has 9 examples",
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(args, status, message, cli, capsys):
    np.save("few.npy", np.zeros((9, 8, 8), "uint8"))
    Path("bad.yaml").write_text("data: {")
    assert cli("evaluate", *args) == status
    assert message in error_line(capsys.readouterr().err)
    assert {path.name for path in Path().iterdir()} == {"few.npy", "bad.yaml"}
