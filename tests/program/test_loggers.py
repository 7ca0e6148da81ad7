"""The W&B logger, with the real wandb running offline."""

import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.commands import QUICK, run_process, smoke
from support.paths import OVERLAYS, ROOT
from support.wandb_files import wandb_records
from support.wandb_server import wandb_server

from ncsn.runtime import Stopped
from ncsn.runtime.wandb import WandbLogger, offline_reason


def history(run_file):
    """The rows of metrics in a .wandb file."""
    items = [r.history.item for r in wandb_records(run_file) if r.HasField("history")]
    return [
        {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in row} for row in items
    ]


def test_an_offline_run_holds_the_metrics_and_the_pictures(server, tmp_path):
    nothing = {"WANDB_MODE": None, "WANDB_API_KEY": None, "HOME": str(tmp_path)}
    output = run_process(server, "fit", *smoke("digits"), **nothing)
    assert output.count("W&B runs offline: there is no API key") == 1
    (run,) = Path("lightning_logs/wandb").glob("offline-run-*")
    assert f"wandb sync {run}" in output.replace("\n", "")
    rows = history(next(run.glob("run-*.wandb")))
    metrics = {key for row in rows for key in row}
    expected = {"train/loss_per_dim", "train/loss_per_dim_epoch", "val/loss_per_dim"}
    assert expected | {"train/grad_norm", "trainer/global_step"} <= metrics
    media = {path.name.split("_")[0]: path for path in (run / "files/media").rglob("*.*")}
    assert {"samples", "annealing", "losses"} <= set(media)
    assert "pictures/annealing_gif" in json.dumps(rows)
    pictures = Path("lightning_logs/digits/version_0/pictures")
    written = {path.read_bytes() for path in pictures.glob("*.*")}
    (gif,) = (run / "files/media").rglob("*.gif")
    assert gif.read_bytes() in written
    captions = json.dumps(rows)
    assert "samples, step 2" in captions
    # A run that is resumed finds its own name again.
    name = Path("lightning_logs/digits/version_0/wandb_id.txt").read_text()
    assert run.name.endswith(f"-{name}")


OWN_DATA = """
import ncsn.data

class Own(ncsn.data.DigitsDataModule):
    def __init__(self, batch_size: int = 8, share: float = 0.5, name: str | None = None):
        super().__init__(batch_size=batch_size)
"""


def config_of(run_file):
    """The config in a .wandb file."""
    config = {}
    for record in wandb_records(run_file):
        for each in (*record.run.config.update, *record.config.update):
            config[each.key] = json.loads(each.value_json)
    return config


def test_the_config_has_numbers_and_what_is_linked(server, tmp_path):
    Path("own_data.py").write_text(OWN_DATA)
    args = (*smoke("digits")[:2], "--config", tmp_path / "own.yaml")
    Path("own.yaml").write_text("data: {class_path: own_data.Own, init_args: {share: 0.25}}")
    short = ("--trainer.max_steps", 1, "--trainer.limit_val_batches", 1, *QUICK)
    auto = ("--model.sigma_max", "auto")
    environment = {"WANDB_MODE": "offline", "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    run_process(server, "fit", *args, *short, *auto, **environment)
    (run_file,) = Path("lightning_logs/wandb").glob("offline-run-*/run-*.wandb")
    config = config_of(run_file)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert config["model"]["class_path"] == "ncsn.modules.NCSN"
    assert model["data_shape"] == [1, 8, 8]
    assert model["network"]["init_args"]["channels"] == 1
    assert model["optimizer"]["init_args"]["lr"] == 0.002
    assert model["sigma_min"] == 0.02
    assert -1 < model["data_mean"] < 0
    assert model["data_diameter"] == pytest.approx(config["model.sigma_max"])
    assert data["batch_size"] == 128
    assert data["share"] == 0.25
    assert config["trainer"]["max_steps"] == 1
    assert config["ema"]["decay"] == 0.995


def test_a_run_with_auto_is_the_same_run_of_wandb_when_it_is_resumed(server):
    auto = ("--model.sigma_max", "auto", "--ckpt_path", "last")
    for epochs in (1, 2):
        args = (*smoke("digits"), *QUICK, *auto, "--trainer.max_epochs", epochs)
        run_process(server, "fit", *args, WANDB_MODE="offline")
    runs = list(Path("lightning_logs/wandb").glob("offline-run-*"))
    assert len(runs) == 2
    assert len({run.name.split("-")[-1] for run in runs}) == 1
    run_process(server, "predict", *args, "--num_samples", 2, WANDB_MODE="offline")
    assert list(Path("lightning_logs/wandb").glob("offline-run-*")) == runs


def test_without_a_key_there_is_a_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "API key" in offline_reason()


def test_with_a_key_and_no_network_there_is_a_reason(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    assert "127.0.0.1:9 cannot be reached" in offline_reason()


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (None, "None"),
        (401, "refuses the API key"),
        (403, "refuses the API key"),
        (500, "answers with status 500"),
        ("silence", "cannot be reached (ReadTimeout)"),
        ("garbage", "cannot be reached"),
        ("closed", "cannot be reached"),
        ("empty", "cannot be reached"),
    ],
)
def test_a_server_that_fails_is_recognised_within_seconds(trouble, reason, monkeypatch):
    with wandb_server(trouble) as server:
        monkeypatch.setenv("WANDB_API_KEY", server.environment["WANDB_API_KEY"])
        monkeypatch.setenv("WANDB_BASE_URL", server.environment["WANDB_BASE_URL"])
        begin = time.monotonic()
        assert reason in str(offline_reason())
        assert time.monotonic() - begin < 5


