"""The command line, as a user types it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import CONFIGS, OVERLAYS, ROOT, run_process

from ncsn.modules import DSM, NCSN

EXPERIMENTS = sorted(path.name for path in CONFIGS.glob("*.yaml"))
SMOKE = ("--config", OVERLAYS / "smoke.yaml")
DIGITS = ("--config", CONFIGS / "digits.yaml", *SMOKE)
MOONS = ("--config", CONFIGS / "moons.yaml", *SMOKE)
RUN = Path("lightning_logs/moons/version_0")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("mnist_") else ())
        for name in EXPERIMENTS
    ],
)
def test_every_config_runs_through_fit_and_test(config, cli, request):
    options = []
    if config.startswith("mnist"):
        options += ["--data.data_dir", request.getfixturevalue("mnist_dir")]
    if config == "mnist.yaml":
        options += ["--model.network.filters", 8]  # the whole network takes half a minute
    assert cli("fit", "--config", CONFIGS / config, *SMOKE, *options) == 0
    (run,) = Path("lightning_logs").glob("*/version_0")
    pictures = {path.name for path in (run / "pictures").iterdir()}
    expected = {"samples.png", "samples_step=0000002.png", "losses.png"}
    kind = {"score.png"} if "moons" in config else {"data.png", "annealing.png", "annealing.gif"}
    assert expected | kind <= pictures
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert "val/loss" in (run / "metrics.csv").read_text()
    # The stored config is enough to evaluate the stored weights.
    checkpoint = run / "checkpoints/best.ckpt"
    args = ["--config", run / "config.yaml", "--ckpt_path", checkpoint]
    assert cli("test", *args, "--num_samples", 20, "--num_likelihood_examples", 2) == 0
    assert cli("predict", *args, "--num_samples", 10) == 0


@pytest.mark.parametrize("overlay", sorted(path.name for path in OVERLAYS.glob("*.yaml")))
def test_every_overlay_fits_every_config(overlay, cli, capsys):
    for config in EXPERIMENTS:
        args = ["--config", CONFIGS / config, "--config", OVERLAYS / overlay, "--print_config"]
        assert cli("fit", *args) == 0
        merged = yaml.safe_load(capsys.readouterr().out)
        overrides = yaml.safe_load((OVERLAYS / overlay).read_text())["trainer"]
        for key, value in overrides.items():
            if key != "logger":
                assert merged["trainer"][key] == value


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


@pytest.mark.parametrize(("config", "module"), [(MOONS, DSM), (DIGITS, NCSN)])
def test_checkpoint_round_trip(config, module, cli):
    assert cli("fit", *config) == 0
    (run,) = Path("lightning_logs").glob("*/version_0")
    checkpoint = run / "checkpoints/last.ckpt"
    loaded = module.load_from_checkpoint(checkpoint, weights_only=True)
    assert cli("predict", *config, "--ckpt_path", checkpoint, "--num_samples", 10) == 0
    samples = np.load(run.parent / "version_1/samples.npz")["samples"]
    drawn = loaded.sample(10, generator=loaded.sample_generator(0, 10))
    if samples.dtype == np.uint8:
        from ncsn.plots import to_uint8

        drawn = to_uint8(drawn)
    np.testing.assert_array_equal(samples, drawn.numpy())


@pytest.mark.slow
def test_samples_do_not_depend_on_the_batch_size(cli):
    assert cli("fit", *DIGITS) == 0
    checkpoint = "lightning_logs/digits/version_0/checkpoints/last.ckpt"
    for batch_size in (150, 64, 7):
        args = ["--num_samples", 150, "--batch_size", batch_size, "--ckpt_path", checkpoint]
        assert cli("predict", *DIGITS, *args) == 0
    first, *others = (
        np.load(f"lightning_logs/digits/version_{n}/samples.npz")["samples"] for n in (1, 2, 3)
    )
    assert first.shape == (150, 1, 8, 8)
    assert len(np.unique(first, axis=0)) == 150
    for other in others:  # rounding differs with the batch size, by a grey level at the most
        assert np.abs(first.astype(int) - other.astype(int)).max() <= 1


def test_predict_uses_the_models_settings_from_the_checkpoint(cli):
    assert cli("fit", *MOONS, "--model.sigma", 0.37) == 0
    checkpoint = RUN / "checkpoints/last.ckpt"
    assert cli("predict", *MOONS, "--ckpt_path", checkpoint, "--num_samples", 2) == 0
    stored = yaml.safe_load((RUN.parent / "version_1/config.yaml").read_text())
    assert stored["model"]["init_args"]["sigma"] == 0.37
    # Nor do the moments of other data change the samples.
    args = ["--ckpt_path", checkpoint, "--num_samples", 2, "--data.noise", 0.9]
    assert cli("predict", *MOONS, *args) == 0
    first, second = (np.load(RUN.parent / f"version_{n}/samples.npz")["samples"] for n in (1, 2))
    np.testing.assert_array_equal(first, second)
    # The sampler is the user's.
    assert cli("predict", *MOONS, *args, "--model.sampler", "ncsn.sampling.Langevin") == 0
    third = np.load(RUN.parent / "version_3/samples.npz")["samples"]
    assert not np.array_equal(first, third)


def test_numbers_that_are_not_finite_end_the_run_and_reach_no_file(cli, capsys):
    assert cli("fit", *MOONS) == 0
    checkpoint = RUN / "checkpoints/last.ckpt"

    def last_line(*args):
        assert cli(*args) == 1
        *_, last = capsys.readouterr().err.strip().splitlines()
        return last

    diverging = last_line("fit", *MOONS, "--model.optimizer.lr", "1e20")
    assert "the loss is not finite at step 1" in diverging
    assert "a lower lr of model.optimizer" in diverging
    assert not Path("lightning_logs/moons/version_1/checkpoints").exists()
    sampler = ("--model.sampler", "Langevin", "--model.sampler.num_steps", 50)
    huge = ("--ckpt_path", checkpoint, *sampler, "--model.sampler.step_size", "1e30")
    assert "samples are not finite (number 0 and 63 more)" in last_line("predict", *MOONS, *huge)
    assert not Path("lightning_logs/moons/version_2/samples.npz").exists()


def test_classes_are_asked_for_and_guided_from_the_command_line(cli):
    classes = ("--model.network.num_classes", 10)
    assert cli("fit", *DIGITS, *classes) == 0
    checkpoint = "lightning_logs/digits/version_0/checkpoints/last.ckpt"
    predict = ("predict", *DIGITS, "--ckpt_path", checkpoint, "--num_samples", 10)
    for options in ([], ["--label", 7], ["--label", 7, "--model.guidance_scale", 3]):
        assert cli(*predict, *options) == 0
    in_turn, sevens, guided = (
        np.load(f"lightning_logs/digits/version_{n}/samples.npz")["samples"] for n in (1, 2, 3)
    )
    # Sample number 7 is of class 7 in both; most others have the same noise but other classes.
    same = (in_turn == sevens).all(axis=(1, 2, 3))
    assert same[7]
    assert same.sum() < 5
    assert (sevens == guided).all(axis=(1, 2, 3)).sum() < 5
    assert cli(*predict, "--label", 10) == 1


def test_the_objective_is_chosen_from_the_command_line(cli):
    objectives = [f"ncsn.objectives.{name}_score_matching" for name in ("implicit", "sliced")]
    weights = []
    for n, objective in enumerate(objectives):
        assert cli("fit", *MOONS, "--model.objective", objective) == 0
        path = RUN.parent / f"version_{n}/checkpoints/last.ckpt"
        weights.append(torch.load(path, weights_only=True)["state_dict"])
    name = "network.layers.0.weight"
    assert not torch.equal(weights[0][name], weights[1][name])


def test_mixed_precision_and_gradient_clipping_go_together(cli):
    precision = ["--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", 1]
    assert cli("fit", *DIGITS, *precision) == 0


def test_a_checkpoint_of_other_data_is_refused(cli, capsys):
    assert cli("fit", *MOONS) == 0
    assert cli("predict", *DIGITS, "--ckpt_path", RUN / "checkpoints/last.ckpt") == 1
    assert "(2,)" in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_ladder_that_auto_took_from_other_data_is_refused(cli, capsys):
    config = ("--config", CONFIGS / "moons_ncsn.yaml", *SMOKE)
    assert cli("fit", *config) == 0
    checkpoint = "lightning_logs/moons_ncsn/version_0/checkpoints/last.ckpt"
    test = ("test", "--num_samples", 20, "--num_likelihood_examples", 2, "--ckpt_path", checkpoint)
    assert cli(*test, *config) == 0
    other = ("--data.num_points", 300, "--data.seed", 3)
    assert cli(*test, *config, *other) == 1
    assert "sigma_max=auto=3.504" in capsys.readouterr().err.strip().splitlines()[-1]


def test_resumed_training_goes_on_where_it_stopped(cli):
    assert cli("fit", *MOONS) == 0
    args = ["--ckpt_path", RUN / "checkpoints/last.ckpt", "--trainer.max_epochs", 2]
    assert cli("fit", *MOONS, *args) == 0
    resumed = torch.load(RUN.parent / "version_1/checkpoints/last.ckpt", weights_only=True)
    assert (resumed["epoch"], resumed["global_step"]) == (1, 4)
    losses = next(state["losses"] for key, state in resumed["callbacks"].items() if "Sam" in key)
    assert [epoch for epoch, _ in losses["validation"]] == [1, 2]  # the whole curve
    assert cli("fit", *MOONS, "--trainer.max_epochs", 2) == 0
    straight = torch.load(RUN.parent / "version_2/checkpoints/last.ckpt", weights_only=True)
    for weights in ("state_dict", "current_model_state"):  # averaged, and as trained
        for name, value in straight[weights].items():
            assert torch.equal(value, resumed[weights][name]), name


def test_a_resumed_training_keeps_its_schedule(cli, capsys):
    assert cli("fit", *MOONS) == 0
    more = ("--ckpt_path", "last", "--trainer.max_epochs", 2)
    for option, before in {
        (
            "--model.lr_scheduler",
            "null",
        ): "lr_scheduler.class_path=torch.optim.lr_scheduler.StepLR",
        ("--model.lr_scheduler.gamma", "0.5"): "lr_scheduler.gamma=0.95, and the config has 0.5",
        ("--model.optimizer.lr", "1e-6"): "optimizer.lr=0.005, and the config has 1e-06",
        ("--model.optimizer", "SGD"): "optimizer.class_path=torch.optim.Adam",
        ("--model.sigma", "0.5"): "sigma=0.1, and the config has 0.5",
        ("--model.network.hidden_dim", "8"): "network.hidden_dim=128, and the config has 8",
    }.items():
        assert cli("fit", *MOONS, *more, *option) == 1
        *_, last = capsys.readouterr().err.strip().splitlines()
        assert f"the checkpoint was trained with model.{before}" in last
    assert cli("fit", *MOONS, *more) == 0
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]  # in its directory


def test_losses_of_a_resumed_run_are_those_of_its_epochs(cli):
    every_other = ("--trainer.check_val_every_n_epoch", 2, "--trainer.max_epochs")
    assert cli("fit", *MOONS, *every_other, 2) == 0
    checkpoint = RUN / "checkpoints/last.ckpt"  # written before the end of the second epoch
    assert cli("fit", *MOONS, *every_other, 4, "--ckpt_path", checkpoint) == 0
    resumed = torch.load(RUN.parent / "version_1/checkpoints/last.ckpt", weights_only=True)
    losses = next(state["losses"] for key, state in resumed["callbacks"].items() if "Sam" in key)
    assert all(np.isfinite(loss) for _, loss in losses["train"])
    assert "nan" not in (RUN.parent / "version_1/metrics.csv").read_text()


MISTAKES = {
    "a ladder's sampler on one level": (
        ["fit", *MOONS, "--model.sampler", "Heun"],
        "use Langevin",
    ),
    "negative sigma": (["fit", *MOONS, "--model.sigma", "-1"], "-1 does not conform"),
    "not a number": (["fit", *MOONS, "--model.sigma", "a"], "'a'"),
    "no levels": (["fit", *DIGITS, "--model.num_levels", "0"], "num_levels"),
    "crossed levels": (
        ["fit", *DIGITS, "--model.sigma_min", "50"],
        "sigma_min=50.0 and sigma_max=10.0",
    ),
    "impossible network": (["fit", *DIGITS, "--model.network.filters", "12"], "multiple of 8"),
    "abbreviation": (["fit", *MOONS, "--trainer.max_epoch", "2"], "--trainer.max_epoch"),
    "unknown option": (["fit", *MOONS, "--model.sgima", "2"], "sgima"),
    "unknown class": (["fit", *MOONS, "--model.network", "UNett"], "UNett"),
    "missing config": (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
    "missing checkpoint": (["fit", *MOONS, "--ckpt_path", "no.ckpt"], "no.ckpt"),
    "checkpoint by URL": (["fit", *MOONS, "--ckpt_path", "http://x.org/a.ckpt"], "not a file"),
    "last of none": (["test", *MOONS, "--ckpt_path", "last"], "no run in lightning_logs/moons"),
    "predict untrained": (["predict", *MOONS], "--ckpt_path"),
    "no samples": (["predict", *MOONS, "--num_samples", "0"], "num_samples"),
    "huge batch": (["fit", *MOONS, "--data.batch_size", "5000"], "4000 training examples"),
    "no accelerator": (["fit", *DIGITS, "--trainer.accelerator", "gpu"], "gpu"),
    "learning rate": (["fit", *MOONS, "--model.optimizer.lr", "-1"], "learning rate: -1"),
    "wrong network": (["fit", *DIGITS, "--model.network", "ncsn.networks.MLP"], "(1, 8, 8)"),
    "nothing held out": (["fit", *MOONS, "--data.val_fraction", "1e-9"], "val_fraction"),
    "not a checkpoint": (["test", *MOONS, "--ckpt_path", __file__], "is not a checkpoint"),
    "nothing to compare": (["compare"], "runs"),
    "unknown command": (["sample"], "'sample'"),
    "nothing": ([], "subcommand"),
}


@pytest.mark.parametrize(("args", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_line_that_names_it(args, hint, cli, capsys):
    assert cli(*args) in (1, 2)
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("error: ")
    assert hint.lower() in last.lower()


def test_a_mistake_in_a_process_has_no_traceback(tmp_path):
    args = ["--config", CONFIGS / "mnist.yaml", "--data.data_dir", tmp_path / "empty"]
    result = run_process("fit", *args, *SMOKE, check=False, http_proxy="http://127.0.0.1:9")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "--data.data_dir" in result.stderr.strip().splitlines()[-1]


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
def test_a_mistake_in_a_class_of_the_users_own_shows_where_it_is(tmp_path, name, error):
    (tmp_path / "ncsn_mine.py").write_text(OWN)
    args = ["--config", CONFIGS / "moons.yaml", "--model.network", f"ncsn_mine.{name}"]
    path = f"{ROOT}:{tmp_path}"
    result = run_process("fit", *args, *SMOKE, check=False, PYTHONPATH=path)
    assert result.returncode == 1
    assert "ncsn_mine.py" in result.stderr
    assert error in result.stderr.strip().splitlines()[-1]


PAGE_FAULTS = """
import resource, sys, torch
from ncsn.cli import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for i in range(12):
    torch.ones(2**24)
    if i == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_of_freed_tensors_is_used_again():
    def page_faults(mode):
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PAGE_FAULTS, mode]
        return int(subprocess.run(command, env=env, capture_output=True, check=True).stdout)

    assert page_faults("keep") < 0.1 * page_faults("as it is")


def test_configs_are_short_and_name_one_experiment_each():
    for config in EXPERIMENTS:
        text = (CONFIGS / config).read_text()
        assert f"configs/{config}" in text  # the command that runs it
        assert len(text.splitlines()) <= 70


def test_the_classes_of_ones_own_in_the_readme_train_and_sample(tmp_path):
    readme = (ROOT / "README.md").read_text()
    source = readme.split("```python\n# my_module.py\n")[1].split("```")[0]
    (tmp_path / "my_module.py").write_text(source)
    own = ("--model.network", "my_module.MyNetwork", "--model.sampler", "my_module.MySampler")
    args = ("fit", "--config", CONFIGS / "moons_ncsn.yaml", *SMOKE, *own)
    run_process(*args, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert Path("lightning_logs/moons_ncsn/version_0/pictures/samples.png").is_file()


def test_readme_names_only_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    for word in readme.replace("(", " ").replace(")", " ").replace("`", " ").split():
        if word.startswith(("configs/", "docs/", "ncsn/", "tests/")) and "*" not in word:
            assert (ROOT / word.rstrip(".,:;")).exists(), word
