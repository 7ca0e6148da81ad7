"""An interrupted predict keeps its samples and draws the others: real processes."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from support.jobs import CHECKPOINT, RUNS

WRITTEN = {"config.yaml", "samples.npz", "samples.png"}


@pytest.fixture
def trained(undisturbed):
    """The options that name a trained model."""
    return "--ckpt_path", undisturbed() / CHECKPOINT


def samples_of(run):
    return np.load(RUNS / run / "samples.npz")["samples"]


@pytest.mark.parametrize("to", [(1,), (0, 1)])
def test_a_signal_ends_a_rank_that_waits_for_another_at_once(to, jobs, trained):
    # Of three batches rank 0 draws two: rank 1 waits for it, in a collective.
    slow = ("--num_samples", 3, "--batch_size", 1, "--model.sampler.num_steps", 20_000)
    job = jobs.start(*trained, *slow, command="predict", ranks=2, PLACE="written")
    job.wait_for("written", rank=1)
    time.sleep(1.5)
    assert not Path("written-0").exists()
    assert job.end([process.pid for process in job.processes], signal.SIGTERM, to) < 10
    assert job.wait() == 128 + signal.SIGTERM
    last = job.last_line()
    assert last.startswith("error: stopped by SIGTERM")
    assert "--resume" in last


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_predict_that_has_drawn_all_or_nearly_all_resumes(ranks, jobs, trained):
    few = (*trained, "--num_samples", 6, "--batch_size", 2)
    jobs.finish(*few, command="predict")
    parts = RUNS / "version_1/parts"
    for again in (False, True):
        resume = ("--resume", parts.parent) if again else ()
        job = jobs.start(*few, *resume, command="predict", PLACE="written")
        job.wait_for("written")
        job.kill()
        Path("written-0").unlink()
        (parts / "000000002-000000004.npz").unlink(missing_ok=again)
    jobs.finish(*few, "--resume", parts.parent, command="predict", ranks=ranks)
    np.testing.assert_allclose(samples_of("version_1"), samples_of("version_0"), atol=1e-5)
    assert not parts.exists()


def test_only_an_interrupted_predict_can_be_resumed(jobs, trained, undisturbed):
    jobs.finish(*trained, "--num_samples", 1, command="predict")
    for run in (undisturbed(), RUNS / "version_0"):  # a fit, and a predict that has ended
        before = sorted(run.iterdir())
        job = jobs.start(*trained, "--resume", run, command="predict")
        assert job.wait() == 1
        assert job.last_line().endswith("is not the directory of an interrupted predict")
        assert sorted(run.iterdir()) == before


def test_an_interrupted_predict_resumes_without_drawing_again(jobs, trained):
    many = (*trained, "--num_samples", 1000, "--batch_size", 50)
    many += ("--model.sampler.num_steps", 1000)
    jobs.finish(*many, command="predict")
    job = jobs.start(*many, command="predict")
    parts = RUNS / "version_1/parts"
    job.wait_until(lambda: len(list(parts.glob("*.npz"))) >= 3)
    job.kill()
    begun = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.npz")}
    assert 3 <= len(begun) < 20
    resume = ("--resume", parts.parent)
    # Other samples, in a directory with these, would be mixed with them.
    job = jobs.start(*many, *resume, "--seed_everything", 5, command="predict")
    assert job.wait() == 1
    assert "has other samples: seed was 0, and is 5 now" in job.last_line()
    job = jobs.start(*many, *resume, command="predict", PLACE="predict")
    job.stop("predict", signal.SIGTERM, wait=0.5)
    assert job.wait() == 128 + signal.SIGTERM
    assert job.last_line().endswith(f"resume with --resume {parts.parent}")
    for name, written in begun.items():
        assert (parts / name).stat().st_mtime_ns == written
    jobs.finish(*many, *resume, command="predict")
    whole = samples_of("version_0")
    np.testing.assert_array_equal(samples_of("version_1"), whole)
    assert {path.name for path in (RUNS / "version_1").glob("[!.]*")} == WRITTEN
    some = ("--first_sample", 700, "--num_samples", 100)
    jobs.finish(*many, *some, command="predict")
    np.testing.assert_allclose(samples_of("version_2"), whole[700:800], atol=1e-5)
