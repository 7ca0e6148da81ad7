"""Directories of runs: which one is resumed, by whom, and what is kept in it."""

import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from support.commands import QUICK, error_line, smoke
from support.jobs import ENDLESS, Jobs
from support.jobs import MOONS as SHORT
from support.runs import load_last

from ncsn.cli.errors import exit_with
from ncsn.evaluation.files import read_metrics, replacing
from ncsn.runtime import DurableCheckpointIO, RunLogger
from ncsn.runtime.runs import lock

MOONS = smoke("moons")
LAST = ("--ckpt_path", "last")
RUN = Path("lightning_logs/moons/version_0")
LONGER = (*QUICK, "--trainer.max_epochs", 2)


@pytest.fixture
def run(trained):
    """The directory of a finished run, of this test alone."""
    shutil.copytree(trained("moons"), RUN)
    return RUN


def test_a_new_run_passes_over_the_links_and_files_in_its_way():
    Path("lightning_logs/moons").mkdir(parents=True)
    Path("lightning_logs/moons/version_0").symlink_to("/nowhere/version_0")
    Path("lightning_logs/moons/version_3").write_text("a file")
    logger = RunLogger("lightning_logs", name="moons")
    assert logger.claim()
    assert logger.version == 4


# ---- which run, and its config -----------------------------------------------------------------


def test_the_run_and_the_step_are_named(run, cli, caplog):
    assert cli("fit", *MOONS, *LONGER, *LAST) == 0
    assert f"{RUN}: resuming from step 2" in caplog.text


def test_a_run_is_resumed_from_where_its_checkpoints_are(cli, caplog, capsys):
    elsewhere = (*QUICK, "--last.dirpath", "elsewhere")
    assert cli("fit", *MOONS, *elsewhere) == 0
    assert not list(RUN.rglob("last.ckpt"))
    assert cli("fit", *MOONS, *elsewhere, *LAST, "--trainer.max_epochs", 2) == 0
    assert f"{RUN}: resuming from step 2" in caplog.text
    assert cli("fit", *MOONS, *LAST, "--last.filename", "{step}") == 1
    assert "--last.filename is {step}: give the path" in error_line(capsys.readouterr().err)


def test_a_trial_that_leaves_no_files_may_begin_with_a_checkpoint(run, cli, capsys):
    before = sorted(run.rglob("*"))
    assert cli("fit", *MOONS, *LONGER, *LAST, "--trainer.barebones", "true") == 0
    assert sorted(run.rglob("*")) == before
    assert cli("fit", *MOONS, *LONGER, *LAST, "--trainer.fast_dev_run", "true") == 1
    assert "leave --ckpt_path out" in error_line(capsys.readouterr().err)


def test_a_run_without_a_logger_to_files_has_a_directory_of_its_own(cli):
    for version in (0, 1):
        assert cli("fit", *MOONS, *QUICK, "--trainer.logger", "ncsn.runtime.WandbLogger") == 0
        assert (RUN.with_name(f"version_{version}") / "checkpoints/last.ckpt").is_file()
    assert not Path("lightning_logs/config.yaml").exists()


def test_other_devices_are_named_when_a_run_is_resumed(run, cli):
    last = run / "checkpoints/last.ckpt"
    checkpoint = load_last(run)
    assert checkpoint["hardware"] == "1 x cpu"
    torch.save({**checkpoint, "hardware": "8 x cuda"}, last)
    with pytest.warns(UserWarning, match=r"resumed with 1 x cpu \(was 8 x cuda\)"):
        assert cli("fit", *MOONS, *LONGER, *LAST) == 0


def test_a_finished_run_keeps_its_config(run, cli):
    before = (run / "config.yaml").read_bytes()
    assert cli("fit", *MOONS, *QUICK, *LAST, "--data.noise", 0.3) == 0
    assert (run / "config.yaml").read_bytes() == before
    assert not list(run.glob("config.from*"))  # it has not trained with that noise


def test_a_start_that_fails_keeps_the_config(run, cli):
    before = (run / "config.yaml").read_bytes()
    assert cli("fit", *MOONS, *LONGER, *LAST, "--trainer.val_check_interval", 99) == 1
    assert (run / "config.yaml").read_bytes() == before
    assert len(read_metrics(run / "metrics.csv"))


def test_another_config_is_written_beside_that_of_the_start(run, cli):
    before = (run / "config.yaml").read_bytes()
    assert cli("fit", *MOONS, *LONGER, *LAST, "--data.noise", 0.3) == 0
    assert (run / "config.yaml").read_bytes() == before
    config = yaml.safe_load((run / "config.from_step_2.yaml").read_text())
    assert config["data"]["init_args"]["noise"] == 0.3


