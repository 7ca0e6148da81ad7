"""A mistake on the command line gets one line that names it."""

import shutil
from pathlib import Path

import pytest
from support.commands import error_line, run_process, smoke

from ncsn.cli.messages import repeated_key

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
    "a logger without its package": (
        ["fit", *MOONS, "--trainer.logger+", "MLFlowLogger"],
        "MLFlowLogger': Requirement 'mlflow",
    ),
    "unknown class": (["fit", *MOONS, "--model.network", "UNett"], "UNett"),
    "sharded weights": (["fit", *MOONS, "--trainer.strategy", "fsdp"], "trainer.strategy ddp"),
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
    "a datamodule that is no InMemoryDataModule": (
        ["fit", *MOONS, "--data", "lightning.pytorch.demos.boring_classes.BoringDataModule"],
        "BoringDataModule: it is not a subclass of InMemoryDataModule",
    ),
    "channels of other data": (
        ["fit", *DIGITS, "--model.network.channels", "3"],
        "--model.network.channels 3: the data has 1, so leave it out",
    ),
    "mean of other data": (
        ["fit", *MOONS, "--model.data_mean", "0.5"],
        "--model.data_mean 0.5: the data has 0.37",
    ),
    "nothing held out": (["fit", *MOONS, "--data.val_fraction", "1e-9"], "val_fraction"),
    "not a checkpoint": (["test", *MOONS, "--ckpt_path", __file__], "is not a checkpoint"),
    "nothing to compare": (["compare"], "runs"),
    "no run to compare": (["compare", "nowhere"], "nowhere"),
    "features without a command": (["features"], "fit"),
    "features with an unknown command": (["features", "fitt"], "fitt"),
    "unknown command": (["sample"], "'sample'"),
    "nothing": ([], "COMMAND"),
    "seed": (["fit", *MOONS, "--seed_everything", "-1"], "from 0 to 2**32 - 1, got -1"),
    "accumulating nothing": (
        ["fit", *MOONS, "--trainer.accumulate_grad_batches", "-1"],
        "trainer.accumulate_grad_batches must be at least 1, got -1",
    ),
    "clipping at less than nothing": (
        ["fit", *MOONS, "--trainer.gradient_clip_val", "-1"],
        "trainer.gradient_clip_val must be at least 0, got -1",
    ),
    "two models": (
        ["predict", "--pretrained", "digits", "--ckpt_path", "some.ckpt"],
        "both name a model",
    ),
    "another level than the model's": (
        ["predict", "--pretrained", "digits", "--model.sigma_min", "5"],
        "--model.sigma_min 5.0 has no effect",
    ),
    "another network than the model's": (
        ["test", "--pretrained", "digits", "--model.network.filters", "64"],
        "--model.network.filters 64 has no effect",
    ),
    "a config of another model": (
        ["predict", *MOONS, "--pretrained", "digits"],
        "the checkpoint is of NCSN, for data of shape (1, 8, 8), and the config of DSM",
    ),
    "guidance without classes": (
        ["predict", "--pretrained", "digits", "--model.guidance_scale", "3"],
        "--model.guidance_scale 3.0 needs a class-conditional model",
    ),
    "training features with a negative rate": (
        ["features", "fit", "--data", "DigitsDataModule", "--model.lr", "-1"],
        "lr > 0, got",
    ),
}


SPELLING = {
    "option": (MOONS, "--model.sigm", "1", "--model.sigm", "--model.sigma"),
    "option of the trainer": (MOONS, "--trainer.max_epoch", "3", "", "--trainer.max_epochs"),
    "nested option": (
        *(MOONS, "--model.network.hidden_dm", "5"),
        *("not an option of ncsn.networks.MLP", "--model.network.hidden_dim"),
    ),
    "option of another class": (
        *(DIGITS, "--model.sigma_mx", "5"),
        *("not an option of ncsn.modules.NCSN", "--model.sigma_max"),
    ),
    "option of the data": (MOONS, "--data.nois", "1", "MoonsDataModule", "--data.noise"),
    "class": (MOONS, "--model.network", "MPL", "--model.network: there is no class MPL", "MLP"),
    "class with its module": (MOONS, "--model.network", "ncsn.networks.MPL", "MPL", "MLP"),
    "class of torch": (MOONS, "--model.optimizer", "Adm", "no class Adm", "Adam"),
    "beginning of a class": (DIGITS, "--data", "Digits", "no class Digits", "DigitsDataModule"),
    "beginning of a class in lower case": (DIGITS, "--data", "moons", "", "MoonsDataModule"),
    "class of a model": (MOONS, "--model", "DSN", "--model DSN: there is no class DSN", "DSM"),
    "function": (
        *(MOONS, "--model.objective", "ncsn.objectives.implict_score_matching"),
        *("--model.objective: ", "implicit_score_matching"),
    ),
}


