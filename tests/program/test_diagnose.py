"""``diagnose``: whether the network or the solver is at fault, where that is known."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from support.commands import error_line, run_process
from support.paths import CONFIGS

from ncsn.exact import TwoMoons
from ncsn.modules import DSM, NCSN
from ncsn.sampling import DPMSolver, Euler, Langevin

DATA = {
    "class_path": "ncsn.data.MoonsDataModule",
    "init_args": {"num_points": 2000, "batch_size": 100},
}


def exact(sampler, sigma=None):
    """A folder with a model whose network is the exact score of the data."""
    if sigma is None:
        ladder = {"sigma_min": 0.01, "sigma_max": 8.0, "num_levels": 12}
        module = NCSN(TwoMoons(num_points=64), sampler=sampler, **ladder)
    else:
        module = DSM(TwoMoons(num_points=64), sigma=sigma, sampler=sampler)
    module.save_pretrained("exact", data=DATA)
    return "exact"


def read(run):
    return json.loads((Path("lightning_logs") / run / "diagnosis.json").read_text())


def test_of_an_exact_score_and_a_crude_sampler_the_solver_is_at_fault(server):
    options = ("--ckpt_path", exact(Euler(4)), "--num_samples", 1000)
    output = run_process(server, "diagnose", *options)
    report = read("exact/version_0")
    assert report["about"]["fault"] == "solver"
    assert " ".join(report["about"]["verdict"].split()) in " ".join(output.split())
    assert report["about"]["verdict"].startswith("The solver: ")
    estimates = report["estimates"]
    assert list(estimates) == [
        *("the_sampler", "4_times_the_steps", "with_a_corrector", "SDE-DPM-Solver++,_100_steps"),
        *("with_the_exact_score", "excess_loss", "curl", "stein_residual"),
    ]
    assert estimates["excess_loss"]["value"] < 1e-6  # 64 midpoints an arc, and not 1024
    assert estimates["curl"]["value"] < 1e-3
    residual = estimates["stein_residual"]
    assert abs(residual["value"]) < 5 * residual["standard_error"]
    run = Path("lightning_logs/exact/version_0")
    assert [path.name for path in (run / "pictures").iterdir()] == ["diagnosis.png"]
    with (run / "levels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {"sigma", "loss", "exact", "curl", "stein_residual"} <= rows[0].keys()


def test_two_processes_find_the_same(server):
    options = ("--ckpt_path", exact(Euler(4)), "--num_samples", 200)
    run_process(server, "diagnose", *options)
    ranks = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
    run_process(server, "diagnose", *options, *ranks)
    one, two = (read(f"exact/version_{n}")["estimates"] for n in range(2))
    for name, estimate in one.items():
        assert two[name]["value"] == pytest.approx(estimate["value"], rel=1e-3, abs=1e-6)


def test_of_an_exact_score_and_a_good_sampler_neither_is(cli):
    options = ("--ckpt_path", exact(DPMSolver(60)), "--num_samples", 1000)
    assert cli("diagnose", *options) == 0
    assert read("exact/version_0")["about"]["fault"] == "neither"


def test_at_one_level_samples_are_compared_with_noised_data(cli):
    # They would be at fault, if it were the data itself that they should follow.
    options = ("--ckpt_path", exact(Langevin(0.04, 100, denoise=True), sigma=0.3))
    assert cli("diagnose", *options, "--num_samples", 500) == 0
    report = read("exact/version_0")
    assert report["about"]["fault"] == "neither", report["about"]["verdict"]
    assert report["about"]["compared_with"].startswith("data noised at 0.3")
    assert "denoise=False" in report["about"]["sampler"]
    # With large steps Langevin dynamics is biased, and a Metropolis step removes that.
    large = ("--model.sampler.epsilon", 0.39, "--num_samples", 800)
    assert cli("diagnose", "--ckpt_path", "exact", *large) == 0
    report = read("exact/version_1")
    assert report["about"]["fault"] == "solver", report["about"]["verdict"]
    assert "(with a corrector)" in report["about"]["verdict"]


def test_of_a_bad_network_and_a_good_sampler_the_network_is_at_fault(cli, trained):
    checkpoint = shutil.copy(trained("moons_ncsn") / "checkpoints/last.ckpt", "bare.ckpt")
    sampler = ("--model.sampler", "DPMSolver", "--model.sampler.num_steps", 60)
    assert cli("diagnose", "--ckpt_path", checkpoint, *sampler, "--num_samples", 500) == 0
    report = read("moons_ncsn/version_0")
    assert report["about"]["fault"] == "network"
    excess = report["estimates"]["excess_loss"]
    assert excess["value"] > 10 * excess["standard_error"]


def test_images_are_diagnosed_from_a_bare_checkpoint(cli, trained):
    checkpoint = shutil.copy(trained("digits") / "checkpoints/last.ckpt", "bare.ckpt")
    sampler = ("--model.sampler", "DPMSolver", "--model.sampler.num_steps", 10)
    assert cli("diagnose", "--ckpt_path", checkpoint, *sampler, "--num_samples", 60) == 0
    report = read("digits/version_0")
    assert report["about"]["fault"] == "network"
    assert report["estimates"]["the_sampler"]["title"].startswith(
        "DIGITS-FD, features v1, the sampler"
    )
    assert report["estimates"]["above_bracket"]["value"] > 0
    assert 0 < report["estimates"]["curl"]["value"] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "diagnose needs trained weights: give --ckpt_path CHECKPOINT"),
        (("--ckpt_path", "no.ckpt"), "no.ckpt"),
        (
            ("--pretrained", "digits", "--num_samples", 0),
            "--num_samples must be at least 1, got 0",
        ),
        (("--pretrained", "digits", "--num_samples", 3), "3 samples are too few to compare"),
    ],
)
def test_bad_input_gets_one_line(options, message, cli, capsys):
    config = () if options else ("--config", CONFIGS / "moons.yaml")
    assert cli("diagnose", *config, *options) in (1, 2)
    assert message in error_line(capsys.readouterr().err)