def test_a_key_in_netrc_is_found(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert "cannot be reached" in offline_reason()


def test_wandb_that_cannot_start_does_not_stop_training(monkeypatch):
    monkeypatch.setattr("wandb.run", None)

    def init(**kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("wandb.init", init)
    logger = WandbLogger()
    with pytest.warns(UserWarning, match="W&B failed"):
        logger.log_metrics({"a": 1.0}, step=0)
    logger.log_metrics({"a": 2.0}, step=1)


def test_a_fault_of_wandb_is_reported_once_and_does_not_stop_training(monkeypatch):
    logger = WandbLogger()

    class Broken:
        def log(self, *args, **kwargs):
            raise OSError("the service is gone")

    logger._experiment = Broken()
    with pytest.warns(UserWarning, match=r"W&B failed \(OSError: the service is gone\)"):
        logger.log_metrics({"a": 1.0}, step=0)
    logger.log_metrics({"a": 2.0}, step=1)  # silent from here on


@pytest.mark.parametrize("name", ["log_table", "watch", "after_save_checkpoint", "version"])
def test_whatever_lightning_asks_a_broken_logger_does_not_stop_training(monkeypatch, name):
    logger = WandbLogger(log_model="all")

    class Broken:
        def __getattr__(self, attribute):
            raise OSError("the service is gone")

    logger._experiment = Broken()
    Path("last.ckpt").touch()
    saved = SimpleNamespace(last_model_path="last.ckpt", current_score=0.0, best_model_path="")
    calls = {
        "log_table": lambda: logger.log_table("a", ["b"], [[1]]),
        "watch": lambda: logger.watch(torch.nn.Linear(1, 1)),
        "after_save_checkpoint": lambda: logger.after_save_checkpoint(saved),
        "version": lambda: logger.version,
    }
    with pytest.warns(UserWarning, match="W&B failed"):
        assert calls[name]() is None
    for call in calls.values():  # silent from here on
        assert call() is None
    assert logger.name == "ncsn"
    assert logger.save_dir == "lightning_logs"
    logger.finalize("success")


def test_a_signal_that_arrives_while_something_is_logged_ends_the_run():
    logger = WandbLogger()

    class Interrupted:
        def log(self, *args, **kwargs):
            raise Stopped(signal.SIGTERM)

    logger._experiment = Interrupted()
    with pytest.raises(Stopped):
        logger.log_metrics({"a": 1.0}, step=0)


# ---- what W&B shows ----

SHORT = ("--trainer.max_steps", 1, "--trainer.limit_val_batches", 1, *QUICK)


def only_run_file():
    """The .wandb file of the one offline run."""
    (run_file,) = Path("lightning_logs/wandb").glob("offline-run-*/run-*.wandb")
    return run_file


def last_run_record(run_file):
    """The last record of a run's name, tags and group."""
    return [r.run for r in wandb_records(run_file) if r.HasField("run")][-1]


def test_losses_of_levels_have_a_section_and_the_table_shows_the_smallest_losses(server):
    run_process(server, "fit", *smoke("digits"), *QUICK, WANDB_MODE="offline")
    records = wandb_records(only_run_file())
    keys = {key for row in history(only_run_file()) for key in row}
    assert {"val_levels/sigma=10", "val_levels/sigma=0.02"} <= keys
    assert {key for key in keys if "sigma=" in key and not key.startswith("val_levels/")} == set()
    metrics = {r.metric.name: r.metric for r in records if r.HasField("metric")}
    losses = ("train/loss_per_dim", "train/loss_per_dim_epoch", "val/loss_per_dim")
    for name in losses:
        assert metrics[name].summary.min
        assert metrics[name].step_metric == "trainer/global_step"


def test_the_name_tells_runs_apart_and_tags_and_group_are_options(server):
    tagged = ("--wandb.tags", "[baseline,wide]", "--wandb.group", "widths")
    run_process(server, "fit", *smoke("digits"), *SHORT, *tagged, WANDB_MODE="offline")
    run = last_run_record(only_run_file())
    assert run.display_name == "digits/version_0 NCSN UNet"
    assert list(run.tags) == ["baseline", "wide"]
    assert run.run_group == "widths"
    assert run.project == "ncsn"


def test_a_name_and_a_project_of_the_user_are_kept(server):
    given = ("--wandb.name", "mine", "--wandb.project", "other")
    run_process(server, "fit", *smoke("digits"), *SHORT, *given, WANDB_MODE="offline")
    run = last_run_record(only_run_file())
    assert (run.display_name, run.project) == ("mine", "other")
    shutil.rmtree("lightning_logs")
    environment = {"WANDB_NAME": "his", "WANDB_PROJECT": "third", "WANDB_MODE": "offline"}
    run_process(server, "fit", *smoke("digits"), *SHORT, **environment)
    run = last_run_record(only_run_file())
    assert (run.display_name, run.project) == ("his", "third")


def test_an_evaluation_is_called_one(server, trained):
    checkpoint = ("--ckpt_path", trained("digits") / "checkpoints/last.ckpt")
    args = (*smoke("digits"), *checkpoint)
    run_process(server, "validate", *args, WANDB_MODE="offline")
    name = last_run_record(only_run_file()).display_name
    assert name == "digits/version_0 NCSN UNet validate"


def artifacts(requests):
    """The aliases and the content of each checkpoint that was uploaded."""
    queries = [json.loads(body) for path, body in requests if path == "/graphql"]
    inputs = [
        each["variables"]["input"] for each in queries if "CreateArtifact (" in each["query"]
    ]
    aliases = [{each["alias"] for each in one["aliases"]} for one in inputs]
    contents = [body for path, body in requests if path.endswith("upload/model.ckpt")]
    return dict(zip(map(frozenset, aliases), contents, strict=True))


def test_checkpoints_are_uploaded_on_request_the_best_and_the_last(server):
    args = (*smoke("digits"), *QUICK, "--trainer.max_epochs", 2, "--wandb.log_model", "true")
    with wandb_server() as stub:
        run_process(server, "fit", *args, **stub.environment)
    found = artifacts(stub.requests)
    checkpoints = Path("lightning_logs/digits/version_0/checkpoints")
    for name in ("best", "last"):
        content = found[frozenset({"latest", name})]
        assert content == (checkpoints / f"{name}.ckpt").read_bytes()
    assert len(found) == 2


def test_an_offline_run_keeps_the_checkpoints_for_later(server):
    offline = ("--config", OVERLAYS / "offline.yaml", "--wandb.log_model", "true")
    run_process(server, "fit", *smoke("digits"), *QUICK, *offline, WANDB_MODE=None)
    records = [r.artifact for r in wandb_records(only_run_file()) if r.HasField("artifact")]
    assert [set(each.aliases) for each in records] == [{"latest", "best"}, {"latest", "last"}]


def test_a_resumed_run_uploads_the_best_checkpoint_that_it_has_not_saved_itself(server):
    args = (*smoke("digits"), *QUICK, "--trainer.max_epochs")
    run_process(server, "fit", *args, 1, WANDB_MODE="disabled")
    later = ("--ckpt_path", "last", "--trainer.limit_val_batches", 0, "--wandb.log_model", "true")
    with wandb_server() as stub:
        run_process(server, "fit", *args, 2, *later, **stub.environment)
    checkpoints = Path("lightning_logs/digits/version_0/checkpoints")
    best = artifacts(stub.requests)[frozenset({"latest", "best"})]
    assert best == (checkpoints / "best.ckpt").read_bytes()


GUIDE = (ROOT / "docs/guide/wandb.md").read_text()
COMMANDS = re.findall(r"^python -m ncsn (.*)$", GUIDE, re.MULTILINE)
assert COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_guide_work(command, server):
    if "tensorboard" in command:
        pytest.importorskip("tensorboard")
    args = [
        str(ROOT / each) if each.startswith("configs/") else each for each in shlex.split(command)
    ]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    run_process(server, *args, *smoke("digits")[2:], *QUICK, WANDB_MODE="offline", PYTHONPATH=path)
    assert history(only_run_file())
