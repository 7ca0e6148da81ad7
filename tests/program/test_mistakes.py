"""A mistake on the command line gets one line that names it."""

import pytest
from support.commands import error_line, run_process, smoke

MOONS, DIGITS = smoke("moons"), smoke("digits")

MISTAKES = {
    "a ladder's sampler on one level": (
        ["fit", *MOONS, "--model.sampler", "Heun"],
        "use Langevin",
    ),
    "negative sigma": (
        ["fit", *MOONS, "--model.sigma", "-1"],
        "sigma must be a number from 1e-15 to 1e+15, got -1",
    ),
    "sigma beyond float32": (
        ["fit", *MOONS, "--model.sigma", "1e39"],
        "sigma must be a number from 1e-15 to 1e+15, got 1e+39",
    ),
    "null": (["fit", *MOONS, "--data.val_fraction", "null"], "data.val_fraction must be"),
    "huge noise": (["fit", *MOONS, "--data.noise", "1e38"], "data.noise must be at least 0 and"),
    "not a number": (["fit", *MOONS, "--model.sigma", "a"], "value: a"),
    "no levels": (["fit", *DIGITS, "--model.num_levels", "0"], "num_levels"),
    "crossed levels": (
        ["fit", *DIGITS, "--model.sigma_min", "50"],
        "sigma_min=50.0 and sigma_max=10.0",
    ),
    "impossible ladder": (
        ["fit", *DIGITS, "--model.ladder", "ncsn.levels.Rho", "--model.ladder.rho", "0"],
        "rho must be a positive number",
    ),
    "impossible network": (["fit", *DIGITS, "--model.network.filters", "12"], "multiple of 8"),
    "impossible average": (["fit", *MOONS, "--ema.decay", "1"], "ema.decay must be in [0, 1)"),
    "impossible preview": (
        ["fit", *MOONS, "--model.preview.num_samples", "0"],
        "num_samples >= 1",
    ),
    "abbreviation": (["fit", *MOONS, "--trainer.max_epoch", "2"], "--trainer.max_epoch"),
    "unknown option": (["fit", *MOONS, "--model.sgima", "2"], "sgima"),
    "unknown class": (["fit", *MOONS, "--model.network", "UNett"], "UNett"),
    "no config": (["fit"], "data"),
    "missing config": (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
    "missing checkpoint": (["fit", *MOONS, "--ckpt_path", "no.ckpt"], "no.ckpt"),
    "checkpoint by URL": (["fit", *MOONS, "--ckpt_path", "http://x.org/a.ckpt"], "not a file"),
    "last of none": (["test", *MOONS, "--ckpt_path", "last"], "no run in lightning_logs/moons"),
    "last without files": (
        ["test", *MOONS, "--ckpt_path", "last", "--trainer.logger", "false"],
        "CSVLogger",
    ),
    "predict untrained": (["predict", *MOONS], "--ckpt_path"),
    "an option of another command": (["fit", *MOONS, "--num_samples", "3"], "--num_samples"),
    "huge batch": (["fit", *MOONS, "--data.batch_size", "5000"], "4000 training examples"),
    "empty batch": (["fit", *MOONS, "--data.batch_size", "0"], "data.batch_size"),
    "no accelerator": (["fit", *DIGITS, "--trainer.accelerator", "gpu"], "gpu"),
    "learning rate": (
        ["fit", *MOONS, "--model.optimizer.lr", "-1"],
        "model.optimizer: Invalid learning rate: -1",
    ),
    "wrong network": (["fit", *DIGITS, "--model.network", "ncsn.networks.MLP"], "(1, 8, 8)"),
    "too few classes": (["fit", *DIGITS, "--model.network.num_classes", "3"], "10 classes"),
    "nothing held out": (["fit", *MOONS, "--data.val_fraction", "1e-9"], "val_fraction"),
    "not a checkpoint": (["test", *MOONS, "--ckpt_path", __file__], "is not a checkpoint"),
    "nothing to compare": (["compare"], "runs"),
    "no run to compare": (["compare", "nowhere"], "nowhere"),
    "features without a command": (["features"], "fit"),
    "features with an unknown command": (["features", "fitt"], "fitt"),
    "unknown command": (["sample"], "'sample'"),
    "nothing": ([], "COMMAND"),
}


@pytest.mark.parametrize(("args", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_line_that_names_it(args, hint, cli, capsys):
    assert cli(*args) in (1, 2)
    output = capsys.readouterr()
    assert hint.lower() in error_line(output.err).lower()
    assert "usage:" not in output.err + output.out


def test_a_config_that_is_no_text_is_refused(cli, capsys, trained):
    assert cli("fit", "--config", trained("moons") / "checkpoints/last.ckpt") == 1
    assert "--config is the path of a text file" in error_line(capsys.readouterr().err)


def test_an_evaluation_with_nothing_to_evaluate_is_refused(cli, capsys, trained):
    checkpoint = ("--ckpt_path", trained("moons") / "checkpoints/last.ckpt")
    assert cli("test", *MOONS, *checkpoint, "--num_samples", 0) == 1
    assert "--num_samples must be at least 1" in error_line(capsys.readouterr().err)
    assert cli("test", *MOONS, *checkpoint, "--inception", "true") == 1
    assert "--inception is for images" in error_line(capsys.readouterr().err)


def test_predict_refuses_what_it_cannot_do(cli, capsys, trained):
    predict = ("predict", *MOONS, "--ckpt_path", trained("moons") / "checkpoints/last.ckpt")
    for options, hint in {
        ("--num_samples", 0): "--num_samples must be at least 1",
        ("--label", 1): "the model is not class-conditional",
        ("--first_sample", -1): "--first_sample must be at least 0",
        ("--batch_size", 0): "--batch_size must be at least 1",
        ("--resume", "nowhere"): "is not the directory of an interrupted predict",
    }.items():
        assert cli(*predict, *options) == 1
        assert hint in error_line(capsys.readouterr().err)


def test_without_the_data_the_option_that_says_where_it_is_gets_named(server, tmp_path):
    args = (*smoke("mnist"), "--data.data_dir", tmp_path / "empty")
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    output = run_process(server, "fit", *args, status=1, **proxy)
    assert "Traceback" not in output
    assert "--data.data_dir" in error_line(output)


OWN = """
import torch
from ncsn.networks import MLP

class Bug(MLP):
    def forward(self, x, sigma):
        return x @ torch.ones(3, 3)

class Table(MLP):
    def __init__(self, dim=2):
        super().__init__(dim)
        open("nowhere.txt")
"""


@pytest.mark.parametrize(("name", "error"), [("Bug", "RuntimeError"), ("Table", "FileNotFound")])
def test_a_mistake_in_a_users_own_class_shows_where_it_is(server, tmp_path, name, error):
    (tmp_path / "own_networks.py").write_text(OWN)
    args = (*MOONS, "--model.network", f"own_networks.{name}")
    output = run_process(server, "fit", *args, status=1, PYTHONPATH=str(tmp_path))
    assert "Traceback" in output
    assert "own_networks.py" in output
    assert error in output.strip().splitlines()[-1]
