"""An interrupted training resumes exactly where it was: real processes, killed."""

import random
import signal
import time
from pathlib import Path

from support.jobs import BATCHES, EPOCHS, EVERY, LAST, RUNS, STEPS
from support.runs import assert_same_training, load_last, losses

SHIPPED = Path("shipped.yaml")


def test_the_shipped_schedule_of_checkpoints_resumes_too(jobs):
    # moons.yaml validates every fifth epoch, and saves after each. Stopped before the first
    # validation, killed after it, then trained to the end.
    SHIPPED.write_text(
        "last: {every_n_train_steps: null}\n"
        "trainer: {max_epochs: 6, check_val_every_n_epoch: 5, accumulate_grad_batches: 1}\n"
    )
    shipped = ("--config", SHIPPED, "--trainer.enable_progress_bar", "true")
    jobs.finish(*shipped)
    undisturbed = (RUNS / "version_0").rename("undisturbed")
    job = jobs.start(*shipped, PLACE="training")
    job.stop("training", signal.SIGTERM)
    assert job.wait() == 128 + signal.SIGTERM
    assert load_last(RUNS / "version_0")["global_step"] < 2 * BATCHES
    kill_at = 4 * BATCHES + 10
    assert jobs.start(*shipped, *LAST, KILL_AT=str(kill_at)).wait() == -signal.SIGKILL
    assert load_last(RUNS / "version_0")["global_step"] == 4 * BATCHES
    jobs.finish(*shipped, *LAST)
    assert_same_training(RUNS / "version_0", undisturbed)
    written = {path.name for path in (RUNS / "version_0/checkpoints").iterdir()}
    assert written == {"best.ckpt", "last.ckpt", "last.previous.ckpt"}


def test_a_training_killed_ten_times_ends_like_an_undisturbed_one(jobs, undisturbed):
    chance = random.Random(0)
    # The end of an epoch is among them; the first is before any checkpoint.
    batches = sorted({*chance.sample(range(8, EPOCHS * BATCHES - 1), 8), BATCHES - 1, 3})
    assert len(batches) == 10
    for batch in batches:
        assert jobs.start(*LAST, KILL_AT=str(batch)).wait() == -signal.SIGKILL
    jobs.finish(*LAST)
    assert len(list(RUNS.iterdir())) == 1  # the one that had saved nothing was started again
    assert_same_training(RUNS / "version_0", undisturbed())


def test_a_training_killed_at_any_moment_ends_like_an_undisturbed_one(jobs, undisturbed):
    chance, kills = random.Random(1), 0
    for _ in range(6):
        start, job = time.time(), jobs.start(*LAST)
        while job.poll() is None and not has_begun(start):
            time.sleep(0.01)
        time.sleep(chance.random())
        kills += job.poll() is None
        job.kill()
    jobs.finish(*LAST)
    assert kills
    run = max(RUNS.iterdir())
    # A step is logged after its checkpoint is written: a kill in between takes that one row.
    assert_same_training(run, undisturbed(), unlogged=kills)
    assert {(step + 1) % EVERY for step in set(range(STEPS)) - set(losses(run))} <= {0}


def has_begun(start):
    """Whether a training has written metrics since it was started."""
    return any(path.stat().st_mtime > start for path in RUNS.glob("*/metrics.csv"))
