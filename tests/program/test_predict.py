"""Samples from a checkpoint: ``predict``."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.commands import error_line, smoke

from ncsn.callbacks.predictions import enough_for
from ncsn.cli.commands import describe_sampler
from ncsn.evaluation.codec import to_uint8
from ncsn.evaluation.samples import read_samples
from ncsn.levels import geometric
from ncsn.modules import DSM, NCSN
from ncsn.modules.stored import check_same_data
from ncsn.networks import MLP
from ncsn.sampling import Heun

MOONS, DIGITS = smoke("moons"), smoke("digits")


def samples(run):
    """What a run has drawn."""
    return np.load(f"lightning_logs/{run}/samples.npz")["samples"]


@pytest.mark.parametrize(("config", "module"), [("moons", DSM), ("digits", NCSN)])
def test_a_checkpoint_alone_gives_the_same_samples_in_python(config, module, cli, trained):
    checkpoint = trained(config) / "checkpoints/last.ckpt"
    args = (*smoke(config), "--ckpt_path", checkpoint, "--num_samples", 10)
    assert cli("predict", *args) == 0
    drawn = module.load_from_checkpoint(checkpoint, weights_only=True).draw(0, 10)
    if config == "digits":
        drawn = to_uint8(drawn)
    np.testing.assert_array_equal(samples(f"{config}/version_0"), drawn.numpy())


def test_samples_do_not_depend_on_the_batch_size(cli, trained):
    checkpoint = trained("digits") / "checkpoints/last.ckpt"
    for batch_size in (150, 64, 7):
        args = ["--num_samples", 150, "--batch_size", batch_size, "--ckpt_path", checkpoint]
        assert cli("predict", *DIGITS, *args) == 0
    first, *others = (samples(f"digits/version_{n}") for n in range(3))
    assert first.shape == (150, 1, 8, 8)
    assert len(np.unique(first, axis=0)) == 150
    for other in others:  # rounding differs with the batch size, by a grey level at most
        assert np.abs(first.astype(int) - other.astype(int)).max() <= 1


def test_samples_are_numbered(cli, trained):
    checkpoint = trained("moons") / "checkpoints/last.ckpt"
    predict = ("predict", *MOONS, "--ckpt_path", checkpoint)
    assert cli(*predict, "--num_samples", 10) == 0
    assert cli(*predict, "--num_samples", 4, "--first_sample", 6) == 0
    whole, part = (samples(f"moons/version_{n}") for n in range(2))
    np.testing.assert_allclose(whole[6:], part, atol=1e-5)


def test_samples_are_written_as_single_pngs_on_request(cli, capsys, trained):
    predict = ("predict", *DIGITS, "--ckpt_path", trained("digits") / "checkpoints/last.ckpt")
    first = ("--num_samples", 12, "--first_sample", 5, "--png", "true")
    assert cli(*predict, *first) == 0
    run = Path("lightning_logs/digits/version_0")
    names = [path.name for path in sorted((run / "png").iterdir())]
    assert names == [f"{number:06d}.png" for number in range(5, 17)]
    assert torch.equal(
        read_samples(run / "png", (1, 8, 8)), torch.from_numpy(samples("digits/version_0"))
    )
    assert cli(*predict, "--num_samples", 1) == 0
    assert not Path("lightning_logs/digits/version_1/png").exists()
    points = ("predict", *MOONS, "--ckpt_path", trained("moons") / "checkpoints/last.ckpt")
    assert cli(*points, "--png", "true") == 1
    assert "--png is for grey or colour images" in error_line(capsys.readouterr().err)


def test_predict_takes_the_model_from_the_checkpoint_and_the_sampler_from_the_user(cli):
    assert cli("fit", *MOONS, "--model.sigma", 0.37) == 0
    run = Path("lightning_logs/moons/version_0")
    args = ("--ckpt_path", run / "checkpoints/last.ckpt", "--num_samples", 2)
    assert cli("predict", *MOONS, *args) == 0
    stored = yaml.safe_load((run.parent / "version_1/config.yaml").read_text())
    assert stored["model"]["init_args"]["sigma"] == 0.37
    # Nor do the moments of other data change the samples.
    assert cli("predict", *MOONS, *args, "--data.noise", 0.9) == 0
    np.testing.assert_array_equal(samples("moons/version_1"), samples("moons/version_2"))
    assert cli("predict", *MOONS, *args, "--model.sampler", "ncsn.sampling.Langevin") == 0
    assert not np.array_equal(samples("moons/version_1"), samples("moons/version_3"))


def test_numbers_that_are_not_finite_end_the_run_and_reach_no_file(cli, capsys, trained):
    assert cli("fit", *MOONS, "--model.optimizer.lr", "1e20") == 1
    diverging = error_line(capsys.readouterr().err)
    assert "the loss is not finite at step 1" in diverging
    assert "a lower lr of model.optimizer" in diverging
    assert not list(Path("lightning_logs/moons/version_0/checkpoints").iterdir())
    sampler = ("--model.sampler", "Langevin", "--model.sampler.num_steps", 50)
    checkpoint = trained("moons") / "checkpoints/last.ckpt"
    huge = ("--ckpt_path", checkpoint, *sampler, "--model.sampler.epsilon", "1e30")
    assert cli("predict", *MOONS, *huge) == 1
    last = error_line(capsys.readouterr().err)
    assert "samples are not finite (number 0 and 63 more)" in last
    assert not Path("lightning_logs/moons/version_1/samples.npz").exists()


def test_a_class_can_be_asked_for_and_guided(cli, capsys):
    classes = ("--model.network.num_classes", 10)
    assert cli("fit", *DIGITS, *classes, "--model.optimizer.lr", 0.05) == 0
    checkpoint = "lightning_logs/digits/version_0/checkpoints/last.ckpt"
    predict = ("predict", *DIGITS, "--ckpt_path", checkpoint, "--num_samples", 10)
    for options in ([], ["--label", 7], ["--label", 7, "--model.guidance_scale", 3]):
        assert cli(*predict, *options) == 0
    in_turn, sevens, guided = (samples(f"digits/version_{n}") for n in (1, 2, 3))
    # Sample number 7 is of class 7 in both; the others have the same noise but other classes.
    same = (in_turn == sevens).all(axis=(1, 2, 3))
    assert same[7]
    assert same.sum() == 1
    assert not (sevens == guided).all(axis=(1, 2, 3)).any()
    labels = [np.load(f"lightning_logs/digits/version_{n}/samples.npz")["labels"] for n in (1, 2)]
    np.testing.assert_array_equal(labels, [np.arange(10), np.full(10, 7)])
    assert cli(*predict, "--label", 10) == 1
    assert "has the labels 0 to 9" in error_line(capsys.readouterr().err)


def test_what_needs_an_unconditional_score_is_refused_without_one(cli, capsys):
    only_classes = ("--model.network.num_classes", 10, "--model.label_dropout", 0)
    assert cli("fit", *DIGITS, *only_classes) == 0
    predict = ("predict", "--ckpt_path", "lightning_logs/digits/version_0/checkpoints/last.ckpt")
    for args, hint in {
        (*predict, "--label", -1): "give one of 0 to 9",
        (*predict, "--model.guidance_scale", 2): "guidance_scale=2.0 needs the unconditional",
        ("diagnose", *predict[1:], "--num_samples", 20): "diagnose needs the unconditional score",
    }.items():
        assert cli(*args) == 1
        assert hint in error_line(capsys.readouterr().err)


def test_a_checkpoint_of_other_data_is_refused(cli, capsys, trained):
    checkpoint = trained("moons") / "checkpoints/last.ckpt"
    assert cli("predict", *DIGITS, "--ckpt_path", checkpoint) == 1
    assert "(2,)" in error_line(capsys.readouterr().err)


def test_a_ladder_that_auto_took_from_other_data_is_refused(cli, capsys, trained):
    checkpoint = trained("moons_ncsn") / "checkpoints/last.ckpt"
    test = ("test", "--num_samples", 20, "--num_likelihood_examples", 2, "--ckpt_path", checkpoint)
    config = smoke("moons_ncsn")
    assert cli(*test, *config) == 0
    other = ("--data.num_points", 300, "--data.seed", 3)
    assert cli(*test, *config, *other) == 1
    assert "sigma_max=auto=3.504" in error_line(capsys.readouterr().err)


def test_the_rounding_of_another_cpu_is_not_other_data():
    module = NCSN(MLP(hidden_dim=8), sigma_max="auto", data_diameter=3.504)
    check_same_data({"hyper_parameters": {"data_diameter": 3.504 * (1 + 1e-6)}}, module)
    with pytest.raises(ValueError, match=r"sigma_max=auto=3.51"):
        check_same_data({"hyper_parameters": {"data_diameter": 3.51}}, module)


def test_a_sampler_with_a_ladder_of_ones_own_is_described_alike_by_every_process():
    sampler = describe_sampler(Heun(5, ladder=geometric))
    assert sampler["init_args"]["ladder"] == "ncsn.levels.geometric"


@pytest.mark.parametrize("missing", [(3,), (0, 7), (9,), (2, 3, 4)])
def test_each_rank_gets_a_number_and_all_that_are_missing_are_drawn(missing):
    numbers = enough_for(4, torch.tensor(missing), torch.arange(10)).tolist()
    assert set(missing) <= set(numbers)
    assert len(numbers) == len(set(numbers)) == 4
    assert numbers == sorted(numbers)


def test_weights_that_an_average_replaced_are_kept_too(trained):
    checkpoint = torch.load(trained("moons") / "checkpoints/last.ckpt", weights_only=True)
    average, weights = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert average.keys() == weights.keys()
    assert not torch.equal(average["network.layers.0.weight"], weights["network.layers.0.weight"])
