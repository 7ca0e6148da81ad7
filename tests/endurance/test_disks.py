"""Disks that are full, or where nothing may be written."""

from contextlib import suppress
from pathlib import Path

from support.commands import error_line, smoke
from support.jobs import STEPS

from ncsn.evaluation.files import read_metrics
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
    line = error_line(job.output())
    assert "No space left on device" in line
    assert str(small_disk / "moons/version_0") in line
    (checkpoint,) = small_disk.rglob("last.ckpt")
    assert 15 <= load_checkpoint(checkpoint)["global_step"] < STEPS
    (small_disk / "filler").unlink()
    jobs.finish(*options, "--ckpt_path", "last")
    assert load_checkpoint(checkpoint)["global_step"] == STEPS
    steps = [int(row["step"]) for row in read_metrics(checkpoint.parents[1] / "metrics.csv")]
    assert steps == sorted(steps)
    assert steps[-1] == STEPS - 1
