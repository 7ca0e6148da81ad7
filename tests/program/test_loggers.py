"""The W&B logger, with the real wandb running offline."""

import json
from pathlib import Path

import pytest
from support.commands import run_process, smoke
from support.wandb_files import wandb_records

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


def test_without_a_key_there_is_a_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "API key" in offline_reason()


def test_with_a_key_and_no_network_there_is_a_reason(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    assert "127.0.0.1:9 cannot be reached" in offline_reason()


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
