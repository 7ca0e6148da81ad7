"""Short trainings of two moons that a test starts, watches and interrupts."""

import os
import subprocess
import sys
import time
from pathlib import Path

from support.paths import CONFIGS, ROOT
from support.processes import SUPPORT
from support.ranks import start_ranks

MOONS = ("--config", CONFIGS / "moons.yaml", "--config", Path(__file__).with_name("short.yaml"))
PYTHON = (sys.executable, "-m")
DDP = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
LAST = ("--ckpt_path", "last")
ENDLESS = ("--trainer.max_epochs", 10_000, "--model.lr_scheduler", "null")
RUNS = Path("lightning_logs/moons")
CHECKPOINT = Path("checkpoints/last.ckpt")
EPOCHS, BATCHES = 3, 31
STEPS, EVERY = 16 * EPOCHS, 3  # steps of the optimizer, and between two checkpoints


class Job:
    """A command that runs, as one process or as several ranks.

    Args:
        processes: The processes that the test has started, in the order of their ranks.
        log: File with the output of all.
    """

    def __init__(self, processes, log):
        self.processes, self.log = processes, log

    @property
    def pid(self):
        """The process number of the first rank."""
        return self.processes[0].pid

    def output(self):
        """What all ranks have written."""
        return self.log.read_text()

    def last_line(self):
        """The last line that any rank has written."""
        return self.output().strip().splitlines()[-1]

    def poll(self):
        """The exit statuses, or None while a rank runs."""
        statuses = [process.poll() for process in self.processes]
        return None if None in statuses else statuses

    def wait(self):
        """Wait for all ranks; returns their exit status, which must be the same."""
        (status,) = {process.wait() for process in self.processes}
        return status

    def kill(self):
        """Kill all ranks, and wait until they are gone."""
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_until(self, condition, seconds=120):
        """Wait until a condition is true while the job runs."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.output()[-3000:]
            assert self.poll() is None, self.output()[-3000:]
            time.sleep(0.01)

    def wait_for(self, place, rank=0):
        """The process number that a rank writes when it gets to a place."""
        path = Path(f"{place}-{rank}")
        self.wait_until(path.exists)
        return int(path.read_text())

    def wait_for_all(self, place, world_size):
        """The same for each rank."""
        return [self.wait_for(place, rank) for rank in range(world_size)]

    def end(self, pids, signum, to=(0,), seconds=60):
        """Send a signal to some of the ranks; returns the seconds until all are gone."""
        begin = time.monotonic()
        for rank in to:
            os.kill(pids[rank], signum)
        while self.poll() is None or any(map(running, pids)):
            assert time.monotonic() < begin + seconds, self.output()[-3000:]
            time.sleep(0.01)
        return time.monotonic() - begin

    def stop(self, place, signum, to=(0,), world_size=1, wait=0.3):
        """Do that a moment after all ranks got to a place."""
        pids = self.wait_for_all(place, world_size)
        time.sleep(wait)
        return self.end(pids, signum, to)


class Jobs:
    """Starts jobs in the working directory.

    Args:
        server: The fixture of that name.
    """

    def __init__(self, server):
        self.server, self.log = server, Path("log.txt").absolute()

    def start(self, *options, command="fit", ranks=1, **environment):
        """Start a command with the configs of this module."""
        args = (command, *MOONS, *options)
        if ranks > 1:
            return Job(start_ranks(self.server, ranks, args, self.log, environment), self.log)
        return Job([self.server.start(args, self.log, environment)], self.log)

    def start_program(self, *command, popen=None, **environment):
        """Start any program instead; ``jobs.start_program(*PYTHON, ...)`` is a genuine process."""
        with self.log.open("a") as log:
            options = {"stdout": log, "stderr": log, **(popen or {})}
            process = subprocess.Popen([*map(str, command)], env=genuine(**environment), **options)
        return Job([process], self.log)

    def finish(self, *options, **kwargs):
        """Run a command to its end, which must be a good one."""
        job = self.start(*options, **kwargs)
        assert job.wait() == 0, job.output()


def genuine(**environment):
    """The environment of a process that the server does not start."""
    paths = {
        "PYTHONPATH": f"{ROOT}:{SUPPORT}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # python is this one
    }
    return {**os.environ, **paths, "OMP_NUM_THREADS": "1", **environment}


def running(pid):
    """Whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def descendants(pid):
    """The processes below a process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield int(path.parent.name)
            yield from descendants(int(path.parent.name))


def catches(pid, signum):
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signum - 1) & 1)
