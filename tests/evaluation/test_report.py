"""The commands ``test`` and ``compare``: the files they write, and what they refuse."""

import csv
import json
import re
import shutil
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from matplotlib.colors import to_hex
from support.paths import CONFIGS, SMOKE

from ncsn import plots
from ncsn.callbacks import TestReport
from ncsn.data.base import InMemoryDataModule, TensorBatches
from ncsn.evaluation import Estimate, Report
from ncsn.modules import NCSN
from ncsn.networks import MLP
from ncsn.sampling import Euler

DIGITS = ("--config", CONFIGS / "digits.yaml", *SMOKE)
MOONS = ("--config", CONFIGS / "moons_ncsn.yaml", *SMOKE)
FEW = ("--num_samples", 60, "--num_likelihood_examples", 4)


def read(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def read_report(run):
    return json.loads((run / "evaluation.json").read_text())


@pytest.fixture
def fitted(trained):
    """``fitted(config)``: a run of this config, in this test's own directory."""

    def copy(config):
        return Path(shutil.copytree(trained(config), f"lightning_logs/{config}/version_0"))

    return copy


# ---- test ----


def test_test_writes_a_report(cli, capsys, fitted):
    checkpoint = fitted("moons_ncsn") / "checkpoints/last.ckpt"
    assert cli("test", *MOONS, *FEW, "--ckpt_path", checkpoint, "--model.sampler", "Euler") == 0
    assert "sliced Wasserstein-2" in capsys.readouterr().out
    run = Path("lightning_logs/moons_ncsn/version_1")
    report = read_report(run)
    expected = ["nll", "excess_nll", "sliced_wasserstein", "energy_distance", "mmd", "excess_loss"]
    assert list(report["estimates"]) == expected
    assert report["about"]["num_samples"] == 60
    assert report["about"]["checkpoint"].endswith("version_0/checkpoints/last.ckpt")
    assert report["about"]["sampler"].startswith("Euler(")
    assert [row["name"] for row in read(run / "estimates.csv")] == expected
    assert len(read(run / "levels.csv")) == len(report["levels"]) == 20
    logged = {name: value for row in read(run / "metrics.csv") for name, value in row.items()}
    for name, estimate in report["estimates"].items():
        assert float(logged[f"test/{name}"]) == pytest.approx(estimate["value"], rel=1e-4)
        assert float(logged[f"test/{name}_floor"]) == pytest.approx(estimate["floor"], rel=1e-4)
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert pictures == {"samples.png", "fields.png", "levels.png"}


def test_a_diverging_sampler_is_named(cli, capsys, fitted):
    checkpoint = fitted("moons_ncsn") / "checkpoints/last.ckpt"
    sampler = ("--model.sampler.steps_per_level", 50, "--model.sampler.epsilon", 1e9)
    assert cli("test", *MOONS, *FEW, *sampler, "--ckpt_path", checkpoint) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "60 samples are not finite" in last


def test_images_are_compared_in_training_and_a_checkpoint_is_chosen_by_it(cli):
    best = ("--best.monitor=val/digits_fd_v1", "--best.filename=nearest")
    # Previews at epochs 1 and 3; at epoch 2 the ModelCheckpoint sees the estimate of the first.
    epochs = ("--trainer.max_epochs=3", "--model.preview.every_n_epochs=3")
    assert cli("fit", *DIGITS, *best, *epochs) == 0
    run = Path("lightning_logs/digits/version_0")
    rows = [row for row in read(run / "metrics.csv") if row.get("val/digits_fd_v1")]
    assert [row["epoch"] for row in rows] == ["0", "2"]
    values = [float(row["val/digits_fd_v1"]) for row in rows]
    assert all(value > 0 for value in values)
    checkpoint = torch.load(run / "checkpoints/nearest.ckpt", weights_only=True)
    assert checkpoint["epoch"] == (2 if values[1] < values[0] else 0)


def test_a_test_of_images_reports_distances_in_features(cli, fitted):
    checkpoint = fitted("digits") / "checkpoints/best.ckpt"
    assert cli("test", *DIGITS, *FEW, "--ckpt_path", checkpoint) == 0
    run = Path("lightning_logs/digits/version_1")
    estimates = read_report(run)["estimates"]
    assert {"digits_fd_v1", "digits_kd_v1", "precision", "memorisation_rate"} <= set(estimates)
    assert estimates["digits_fd_v1"]["title"] == "DIGITS-FD, features v1"
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert pictures == {"samples.png", "levels.png", "neighbours.png", "classes.png"}


class Space(InMemoryDataModule):
    """Points in three dimensions, of an unknown density."""

    data_shape, data_mean, data_std, data_diameter = (3,), 0.0, 1.0, 8.0

    def load_splits(self):
        parts = torch.randn(120, 3).split(40)
        return {
            name: TensorBatches(part, torch.zeros(40))
            for name, part in zip(("train", "val", "test"), parts, strict=True)
        }


def test_points_in_space_are_trained_on_and_evaluated_without_pictures_of_them():
    module = NCSN(MLP(3, hidden_dim=8), data_shape=(3,), sampler=Euler(num_steps=5))
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[TestReport(num_likelihood_examples=4)],
        logger=CSVLogger(".", name=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    data = Space(batch_size=20)
    trainer.fit(module, datamodule=data)
    assert "val/sliced_wasserstein" in trainer.callback_metrics
    trainer.test(module, datamodule=data, verbose=False)
    run = Path("version_0")
    report = read_report(run)
    assert list(report["estimates"]) == ["nll", "sliced_wasserstein", "energy_distance", "mmd"]
    assert report["about"]["num_samples"] == 40  # as many as there are test points
    assert {path.name for path in (run / "pictures").iterdir()} == {"losses.png"}


# ---- the report ----


def test_a_report_survives_being_written_and_read(tmp_path):
    estimate = Estimate("a distance", 0.5, 0.1, None, None, "lower")
    levels = [{"sigma": 1.0, "loss": 0.25}]
    report = Report({"checkpoint": "a.ckpt", "time": "2026"}, {"distance": estimate}, levels)
    report.write(tmp_path)
    assert Report.read(tmp_path) == report


@pytest.mark.parametrize("content", ["{", "{}", '{"estimates": {"a": {}}}', "[]"])
def test_a_damaged_report_is_named(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(ValueError, match=r"evaluation.json is damaged .* run the test again"):
        Report.read(tmp_path)


# ---- compare ----


def write_test(run, of, value, time):
    """A test of a checkpoint of another run, without sampling."""
    estimate = Estimate("squared MMD", value, 0.1, 0.2, 0.05, "lower")
    about = {"checkpoint": str(of / "checkpoints/last.ckpt"), "time": time}
    Report(about, {"mmd": estimate}, []).write(run)


def test_compare_puts_runs_side_by_side(cli, capsys, fitted):
    fit = fitted("moons_ncsn")
    first, second = (fit.parent / f"version_{n}" for n in (1, 2))
    write_test(first, fit, 0.75, "2026-01-01T10:00:00")
    write_test(second, fit, 0.25, "2026-01-01T09:00:00")
    # A fit comes with its latest test, and a test with the curves of its fit.
    assert cli("compare", fit, second) == 0
    table = capsys.readouterr().out
    assert "squared MMD" in table
    assert "0.75 ± 0.10" in table
    rows = read("lightning_logs/comparison/comparison.csv")
    assert [(row["run"], row["value"]) for row in rows] == [
        ("moons_ncsn/version_0", "0.75"),
        ("moons_ncsn/version_2", "0.25"),
    ]
    assert Path("lightning_logs/comparison/comparison.png").is_file()


def test_compare_names_runs_that_were_not_tested_and_directories_that_are_no_runs(
    cli, capsys, fitted
):
    assert cli("compare", fitted("moons_ncsn"), "--output", "elsewhere") == 0
    assert "version_0 was not evaluated" in capsys.readouterr().out.replace("\n", "")
    assert Path("elsewhere/comparison.png").is_file()
    assert cli("compare", "lightning_logs") == 1
    assert "is not a run" in capsys.readouterr().err


def write_fit(run, metrics):
    """A fit of one epoch, without training."""
    run.mkdir(parents=True)
    with (run / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "step", *metrics])
        writer.writeheader()
        writer.writerows({"epoch": epoch, "step": epoch, **metrics} for epoch in (0, 1))
    return run


LOSS = {"val/loss_per_dim": 0.5}


def test_compare_says_that_a_run_has_no_validation(cli, capsys, tmp_path):
    run = write_fit(tmp_path / "a/version_0", {"train/loss_per_dim": 1.0})
    assert cli("compare", run) == 1
    error = capsys.readouterr().err
    assert "metrics.csv has no validation" in error
    assert "not a run" not in error


def test_compare_gives_runs_different_names_that_are_shown_whole(cli, capsys, tmp_path):
    long = "a_rather_long_name_of_an_experiment"
    runs = [write_fit(tmp_path / part / long / "version_0", LOSS) for part in "abc"]
    for i, run in enumerate(runs):
        write_test(run.parent / "version_1", run, i, "2026-01-01T10:00:00")
    assert cli("compare", *runs, runs[0]) == 0
    rows = read("lightning_logs/comparison/comparison.csv")
    assert [row["run"] for row in rows] == [f"{part}/{long}/version_0" for part in "abc"]
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    head = next(i for i, line in enumerate(lines) if "───" in line)
    columns: dict[int, str] = {}  # a name that is too long goes on below, in its column
    for line in lines[1:head]:
        for cell in re.finditer(r"\S+", line):
            columns[cell.start()] = columns.get(cell.start(), "") + cell.group()
    assert [columns[start] for start in sorted(columns)][1:-1] == [row["run"] for row in rows]


def test_compare_leaves_out_a_damaged_test_of_another_run(cli, capsys, tmp_path):
    run = write_fit(tmp_path / "a/version_0", LOSS)
    for i, content in enumerate(("{", '{"about": {}, "estimates": {}, "levels": []}', "")):
        sibling = tmp_path / f"a/damaged_{i}"
        sibling.mkdir()
        (sibling / "evaluation.json").write_text(content)
    write_test(tmp_path / "a/version_1", run, 0.75, "2026-01-01T10:00:00")
    with pytest.warns(UserWarning, match="left out"):
        assert cli("compare", run) == 0
    assert "0.75" in capsys.readouterr().out


def test_a_run_has_one_colour_in_all_panels():
    curve = [(1, 1.0), (2, 0.5)]
    levels = [{"sigma": 1.0, "loss": 0.25, "loss_standard_error": 0.1}]
    figure = plots.plot_comparison(
        {"a": {"x": curve, "y": curve}, "b": {"y": curve}}, {"y": levels}
    )
    colours = {
        to_hex(line.get_color())
        for axes in figure.axes
        for line, text in zip(*axes.get_legend_handles_labels(), strict=True)
        if text.startswith("y")
        for line in [getattr(line, "lines", [line])[0]]
    }
    assert len(colours) == 1
