"""Options that all commands share: the run's name, its logger, what is written and shown."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.commands import QUICK, error_line, smoke
from support.paths import CONFIGS

from ncsn.cli.parser import CLI

MOONS = smoke("moons")
RUN = Path("lightning_logs/moons/version_0")


def test_a_run_is_called_like_its_config_unless_it_is_given_a_name(cli, tmp_path):
    copy = tmp_path / "experiment.yaml"
    copy.write_text((CONFIGS / "moons.yaml").read_text())
    assert cli("fit", "--config", copy, *MOONS[2:], *QUICK) == 0
    stored = Path("lightning_logs/experiment/version_0/config.yaml")
    assert yaml.safe_load(stored.read_text())["name"] == "experiment"
    # A stored config keeps the name.
    assert cli("fit", "--config", stored) == 0
    assert Path("lightning_logs/experiment/version_1/config.yaml").is_file()
    for config, name in ((copy, "one"), (stored, "other")):
        assert cli("fit", "--config", config, *MOONS[2:], *QUICK, "--name", name) == 0
        assert Path(f"lightning_logs/{name}/version_0/metrics.csv").is_file()


def test_loggers_get_the_name_of_the_run_except_those_that_have_one_and_wandb():
    added = ("--trainer.logger+", "CSVLogger", "--trainer.logger.save_dir", "elsewhere")
    args = [*MOONS, *added, "--trainer.logger.name", "own", "--name", "mine"]
    assert [each.init_args.name for each in CLI(list(map(str, args))).loggers()] == [
        "mine",
        None,  # it is called like the directory, which is not known yet
        "own",
    ]


def test_a_logger_can_be_added_to_the_default_ones(cli):
    added = ("--trainer.logger+", "CSVLogger", "--trainer.logger.save_dir", "elsewhere")
    assert cli("fit", *MOONS, *QUICK, *added) == 0
    stored = yaml.safe_load((RUN / "config.yaml").read_text())
    kinds = [logger["class_path"].split(".")[-1] for logger in stored["trainer"]["logger"]]
    assert kinds == ["RunLogger", "WandbLogger", "RunLogger"]
    (metrics,) = Path("elsewhere").rglob("metrics.csv")
    assert metrics.read_text() == (RUN / "metrics.csv").read_text()


def test_without_a_logger_a_run_leaves_no_config_behind_and_can_be_repeated(cli):
    for _ in range(2):
        assert cli("fit", *MOONS, "--trainer.logger", "false") == 0
    assert not list(Path().iterdir())
    own = ("--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.dirpath", "own")
    for option in (("--last.dirpath", "here"), own):
        assert cli("fit", *MOONS, "--trainer.logger", "false", *option) == 0
    assert sorted(str(path) for path in Path().rglob("*.*")) == [
        "here/last.ckpt",
        "own/epoch=0-step=2.ckpt",
    ]


def test_a_training_that_is_shorter_than_the_first_validation_has_one_at_its_end(cli, caplog):
    epochs = ("--trainer.check_val_every_n_epoch", 10, "--trainer.max_epochs", 2)
    assert cli("fit", *MOONS, *QUICK, *epochs) == 0
    assert "validation after epoch 2, the last, instead of after 10" in caplog.text
    assert (RUN / "checkpoints/best.ckpt").is_file()
    with (RUN / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/loss_per_dim"]]
    assert [row["epoch"] for row in rows] == ["1"]


@pytest.mark.parametrize(
    "option",
    ["enable_progress_bar=false", "enable_checkpointing=false", "enable_model_summary=false"],
)
def test_what_a_run_shows_and_writes_can_be_switched_off(option, cli, capsys):
    assert cli("fit", *MOONS, "--model.preview.every_n_epochs", 0, f"--trainer.{option}") == 0
    output = "".join(capsys.readouterr())
    assert ("Epoch 0/0" in output) == ("progress_bar" not in option)
    assert ("Trainable params" in output) == ("summary" not in option)
    assert (RUN / "checkpoints").exists() == ("checkpointing" not in option)
    assert (RUN / "metrics.csv").is_file()


@pytest.mark.parametrize("option", ["barebones", "fast_dev_run"])
def test_a_run_that_only_tries_the_code_writes_nothing(option, cli):
    assert cli("fit", *MOONS, f"--trainer.{option}", "true") == 0
    assert not list(Path().iterdir())


def test_the_seed_decides_everything_and_a_second_fit_overwrites_nothing(cli):
    for _ in range(2):
        assert cli("fit", *MOONS) == 0
    assert cli("fit", *MOONS, "--seed_everything", 1) == 0
    runs = [RUN.parent / f"version_{n}" for n in range(3)]
    weights = [
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in runs
    ]
    name = "network.layers.0.weight"
    assert torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[0][name], weights[2][name])
    pictures = [(run / "pictures/samples.png").read_bytes() for run in runs]
    assert pictures[0] == pictures[1] != pictures[2]


def test_the_objective_is_an_option(cli):
    weights = []
    for name in ("denoising", "implicit", "sliced"):
        objective = f"ncsn.objectives.{name}_score_matching"
        assert cli("fit", *MOONS, *QUICK, "--model.objective", objective, "--name", name) == 0
        path = f"lightning_logs/{name}/version_0/checkpoints/last.ckpt"
        state = torch.load(path, weights_only=True)["state_dict"]
        weights.append(state["network.layers.0.weight"].numpy())
    assert len(np.unique(weights, axis=0)) == 3


def test_the_ladder_is_an_option(cli):
    ladder = ("--model.ladder", "ncsn.levels.Rho", "--model.ladder.rho", 7)
    assert cli("fit", *smoke("moons_ncsn"), *QUICK, *ladder) == 0
    run = Path("lightning_logs/moons_ncsn/version_0")
    header = (run / "metrics.csv").read_text().splitlines()[0]
    levels = [float(name.split("=")[1]) for name in header.split(",") if "sigma=" in name]
    steps = np.diff(np.sort(levels) ** (1 / 7))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-2)  # printed with 4 digits
    args = ("--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt")
    assert cli("predict", *args, "--num_samples", 2) == 0


def test_mixed_precision_and_gradient_clipping_go_together(cli):
    precision = ("--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", 1)
    assert cli("fit", *smoke("digits"), *precision) == 0


def test_a_ladder_of_a_list_is_an_option_and_is_refused_for_another_number_of_levels(cli, capsys):
    listed = ("--model.sampler", "DPMSolver", "--model.sampler.ladder", "ncsn.levels.Listed")
    listed = (*listed, "--model.sampler.ladder.levels", "[10, 1.473, 0.7508, 0.2521, 0.02]")
    predict = ("predict", "--pretrained", "digits", "--num_samples", 2, *listed)
    assert cli(*predict, "--model.sampler.num_steps", 5) == 0
    assert cli(*predict, "--model.sampler.num_steps", 6) == 1
    line = error_line(capsys.readouterr().err)
    assert "lists 5 noise levels, and 6 are wanted: set num_steps=5" in line


@pytest.mark.parametrize(
    "options", [("SASolver",), ("IPNDM", "--model.sampler.ladder", "ncsn.levels.Rho")]
)
def test_a_sampler_of_few_evaluations_is_named_on_the_command_line(options, cli):
    steps = ("--model.sampler.num_steps", 5)
    predict = ("predict", "--pretrained", "digits", "--num_samples", 2)
    assert cli(*predict, "--model.sampler", *options, *steps) == 0
