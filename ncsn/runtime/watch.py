"""A thread that notices what a rank in a collective cannot.

A rank that waits in a collective runs no Python. It would notice neither a signal nor that the
rank it waits for is gone. This thread does: once a second it exchanges flags with those of the
other ranks, in a process group of its own, whose operations fail when a rank does not take part.
"""

import os
import platform
import select
import signal
import socket
import sys
import threading
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

TIMEOUT = timedelta(seconds=40)  # a rank that has not answered for so long is lost
GRACE = 5.0  # seconds in which a rank may report its own error after another is lost
LOST = (
    f"another process of this job has died, or has not answered for {TIMEOUT.seconds} s; its own "
    "messages say why"
)


class Watch(threading.Thread):
    """Passes one of ``signals`` to a rank on to all; ends this rank when another is lost.

    ``stop`` is the ``GracefulStop`` of this rank, ``children`` those that this one has started.
    """

    def __init__(self, stop: Any, signals: tuple[int, ...], children: list[Any]) -> None:
        super().__init__(name="watch", daemon=True)
        self._flag, self._signals = stop, signals
        # Lightning kills this process when one of them ends, even in good order.
        self._children = children.copy()
        children.clear()
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=TIMEOUT))
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, (platform.node(), os.getpid()), self._group)
        self._parent = os.getppid() if (platform.node(), os.getppid()) in ranks else None
        self._finished, self._failed = threading.Event(), threading.Event()
        self._passed_on = threading.Event()  # the other ranks know of the signal
        self.lost = threading.Event()
        # Python writes the number of a signal here even while the main thread is in a collective.
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)

    def run(self) -> None:
        """Exchange flags until all ranks have finished."""
        others_work = True
        while others_work and not self._failed.is_set():
            if select.select([self._receiver], [], [], 1.0)[0]:
                received = [s for s in self._receiver.recv(64) if s in self._signals]
                self._flag.signum = self._flag.signum or next(iter(received), 0)
            flags = torch.tensor([self._flag.signum, not self._finished.is_set()])
            try:
                dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
            except RuntimeError:
                self.lost.set()
                return self._end()
            signum, others_work = flags.tolist()
            if signum:
                self._passed_on.set()
            if signum and not self._flag.signum:
                self._flag.signum = signum
                os.kill(os.getpid(), signum)  # the handler runs in the main thread

    def close(self, *, together: bool) -> None:
        """Stop watching; wait for the other ranks to do so if ``together``."""
        if not together and self._flag.signum:
            self._passed_on.wait(GRACE)
        (self._finished if together else self._failed).set()
        self.join(None if together else GRACE)  # Python must not end while it is in a collective
        signal.set_wakeup_fd(-1)

    def _end(self) -> None:
        """Another rank is lost: end this one, unless it ends by itself."""
        if self._failed.wait(GRACE):
            return
        if not self._flag.signum:
            print(f"error: {self._flag.lost_message()}", file=sys.stderr, flush=True)
        for child in self._children:
            child.kill()
        if self._parent is not None and self._parent == os.getppid():
            os.kill(self._parent, signal.SIGKILL)
        os._exit(128 + self._flag.signum if self._flag.signum else 1)
