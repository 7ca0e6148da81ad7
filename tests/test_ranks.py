"""A rank that dies or freezes takes the job down; torchrun starts it again where it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_resume import (
    DDP,
    LAST,
    MOONS,
    RUNS,
    assert_same_training,
    environment_of,
    finish,
    load_last,
    losses,
    short,  # noqa: F401
    start,
)
from test_signals import ENDLESS, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_rank_takes_the_job_down_within_a_minute(rank, signum):
    process = start(*DDP, *ENDLESS, PLACE="training")
    pids = [wait_for(Path(f"training-{rank}"), process) for rank in (0, 1)]
    time.sleep(0.3)
    begin = time.monotonic()
    os.kill(pids[rank], signum)
    while any(map(running, pids)):
        process.poll()
        assert time.monotonic() < begin + 60, Path("log.txt").read_text()
        time.sleep(0.1)
    assert process.wait() != 0
    *_, last = Path("log.txt").read_text().strip().splitlines()
    assert last.startswith("error: another process of this job has died, or has not answered")
    assert last.endswith("go on with --ckpt_path last")
    finish(*LAST, *DDP, "--model.lr_scheduler", "null")


def test_torchrun_starts_again_after_a_kill_and_ends_like_an_undisturbed_run():
    finish(*DDP)
    os.rename(RUNS / "version_0", "undisturbed")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    restarts = ("--nproc-per-node", "2", "--max-restarts", "2")
    with Path("log.txt").open("a") as log:
        result = subprocess.run(
            [*torchrun, *restarts, "-m", "ncsn", "fit", *map(str, (*MOONS, *DDP, *LAST))],
            env=environment_of(
                KILL_AT="20,33",
                KILL_RANK="1",
                # Otherwise torch 2.15 hands addresses of the processes before to those after.
                TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
            ),
            stdout=log,
            stderr=log,
            check=False,
        )
    assert result.returncode == 0, Path("log.txt").read_text()
    # A step is logged after its checkpoint is written: in between, rank 0 waits for the lost rank.
    assert_same_training(RUNS / "version_0", Path("undisturbed"), unlogged=2)


@pytest.mark.parametrize(("before", "after"), [((), DDP), (DDP, ())])
def test_a_checkpoint_goes_from_one_rank_to_two_and_back(before, after):
    process = start(*before, *ENDLESS, PLACE="training")
    pid = wait_for(Path("training-0"), process)
    os.kill(pid, signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    run = RUNS / "version_0"
    stopped = load_last(run)["global_step"]
    finish(*LAST, *after, "--model.lr_scheduler", "null")
    assert load_last(run)["global_step"] > stopped > 0
    assert sorted(losses(run))[0] == 0  # in the same run, whose losses are kept
