"""A rank that dies or freezes takes the job down; torchrun restarts the job where it was."""

from signal import SIGKILL, SIGSTOP, SIGTERM

import pytest
from support.jobs import DDP, ENDLESS, LAST, MOONS, PYTHON, RUNS
from support.runs import assert_same_training, load_last, losses

RESUMED = (*LAST, "--model.lr_scheduler", "null")


def assert_lost(job):
    """The last line says what happened, and that line is true."""
    last = job.last_line()
    assert last.startswith("error: another process of this job has died, or has not answered")
    assert last.endswith("resume with --ckpt_path last")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_takes_the_job_down_within_a_minute(rank, jobs):
    job = jobs.start(*ENDLESS, ranks=2, PLACE="training")
    assert job.stop("training", SIGKILL, to=(rank,), world_size=2) < 60
    assert job.processes[rank].wait() == -SIGKILL
    assert job.processes[1 - rank].wait() == 1
    assert_lost(job)
    jobs.finish(*RESUMED, ranks=2)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_frozen_rank_takes_ranks_that_lightning_has_started_down_within_a_minute(rank, jobs):
    # The other rank kills it, be it the one that started it or the one that it started.
    job = jobs.start(*DDP, *ENDLESS, PLACE="training")
    assert job.stop("training", SIGSTOP, to=(rank,), world_size=2) < 60
    assert job.wait() != 0
    assert_lost(job)
    jobs.finish(*RESUMED, ranks=2)


def test_torchrun_restarts_a_job_after_a_kill_and_it_ends_like_an_undisturbed_one(
    jobs, undisturbed
):
    torchrun = (*PYTHON, "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    job = jobs.start_program(
        *(*torchrun, "--max-restarts", 2, "-m", "ncsn", "fit", *MOONS, *DDP, *LAST),
        KILL_AT="20,33",
        KILL_RANK="1",
        # Otherwise torch 2.15 hands addresses of the processes before to those after.
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )
    assert job.wait() == 0, job.output()
    # A step is logged after its checkpoint is written: in between, rank 0 waits for the lost rank.
    assert_same_training(RUNS / "version_0", undisturbed(2), unlogged=2)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_checkpoint_goes_from_one_rank_to_two_and_back(before, after, jobs):
    job = jobs.start(*ENDLESS, ranks=before, PLACE="training")
    job.stop("training", SIGTERM, world_size=before)
    assert job.wait() == 128 + SIGTERM
    run = RUNS / "version_0"
    stopped = load_last(run)["global_step"]
    jobs.finish(*RESUMED, ranks=after)
    assert load_last(run)["global_step"] > stopped > 0
    assert min(losses(run)) == 0  # in the same run, whose losses are kept
