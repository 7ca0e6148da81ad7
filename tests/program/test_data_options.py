"""A user's data from the command line: mistakes get one line and leave nothing behind."""

import re
from pathlib import Path

import pytest
import yaml
from support.commands import smoke
from support.own_data import write_data
from support.paths import ROOT

import ncsn.data

MISTAKES = {
    "no file": ("points5d", "--data.path none.csv", "--data.path none.csv is not a file"),
    "no column": ("points5d", "--data.labels kind", "nor one of data in points.csv"),
    "no training data": ("points5d", "--data.val_fraction 0.9", "leave nothing for training"),
    "batch": ("points5d", "--data.batch_size 1000", "data.batch_size=1000 is larger than the 240"),
    "no folder": ("folder", "--data.folder none", "--data.folder none is not a directory"),
    "sizes": ("folder", "--data.size null", "give --data.size to resize all images"),
}


@pytest.mark.parametrize(("config", "options", "message"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.usefixtures("restore_signals")
def test_a_mistake_gets_one_line_and_leaves_nothing(config, options, message, cli, capsys):
    write_data(config)
    before = set(Path().rglob("*"))
    assert cli("fit", *smoke(config), *options.split()) != 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "rror" in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    left = {path for path in set(Path().rglob("*")) - before if path.is_file()}
    assert left == set()


def test_a_density_in_the_plane_takes_the_place_of_the_moons(cli):
    data = ["--data", "ToyDataModule", "--data.name", "pinwheel", "--data.num_points", 200]
    assert cli("fit", *smoke("moons_ncsn"), *data) == 0
    run = Path("lightning_logs/moons_ncsn/version_0")
    args = ["--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt"]
    assert cli("test", *args, "--num_samples", 20, "--num_likelihood_examples", 2) == 0
    report = Path("lightning_logs/moons_ncsn").rglob("*.json")
    assert any("excess_loss" in path.read_text() for path in report)  # of the exact score


DATAMODULES = [name for name in ncsn.data.__all__ if name.endswith("DataModule")]


@pytest.mark.parametrize("name", [name for name in DATAMODULES if "InMemory" not in name])
def test_the_command_in_the_docstring_of_a_datamodule_uses_it(name, cli, capsys):
    found = re.search(r"python -m ncsn (fit .*)", getattr(ncsn.data, name).__doc__)
    args = found[1].replace("configs/", f"{ROOT}/configs/").split()
    assert cli(*args, "--print_config") == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["class_path"] == f"ncsn.data.{name}"
    assert args[2].startswith(str(ROOT))
