"""Checkpoints: whole or not there, and nothing but data."""

import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from support.commands import error_line
from support.paths import CONFIGS

from ncsn.cli.parser import CLI
from ncsn.runtime import DurableCheckpointIO, load_checkpoint
from ncsn.runtime.checkpoints import PREVIOUS, find_last_checkpoint
from ncsn.runtime.runs import find_last_run

CHECKPOINT = {"state_dict": {"weight": torch.arange(10_000.0)}, "epoch": 3}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run/last.ckpt"
    DurableCheckpointIO().save_checkpoint(CHECKPOINT, path)
    return path


def test_round_trip_leaves_one_file(checkpoint):
    loaded = load_checkpoint(checkpoint)
    assert torch.equal(loaded["state_dict"]["weight"], CHECKPOINT["state_dict"]["weight"])
    assert loaded["epoch"] == 3
    assert os.listdir(checkpoint.parent) == ["last.ckpt"]


def test_the_command_line_saves_them_this_way():
    cli = CLI(["--config", str(CONFIGS / "moons.yaml")])
    assert isinstance(cli.trainer.strategy.checkpoint_io, DurableCheckpointIO)


def test_another_way_of_saving_is_the_users_choice():
    plugin = ("--trainer.plugins+", "lightning.pytorch.plugins.io.AsyncCheckpointIO")
    cli = CLI(["--config", str(CONFIGS / "moons.yaml"), *plugin])
    assert type(cli.trainer.strategy.checkpoint_io).__name__ == "AsyncCheckpointIO"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write the checkpoint .*last\.ckpt"):
        DurableCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "file/last.ckpt")


def test_an_interrupted_save_leaves_the_previous_checkpoint_alone(checkpoint, monkeypatch):
    def interrupted(value, file):
        file.write(b"half")
        raise KeyboardInterrupt

    before = checkpoint.read_bytes()
    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        DurableCheckpointIO().save_checkpoint(CHECKPOINT, checkpoint)
    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["last.ckpt"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # among the numbers
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def put_a_picture(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))


def put_another_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


def save_weights_alone(path):
    torch.save({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        flip_a_bit,
        empty,
        put_a_picture,
        put_another_archive,
        save_weights_alone,
        os.remove,
    ],
)
def test_damage_is_found_and_named(checkpoint, damage, cli, capsys):
    damage(checkpoint)
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        load_checkpoint(checkpoint)
    assert cli("fit", "--config", CONFIGS / "moons.yaml", "--ckpt_path", checkpoint) == 1
    assert str(checkpoint) in error_line(capsys.readouterr().err)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))]
)
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, save):
    path, victim = tmp_path / "evil.ckpt", tmp_path / "victim"
    save({"state_dict": Malicious(victim)}, path)
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        load_checkpoint(path)
    assert not victim.exists()


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount a file system")
    try:
        path = tmp_path / "last.ckpt"
        DurableCheckpointIO().save_checkpoint(CHECKPOINT, path)
        before = path.read_bytes()
        large = {"state_dict": {"weight": torch.zeros(100_000)}}
        with pytest.raises(OSError, match=r"No space left on device; .*of an earlier step"):
            DurableCheckpointIO().save_checkpoint(large, path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["last.ckpt"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_last_is_the_newest_checkpoint_that_can_be_read(tmp_path):
    assert find_last_checkpoint(tmp_path) is None
    last, previous = (tmp_path / "checkpoints" / name for name in ("last.ckpt", PREVIOUS))
    for step in (2, 3):
        DurableCheckpointIO().save_checkpoint({**CHECKPOINT, "step": step}, last)
    assert find_last_checkpoint(tmp_path) == last
    assert [load_checkpoint(path)["step"] for path in (last, previous)] == [3, 2]
    truncate(last)
    with pytest.warns(UserWarning, match=r"last\.ckpt.*Resuming from the one before it"):
        assert find_last_checkpoint(tmp_path) == previous
    last.unlink()  # killed between two renames
    assert find_last_checkpoint(tmp_path) == previous
    empty(previous)
    with pytest.raises(ValueError, match=r"last\.previous\.ckpt"):  # not silently an older run
        find_last_checkpoint(tmp_path)


def test_last_is_of_the_latest_version(tmp_path):
    assert find_last_run(tmp_path) is None
    for name in ("version_10", "version_9", "version_2", "version_x"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)  # each newer than those before
    (tmp_path / "version_11").mkdir()  # a test
    assert find_last_run(tmp_path) == tmp_path / "version_10"
