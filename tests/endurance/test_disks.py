"""Disks that are full, or where nothing may be written."""

from contextlib import suppress
from pathlib import Path

from support.commands import error_line, smoke
from support.jobs import STEPS

from ncsn.runtime import load_checkpoint


def test_a_place_that_cannot_be_written_is_found_before_training(cli, capsys):
    Path("lightning_logs").touch()
    assert cli("fit", *smoke("moons")) == 1
    output = capsys.readouterr()
    assert error_line(output.err).startswith("lightning_logs")
    assert "Epoch 0" not in output.out


def test_a_training_that_fills_the_disk_keeps_its_checkpoint(small_disk, jobs):
    options = ("--trainer.logger.save_dir", small_disk, "--model.preview.every_n_epochs", 0)
    job = jobs.start(*options, PLACE="validation")
    job.wait_for("validation")
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert job.wait() == 1
    assert "No space left on device" in error_line(job.output())
    (checkpoint,) = small_disk.rglob("last.ckpt")
    assert 15 <= load_checkpoint(checkpoint)["global_step"] < STEPS
