"""Real processes of the command line that do not pay for the imports.

A server process imports the package once and forks for each command line. What it starts has its
own process number, environment, working directory and output, gets signals like any other, and
ends with its own exit status.
"""

import atexit
import gc
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent


class Process:
    """A process that the server has started; used like ``subprocess.Popen``."""

    def __init__(self, connection):
        self._connection, self.returncode = connection, None
        self.pid = int(self._receive())

    def _receive(self):
        line = b""
        while not line.endswith(b"\n"):
            part = self._connection.recv(1)
            if not part:
                raise EOFError("the server has gone")
            line += part
        return line

    def poll(self):
        """The exit status, or None while the process runs."""
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                if selector.select(0):
                    self.returncode = int(self._receive())
                    self._connection.close()
        return self.returncode

    def wait(self, timeout=300):
        """Wait for the process to end; returns its exit status."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"process {self.pid} has not ended within {timeout} s")
            time.sleep(0.005)
        return self.returncode

    def send_signal(self, signum):
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self):
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self):
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The server, in a process of its own."""

    def __init__(self, directory):
        self.path = str(directory / "server")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{SUPPORT}"}
        command = [sys.executable, __file__, self.path]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)

    def start(self, args, log, environment=None, cwd=None):
        """Start ``python -m ncsn ARGS``.

        Args:
            args: The command line.
            log: File that output and errors are appended to.
            environment: Variables that differ from this process's; None takes one away.
            cwd: Working directory; by default, that of this process.
        """
        connection = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + 120
        while True:
            try:
                connection.connect(self.path)
                break
            except OSError:
                assert time.monotonic() < end, "the server does not start"
                assert self._process.poll() is None, "the server has ended"
                time.sleep(0.05)
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{SUPPORT}"}
        env |= environment or {}
        request = {
            "args": [str(arg) for arg in args],
            "log": str(Path(log).absolute()),
            "env": {name: value for name, value in env.items() if value is not None},
            "cwd": str(cwd or Path.cwd()),
        }
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Process(connection)

    def stop(self):
        """End the server."""
        self._process.kill()
        self._process.wait()


def _run(request):
    """In the child: become ``python -m ncsn ARGS``."""
    import importlib.util

    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[:0] = [path for path in request["env"]["PYTHONPATH"].split(":") if path]
    sys.argv = ["ncsn", *request["args"]]
    # Lightning starts further ranks with the command that started this process.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("ncsn.__main__")
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    # After a fork, torch makes its thread pool again when it is first needed. Two threads that
    # need it at once, such as those that read images, would race ("Invalid thread pool").
    torch.set_num_threads(1)
    rank_zero_only.rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    from ncsn.cli import main

    try:
        main()
    except SystemExit as stop:
        if not isinstance(stop.code, int | None):
            raise
        _exit(stop.code or 0)
    _exit(0)


def _exit(status):
    """End as Python does, but for the freeing of all objects, most of which are the server's."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve(path):
    """Fork for each request, and tell who asked how it ended."""
    import torch
    import wandb  # noqa: F401

    torch.set_num_threads(1)
    import ncsn.cli.features  # noqa: F401
    from ncsn.cli.commands import fit
    from ncsn.cli.parser import CLI

    with suppress(SystemExit), redirect_stdout(io.StringIO()):  # fills jsonargparse's caches
        CLI(["--config", str(ROOT / "configs/moons.yaml"), "--print_config"], fit)
    gc.collect()
    gc.freeze()  # a collection in a child would copy all the memory that it shares

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    wakeup, alarm = socket.socketpair()
    wakeup.setblocking(False)
    alarm.setblocking(False)
    signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(wakeup, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(1.0):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    request = json.loads(connection.makefile().readline())
                    pid = os.fork()
                    if not pid:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        signal.signal(signal.SIGINT, signal.default_int_handler)
                        for each in (listener, wakeup, alarm, connection, *children.values()):
                            each.close()
                        return _run(request)
                    children[pid] = connection
                    connection.sendall(f"{pid}\n".encode())
                else:
                    wakeup.recv(4096)
            while children:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                connection = children.pop(pid, None)
                if connection is not None:
                    with suppress(OSError):  # nobody may wait for it any more
                        code = os.waitstatus_to_exitcode(status)
                        connection.sendall(f"{code}\n".encode())
                    connection.close()


if __name__ == "__main__":
    _serve(sys.argv[1])
