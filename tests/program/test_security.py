"""A checkpoint may come from anybody: what it names is not imported, unless the user names it."""

import sys
from pathlib import Path

import pytest
import torch
from support.commands import error_line, smoke

MOONS = smoke("moons")

EVIL = """
import pathlib

from ncsn.networks import MLP

pathlib.Path("pwned").touch()


class Net(MLP):
    pass


def loss(*args, **kwargs):
    pass
"""

NET = {"class_path": "evil.Net", "init_args": {"hidden_dim": 128, "num_hidden": 4}}
NAMES = {
    "the model": {"_class_path": "evil.Net"},
    "a class": {"network": NET},
    "a class without arguments": {"network": "evil.Net"},
    "a class in YAML": {"network": '{class_path: "\\x65vil.Net"}'},
    "a class in a file": {"network": "evil.yaml"},
    "a function": {"objective": "evil.loss"},
    "a nested class": {"preview": {"class_path": "ncsn.callbacks.Preview", "sampler": NET}},
    "an unknown argument": {"unknown": [{"class_path": "evil.Net"}]},
    "a program": {"objective": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}},
    "what a module of ours imports": {"objective": "ncsn.runtime.checkpoints.os.system"},
}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module in the working directory that does harm when it is imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "evil.yaml").write_text("class_path: evil.Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)


@pytest.fixture
def forge(trained, tmp_path):
    """``forge(hparams)`` is a checkpoint in which hyperparameters are replaced."""

    def make(hparams):
        checkpoint = torch.load(trained("moons") / "checkpoints/last.ckpt", weights_only=True)
        checkpoint["hyper_parameters"] |= hparams
        torch.save(checkpoint, tmp_path / "forged.ckpt")
        return tmp_path / "forged.ckpt"

    return make


@pytest.mark.parametrize("hparams", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("command", ["predict", "validate"])
def test_what_only_a_checkpoint_names_is_not_imported(command, hparams, cli, capsys, evil, forge):
    assert cli(command, *MOONS, "--ckpt_path", forge(hparams)) == 1
    last = error_line(capsys.readouterr().err)
    assert last.startswith("the checkpoint names ")
    assert last.endswith("give the --config of its training")
    assert not Path("pwned").exists()


def test_what_the_config_names_too_is_imported(cli, evil, forge):
    checkpoint = forge({"network": NET})
    args = ("--ckpt_path", checkpoint, "--num_samples", 2)
    assert cli("predict", *MOONS, "--model.network", "evil.Net", *args) == 0
    assert Path("pwned").exists()