@pytest.mark.parametrize(
    ("config", "option", "value", "hint", "meant"), SPELLING.values(), ids=SPELLING
)
def test_a_slip_of_the_pen_gets_the_name_that_was_meant(
    config, option, value, hint, meant, cli, capsys
):
    assert cli("fit", *config, option, value) == 2
    last = error_line(capsys.readouterr().err)
    assert hint in last
    assert last.endswith(f"; did you mean {meant}?")
    assert len(last) < 200


def test_a_command_that_was_meant_is_named(cli, capsys):
    assert cli("ift") == 2
    assert "did you mean fit?" in capsys.readouterr().err


CONFIGS = {
    "YAML": ("trainer: {\n  max_epochs: 1\ndata: {}\n", "own.yaml: ", "line 3, column 5"),
    "no options": ("plain text\n" * 50, "own.yaml: ", "it is not a config"),
    "option": ("model: {init_args: {sigm: 1}}", "own.yaml: ", "did you mean --model.sigma?"),
    "value": ("model: {init_args: {sigma: much}}", "own.yaml: ", "expected float"),
    "option twice": (
        "trainer:\n  max_epochs: 1\n  max_epochs: 2\n",
        *("own.yaml: ", "trainer.max_epochs (again in line 3) is given twice"),
    ),
    "block twice": ("data: {}\ntrainer: {}\ndata: {}\n", "own.yaml: ", "data (again in line 3)"),
}


def test_aliases_are_not_repetitions():
    assert repeated_key("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}\n") is None
    assert repeated_key("a: &a [*a]") is None  # and this ends
    assert repeated_key("a: [{b: 1}, {b: 2, c: {d: 1, d: 2}}]") == "a.c.d (again in line 1)"


@pytest.mark.parametrize(("content", "file", "hint"), CONFIGS.values(), ids=CONFIGS)
def test_a_mistake_in_a_config_names_the_file(content, file, hint, cli, capsys, tmp_path):
    (tmp_path / "own.yaml").write_text(content)
    assert cli("fit", *MOONS, "--config", "own.yaml") == 2
    last = error_line(capsys.readouterr().err)
    assert last.startswith(file)
    assert hint in last
    assert len(last) < 200