def test_the_same_config_is_not_written_again(trained, cli):
    assert cli("fit", *MOONS, *LONGER) == 0
    earlier = trained("moons") / "checkpoints/last.ckpt"
    shutil.copy(earlier, RUN / "checkpoints/last.ckpt")  # as if killed after the first epoch
    assert cli("fit", *MOONS, *LONGER, *LAST) == 0
    assert load_last(RUN)["global_step"] == 4
    assert not list(RUN.glob("config.from*"))


def test_a_run_that_has_saved_nothing_starts_again(run, cli, caplog):
    killed = RUN.parent / "version_1"
    (killed / "checkpoints").mkdir(parents=True)
    shutil.copy(run / "metrics.csv", killed)
    finished = load_last(run)
    assert cli("fit", *MOONS, *QUICK, *LAST) == 0
    assert f"{killed}: has saved nothing, starting again" in caplog.text
    assert load_last(killed)["global_step"] == finished["global_step"] == 2
    assert [row["step"] for row in read_metrics(killed / "metrics.csv")].count("0") == 1


# ---- one process in a directory ----------------------------------------------------------------


def test_a_run_that_trains_is_not_resumed_by_another_process(server, cli, capsys):
    jobs = Jobs(server)
    job = jobs.start(*ENDLESS)
    last = RUN / "checkpoints/last.ckpt"
    job.wait_until(lambda: last.exists() and (RUN / "metrics.csv").exists())
    assert cli("fit", *SHORT, *QUICK, *LAST, *ENDLESS, "--trainer.max_steps", 10**6) == 1
    line = error_line(capsys.readouterr().err)
    assert f"{RUN} is in use by process {job.pid} on " in line
    before = load_last(RUN)["global_step"]
    job.wait_until(lambda: load_last(RUN)["global_step"] > before)
    job.kill()
    lock(RUN).release()  # the system has unlocked it


def test_runs_that_start_at_the_same_time_get_their_own_directories(tmp_path):
    loggers = [RunLogger(tmp_path, name="runs") for _ in range(3)]
    assert {logger.version for logger in loggers} == {0}  # none has made its directory
    for logger in loggers:
        logger.claim()
    assert [logger.version for logger in loggers] == [0, 1, 2]


# ---- damaged files -----------------------------------------------------------------------------

TABLE = "epoch,step,train/loss\n0,0,1.5\n0,49,\n0,99,nan\n"
DAMAGED_ROWS = {
    "cut": "0,1",
    "cut number": "0,149,1.",  # looks whole
    "extra fields": "0,149,1,2,3",
    "zeros": "\0" * 100,
    "other bytes": "\udcff\udcfe",
    "text": "0,149,abc",
    "no step": "0,,1",
    "long": "9" * 200_000 + ",1",
}


