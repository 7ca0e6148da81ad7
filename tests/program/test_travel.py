"""Checkpoints that travel: without the config, the code or the data of their training."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.commands import QUICK, error_line, run_process, smoke
from support.runs import load_last

from ncsn.data import DigitsDataModule, MoonsDataModule
from ncsn.evaluation.features import extract_features, load_features
from ncsn.modules.pretrained import PRETRAINED, SHIPPED


@pytest.fixture
def bare(trained, tmp_path):
    """``bare("moons")`` is a checkpoint away from its run."""

    def copy(config):
        return shutil.copy(trained(config) / "checkpoints/last.ckpt", tmp_path / f"{config}.ckpt")

    return copy


def test_a_checkpoint_alone_gives_the_samples_that_it_gives_with_its_config(cli, bare):
    args = ("--ckpt_path", bare("digits"), "--num_samples", 10)
    assert cli("predict", *smoke("digits"), *args) == 0
    assert cli("predict", *args) == 0
    runs = [Path(f"lightning_logs/digits/version_{n}") for n in range(2)]
    first, second = (np.load(run / "samples.npz")["samples"] for run in runs)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("data", [MoonsDataModule, DigitsDataModule])
def test_predict_does_not_load_the_data(data, cli, bare, monkeypatch):
    checkpoint = bare({MoonsDataModule: "moons_ncsn", DigitsDataModule: "digits"}[data])
    monkeypatch.setattr(data, "load_splits", None)
    assert cli("predict", "--ckpt_path", checkpoint, "--num_samples", 2) == 0


def test_a_checkpoint_alone_is_evaluated_on_its_data(cli, bare):
    few = ("--num_samples", 20, "--num_likelihood_examples", 2)
    assert cli("test", f"--ckpt_path={bare('moons_ncsn')}", *few, "--name", "own") == 0
    run = Path("lightning_logs/own/version_0")
    assert (run / "evaluation.json").is_file()
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert data["class_path"] == "ncsn.data.MoonsDataModule"
    assert data["init_args"]["batch_size"] == 8  # that of the smoke run, not the default
    assert cli("validate", "--ckpt_path", bare("moons_ncsn")) == 0


def test_a_checkpoint_alone_is_resumed_exactly(cli, bare, trained):
    two = ("--trainer.max_epochs", 2)
    assert cli("fit", *smoke("moons"), *two, *QUICK) == 0
    assert cli("fit", "--ckpt_path", bare("moons"), *two, *QUICK) == 0
    whole, resumed = (Path(f"lightning_logs/moons/version_{n}") for n in range(2))
    assert load_last(resumed)["global_step"] == 4
    first, second = load_last(whole), load_last(resumed)
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name])


def test_a_checkpoint_alone_may_name_our_optimizer(cli, server):
    muon = ("--model.optimizer", "ncsn.optimizers.Muon", "--model.optimizer.lr", 1e-3)
    assert cli("fit", *smoke("moons"), *muon, *QUICK) == 0
    checkpoint = "lightning_logs/moons/version_0/checkpoints/last.ckpt"
    # In a process that has imported no more than the program does.
    run_process(server, "predict", "--ckpt_path", checkpoint, "--num_samples", 2)


def test_what_the_user_gives_wins_over_the_checkpoint(cli, capsys, bare):
    checkpoint = bare("moons")
    options = ("--model.sampler.steps_per_level", 7, "--data.noise", 0.3, "--seed_everything", 5)
    capsys.readouterr()
    assert cli("validate", "--ckpt_path", checkpoint, *options, "--print_config") == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["data"]["init_args"]["noise"] == 0.3
    assert shown["data"]["init_args"]["batch_size"] == 8
    assert shown["model"]["init_args"]["sampler"]["init_args"]["steps_per_level"] == 7
    assert shown["seed_everything"] == 5


FORGED = {
    "data": {"class_path": "evil.Data", "init_args": {}},
    "data that is a file": {"class_path": "evil.yaml"},
    "an argument of the data": {
        "class_path": "ncsn.data.MoonsDataModule",
        "init_args": {"num_points": {"class_path": "evil.Data"}},
    },
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_class_that_only_the_stored_config_names_is_not_imported(
    command, data, cli, capsys, bare, tmp_path, monkeypatch
):
    (tmp_path / "evil.py").write_text("open('pwned', 'w')")
    (tmp_path / "evil.yaml").write_text("class_path: evil.Data")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = torch.load(bare("moons"), weights_only=True)
    checkpoint["config"]["data"] = data
    torch.save(checkpoint, "forged.ckpt")
    assert cli(command, "--ckpt_path", "forged.ckpt") == 1
    assert error_line(capsys.readouterr().err).startswith("the checkpoint names evil.")
    assert not Path("pwned").exists()


def test_a_stored_config_does_not_choose_where_to_write_or_what_to_call(cli, bare, tmp_path):
    checkpoint = torch.load(bare("moons"), weights_only=True)
    config = checkpoint["config"]
    config["name"] = "../../outside"
    config["trainer"] |= {
        "default_root_dir": str(tmp_path / "elsewhere"),
        "callbacks": [{"class_path": "subprocess.Popen", "init_args": {"args": "true"}}],
        "devices": 64,
    }
    config["last"]["dirpath"] = config["best"]["dirpath"] = str(tmp_path / "elsewhere")
    torch.save(checkpoint, "forged.ckpt")
    assert cli("fit", "--ckpt_path", "forged.ckpt", "--trainer.max_epochs", 2, *QUICK) == 0
    assert Path("lightning_logs/outside/version_0/checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "elsewhere").exists()


def test_a_checkpoint_of_weights_alone_has_the_average_and_is_enough(cli, capsys):
    alone = ("--last.save_weights_only", "true", "--best.every_n_epochs", 1)
    assert cli("fit", *smoke("moons_ncsn"), *QUICK, *alone) == 0
    checkpoints = Path("lightning_logs/moons_ncsn/version_0/checkpoints")
    best, last = (
        torch.load(checkpoints / f"{name}.ckpt", weights_only=True) for name in ("best", "last")
    )
    assert "optimizer_states" not in last
    assert "current_model_state" not in last
    for name, value in best["state_dict"].items():  # of the same step
        assert torch.equal(value, last["state_dict"][name])
    checkpoint = shutil.copy(checkpoints / "last.ckpt", "alone.ckpt")
    for path in (checkpoint, checkpoints / "best.ckpt"):
        assert cli("predict", "--ckpt_path", path, "--num_samples", 4, "--name", "a") == 0
    first, second = (np.load(f"lightning_logs/a/version_{n}/samples.npz") for n in range(2))
    np.testing.assert_array_equal(first["samples"], second["samples"])
    few = ("--num_samples", 20, "--num_likelihood_examples", 2)
    assert cli("test", "--ckpt_path", checkpoint, *few) == 0
    assert cli("fit", "--ckpt_path", checkpoint) == 1
    assert "so fit cannot resume from it" in error_line(capsys.readouterr().err)


def test_a_folder_gives_the_samples_of_its_checkpoint(cli, bare, capsys):
    checkpoint = bare("moons_ncsn")
    assert cli("export", "--ckpt_path", checkpoint, "--output", "folder", "--license", "MIT") == 0
    assert "Licence: MIT" in Path("folder/README.md").read_text()
    data = json.loads(Path("folder/config.json").read_text())["data"]
    assert data["class_path"] == "ncsn.data.MoonsDataModule"  # not what stood in for it
    for path in (checkpoint, "folder"):
        assert cli("predict", "--ckpt_path", path, "--num_samples", 10, "--name", "a") == 0
    first, second = (np.load(f"lightning_logs/a/version_{n}/samples.npz") for n in range(2))
    np.testing.assert_array_equal(first["samples"], second["samples"])
    few = ("--num_samples", 20, "--num_likelihood_examples", 2)
    assert cli("test", "--ckpt_path", "folder", *few) == 0
    assert Path("lightning_logs/folder/version_0/evaluation.json").is_file()
    assert cli("fit", "--ckpt_path", "folder") == 1
    assert "fit cannot resume from it" in error_line(capsys.readouterr().err)
    assert cli("export", "--ckpt_path", "folder", "--output", "b", "--evaluation", "no") == 1
    assert "--evaluation no is not the directory" in error_line(capsys.readouterr().err)
    assert not Path("b").exists()


def test_a_folder_that_is_no_model_is_refused(cli, capsys):
    Path("empty").mkdir()
    assert cli("predict", "--ckpt_path", "empty") == 1
    assert error_line(capsys.readouterr().err) == (
        "--ckpt_path empty: empty is no folder of a model: it has no config.json"
    )


def test_a_model_of_the_package_draws_digits_without_a_training(cli, capsys):
    assert cli("predict", "--pretrained", "digits", "--num_samples", 20) == 0
    run = Path("lightning_logs/digits/version_0")
    assert (run / "samples.png").is_file()
    samples = torch.from_numpy(np.load(run / "samples.npz")["samples"])
    confidence = extract_features(load_features("digits"), samples).logits.softmax(1).amax(1)
    assert confidence.mean() > 0.7  # it is 0.89 for digits, and at least 0.1
    assert cli("predict", "--pretrained", "mnits") == 2
    assert "--pretrained" in error_line(capsys.readouterr().err)


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_model_of_the_package_is_small_and_has_a_card(name):
    files = {path.name: path.stat().st_size for path in (SHIPPED / name).iterdir()}
    assert files.keys() == {"config.json", "model.safetensors", "README.md"}
    assert sum(files.values()) < 4e6
    card = (SHIPPED / name / "README.md").read_text()
    for text in ("Licence: ", "floor", "python -m ncsn fit", "CPU"):
        assert text in card