@pytest.mark.parametrize(("args", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_line_that_names_it(args, hint, cli, capsys):
    assert cli(*args) in (1, 2)
    output = capsys.readouterr()
    assert hint.lower() in error_line(output.err).lower()
    assert "usage:" not in output.err + output.out


REFUSED = ("huge batch", "learning rate", "wrong network", "too few classes", "nothing held out")


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_run_that_is_refused_leaves_no_directory(mistake, cli, tmp_path):
    assert cli(*MISTAKES[mistake][0]) == 1
    assert not list(tmp_path.glob("lightning_logs/*/*"))


def test_a_run_that_is_refused_leaves_other_runs_alone(cli, trained):
    run = Path(shutil.copytree(trained("moons"), "lightning_logs/moons/version_7"))
    before = sorted(run.rglob("*"))
    for options in ((), ("--ckpt_path", "last"), ("--trainer.logger.version", 7)):
        options += ("--trainer.max_epochs", 2, "--data.batch_size", 4096)
        assert cli("fit", *MOONS, *options) != 0
    assert sorted(run.rglob("*")) == before
    assert [path.name for path in run.parent.iterdir()] == ["version_7"]


def test_a_run_that_is_refused_leaves_the_working_directory_alone(cli):
    Path("config.yaml").write_text("# of the user")
    for logger in ("ncsn.runtime.WandbLogger", "false"):
        assert cli("fit", *MOONS, "--trainer.logger", logger, "--model.optimizer.lr", -1) == 1
        assert Path("config.yaml").read_text() == "# of the user"


def test_a_run_that_fails_after_its_first_batch_keeps_its_directory(cli, tmp_path):
    args = ("--model.optimizer.lr", 1e30, "--trainer.limit_train_batches", 20)
    assert cli("fit", *MOONS, *args) == 1
    assert list(tmp_path.glob("lightning_logs/moons/version_0/config.yaml"))


def test_a_config_that_is_no_text_is_refused(cli, capsys, trained):
    assert cli("fit", "--config", trained("moons") / "checkpoints/last.ckpt") == 1
    assert "--config is the path of a text file" in error_line(capsys.readouterr().err)


def test_an_evaluation_with_nothing_to_evaluate_is_refused(cli, capsys, trained):
    checkpoint = ("--ckpt_path", trained("moons") / "checkpoints/last.ckpt")
    assert cli("test", *MOONS, *checkpoint, "--num_samples", 1) == 1
    assert "1 points are too few to compare" in error_line(capsys.readouterr().err)
    assert cli("test", *MOONS, *checkpoint, "--num_samples", 0) == 1
    assert "--num_samples must be at least 1" in error_line(capsys.readouterr().err)
    assert cli("test", *MOONS, *checkpoint, "--inception", "true") == 1
    assert "--inception is for images" in error_line(capsys.readouterr().err)


def test_files_of_others_are_not_overwritten(cli, capsys, trained):
    names = "evaluation.json", "estimates.csv", "README.md"
    for name in names:
        Path(name).write_text("of the user")
    checkpoint = ("--ckpt_path", trained("moons") / "checkpoints/last.ckpt")
    few = ("--num_samples", 100, "--num_likelihood_examples", 0)
    assert cli("test", *MOONS, *checkpoint, *few, "--trainer.logger", "false") == 0
    assert Path("lightning_logs/moons/version_0/evaluation.json").is_file()
    assert cli("export", *MOONS, *checkpoint, "--output", ".") == 1
    assert "--output . has other files in it" in error_line(capsys.readouterr().err)
    assert {Path(name).read_text() for name in names} == {"of the user"}


def test_figures_of_another_model_are_not_exported(cli, capsys, trained):
    checkpoint = ("--ckpt_path", trained("moons") / "checkpoints/last.ckpt")
    few = ("--num_samples", 100, "--num_likelihood_examples", 0)
    assert cli("test", *MOONS, *checkpoint, *few) == 0
    export = ("--output", "model", "--evaluation", "lightning_logs/moons/version_0")
    assert cli("export", *MOONS, *checkpoint, *export) == 0
    assert cli("export", "--pretrained", "digits", *export) == 1
    last = error_line(capsys.readouterr().err)
    assert "is of DSM on MoonsDataModule, and the model is NCSN on DigitsDataModule" in last


def test_predict_refuses_what_it_cannot_do(cli, capsys, trained):
    predict = ("predict", *MOONS, "--ckpt_path", trained("moons") / "checkpoints/last.ckpt")
    for options, hint in {
        ("--num_samples", 0): "--num_samples must be at least 1",
        ("--label", 1): "--label 1: the model is not class-conditional",
        ("--first_sample", -1): "--first_sample must be at least 0",
        ("--batch_size", 0): "--batch_size must be at least 1",
        ("--resume", "nowhere"): "is not the directory of an interrupted predict",
        ("--trainer.limit_predict_batches", 2): "would leave out samples",
        ("--trainer.fast_dev_run", "true"): "would leave out samples",
    }.items():
        assert cli(*predict, *options) == 1
        assert hint in error_line(capsys.readouterr().err)


def test_a_label_that_does_not_exist_is_refused_with_those_that_do(cli, capsys):
    digits = (*DIGITS, "--model.network.num_classes", 10)
    assert cli("fit", *digits) == 0
    for label in (10, -2):
        assert cli("predict", *digits, "--ckpt_path", "last", "--label", label) == 1
        last = error_line(capsys.readouterr().err)
        assert last == f"--label {label}: the model has the labels 0 to 9, and -1 for any"


def test_a_mistyped_data_directory_is_not_created(cli, capsys, tmp_path):
    assert cli("fit", *smoke("mnist"), "--data.data_dir", tmp_path / "typo") == 1
    last = error_line(capsys.readouterr().err)
    assert f"--data.data_dir {tmp_path / 'typo'} is not a directory" in last
    assert "MNIST/raw" in last
    assert not list(tmp_path.iterdir())


def test_without_the_data_the_option_that_says_where_it_is_gets_named(server, tmp_path):
    (tmp_path / "empty").mkdir()
    args = (*smoke("mnist"), "--data.data_dir", tmp_path / "empty")
    proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    output = run_process(server, "fit", *args, status=1, **proxy)
    assert "Traceback" not in output
    assert "--data.data_dir" in error_line(output)


def test_an_option_that_is_given_twice_is_refused_by_evaluate_too(cli, capsys):
    Path("own.yaml").write_text("data: {class_path: DigitsDataModule}\nseed: 1\nseed: 2\n")
    assert cli("evaluate", "samples.npz", "--config", "own.yaml") == 2
    assert "seed (again in line 3) is given twice" in error_line(capsys.readouterr().err)