@pytest.mark.parametrize("row", DAMAGED_ROWS.values(), ids=DAMAGED_ROWS)
def test_whole_rows_of_damaged_metrics_are_kept(row, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes((TABLE + row).encode(errors="surrogateescape"))
    if row == DAMAGED_ROWS["cut number"]:
        rows = read_metrics(path)[:3]
    else:
        with pytest.warns(UserWarning, match="metrics.csv: 1 damaged rows are left out"):
            rows = read_metrics(path)
    assert [row["step"] for row in rows] == ["0", "49", "99"]
    assert [row["train/loss"] for row in rows] == ["1.5", "", "nan"]


DAMAGED_TABLES = {
    "empty": b"",
    "zeros": bytes(1000),
    "another encoding": TABLE.encode("utf-16"),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "half a header": b"epo",
    "a damaged header": TABLE.replace("step", "st\0p").encode(),
}


@pytest.mark.parametrize("content", DAMAGED_TABLES.values(), ids=DAMAGED_TABLES)
@pytest.mark.filterwarnings("ignore:.*damaged rows")
def test_damaged_metrics_do_not_stop_a_resume(content, run, cli):
    (run / "metrics.csv").write_bytes(content)
    assert cli("fit", *MOONS, *LONGER, *LAST) == 0
    assert {row["step"] for row in read_metrics(run / "metrics.csv")} >= {"3"}


def test_metrics_of_earlier_steps_are_kept_and_later_ones_logged_again(run, cli):
    log = ("--trainer.log_every_n_steps", 1)
    before = [row for row in read_metrics(run / "metrics.csv") if int(row["step"]) < 2]
    with (run / "metrics.csv").open("a") as file:
        file.write(",".join("7" for _ in before[0]) + "\n0,1")
    with pytest.warns(UserWarning, match="1 damaged rows"):
        assert cli("fit", *MOONS, *LONGER, *LAST, *log) == 0
    rows = read_metrics(run / "metrics.csv")
    assert [{k: row[k] for k in before[0]} for row in rows[: len(before)]] == before
    assert max(int(row["step"]) for row in rows) == 3


def test_an_interrupted_write_leaves_the_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    with suppress(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def save(checkpoint, path):
    DurableCheckpointIO().save_checkpoint(checkpoint, path)


def test_an_optimizer_state_of_another_shape_is_refused(run, cli, capsys):
    checkpoint = load_last(run)
    (optimizer,) = checkpoint["optimizer_states"]
    optimizer["state"][0]["exp_avg"] = torch.zeros(3)
    save(checkpoint, run / "checkpoints/last.ckpt")
    assert cli("fit", *MOONS, *LONGER, *LAST) == 1
    assert "exp_avg has shape (3,), weights (" in error_line(capsys.readouterr().err)


def test_weights_alone_are_not_resumed(run, cli, capsys):
    path = run / "checkpoints/last.ckpt"
    checkpoint = load_last(run)
    save({name: checkpoint[name] for name in ("state_dict", "epoch", "global_step")}, path)
    assert cli("fit", *MOONS, *LONGER, *LAST) == 1
    assert "has weights alone" in error_line(capsys.readouterr().err)


DAMAGED_REPORTS = {
    "empty": b"",
    "list": b"[]",
    "cut": b'{"about": {',
    "zeros": bytes(100),
    "bytes": b"\xff\xfe\x00",
    "no about": b'{"about": {}, "estimates": {}, "levels": []}',
    "levels": b'{"about": {}, "estimates": {}, "levels": [1]}',
}


@pytest.mark.parametrize("content", DAMAGED_REPORTS.values(), ids=DAMAGED_REPORTS)
def test_a_damaged_evaluation_is_named(content, run, cli, capsys):
    (run / "evaluation.json").write_bytes(content)
    assert cli("compare", run) == 1
    line = error_line(capsys.readouterr().err)
    assert f"{run}/evaluation.json is damaged" in line
    assert "run the test again" in line


# ---- parts of predict --------------------------------------------------------------------------


def test_a_full_disk_in_the_error_handler_shows_the_traceback(monkeypatch, capsys):
    def full(*_, **__):
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    with pytest.raises(SystemExit):
        exit_with(KeyError("a bug"))
    output = capsys.readouterr().err
    assert error_line(output) == "KeyError: 'a bug'; the traceback is above"


def damage(parts):
    """Damage parts in every way; returns how many."""
    whole = sorted(parts.glob("*.npz"))
    content = whole[0].read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    names = ("000000002-000000004", "000000004-000000006", "000000006-000000008")
    for name, bad in zip(names, (b"", content[:-50], bytes(flipped)), strict=True):
        (parts / f"{name}.npz").write_bytes(bad)
    (parts / "000000000-1000000000.npz").write_bytes(content)
    (parts / "000000008-000000009.npz").write_bytes(content)  # two samples, not one
    (parts / "copy of 3.npz").write_bytes(content)
    (parts / "000000090-000000092.npz").write_bytes(content)  # beyond the last


def test_damaged_parts_are_drawn_again(trained, cli, recwarn, monkeypatch):
    checkpoint = trained("moons") / "checkpoints/last.ckpt"
    predict = ("predict", *MOONS, "--ckpt_path", checkpoint, "--num_samples", 10)
    predict += ("--batch_size", 2, "--name", "samples")
    assert cli(*predict) == 0
    runs = Path("lightning_logs/samples")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path: None)
        assert cli(*predict) == 0
    parts = runs / "version_1/parts"
    damage(parts)
    assert cli(*predict, "--resume", runs / "version_1") == 0
    assert sum("is damaged: its samples are drawn again" in str(w.message) for w in recwarn) == 7
    found = [(runs / f"version_{n}/samples.npz").read_bytes() for n in (0, 1)]
    assert found[0] == found[1]
    assert not parts.exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"seed":', b"\xff", bytes(50)])
def test_a_damaged_record_of_the_samples_is_named(content, trained, cli, capsys):
    parts = Path("lightning_logs/samples/version_0/parts")
    parts.mkdir(parents=True)
    (parts / "about.json").write_bytes(content)
    checkpoint = trained("moons") / "checkpoints/last.ckpt"
    assert cli("predict", *MOONS, "--ckpt_path", checkpoint, "--resume", parts.parent) == 1
    assert "predict again without --resume" in error_line(capsys.readouterr().err)
    assert [path.name for path in parts.iterdir()] == ["about.json"]
