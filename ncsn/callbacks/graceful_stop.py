"""Signals end a run with a checkpoint on all ranks, and a lost rank ends the others.

A signal handler may only take notes: the work is in mid-step, and other ranks wait for this one in
collectives. So a signal sets a flag, all ranks agree on it before a step of training, and after
that step they save a checkpoint and leave together.

A rank that waits in a collective runs no Python, and would not notice a signal nor that the rank
it waits for is gone. A thread beside it does: once a second it exchanges flags with those of the
other ranks, in a process group of its own whose operations fail when a rank does not take part.
"""

import os
import platform
import select
import signal
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, cast

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from ncsn.checkpoints import LAST
from ncsn.errors import Stopped, UserError

__all__ = ["LOST", "SIGNALS", "GracefulStop", "refuse_to_go_on"]

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

TIMEOUT = timedelta(seconds=40)
"""A rank that has not answered for so long is lost."""

GRACE = 5.0
"""Seconds in which a rank may report its own error after another is lost."""

HOW_TO_GO_ON = f"go on with --ckpt_path {LAST.removesuffix('.ckpt')}"

LOST = (
    f"another process of this job has died, or has not answered for {TIMEOUT.seconds} s; its own "
    "messages say why"
)


class GracefulStop(Checkpoint):
    """Ends a fit on SIGTERM, SIGINT and SIGUSR1 after the current step, with ``last.ckpt``.

    All else that is running ends at once. The exit status is 128 plus the signal's number, on all
    ranks, whichever of them was sent the signal. It is a ``Checkpoint`` so that Lightning calls it
    after all that changes the state of a step, like the average of the weights.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.agreed = 0
        self._advice: str | None = None
        self._watch: Watch | None = None
        self._previous: dict[int, Any] = {}
        self._fitting = False
        self._first_signal = float("inf")

    # ---- Lightning's hooks -------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take over the signals, and start watching the other ranks."""
        # Lightning's own handlers end without a checkpoint, and wait for each other under DDP.
        setattr(trainer._signal_connector, "register_signal_handlers", lambda: None)  # noqa: B010
        self._fitting = trainer.state.fn == TrainerFn.FITTING
        self._previous = {s: signal.signal(s, self._on_signal) for s in SIGNALS}
        if trainer.world_size > 1:
            self._watch = Watch(self, getattr(trainer.strategy.launcher, "procs", []))
            self._watch.start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave if the last step has been saved; agree on whether this one is the last.

        Raises:
            Stopped: If there was a signal.
        """
        if self._advice is not None:  # only now has Lightning logged that step
            raise Stopped(self.agreed, self._advice)
        self.agreed = self._agree(trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save the last step, once the optimizer has used all gradients.

        After the last step of an epoch comes a validation, which stops by itself.
        """
        if trainer.world_size == 1:
            self.agreed = self.signum
        loop = trainer.fit_loop
        last_of_epoch = loop.epoch_loop.batch_progress.is_last_batch
        if self.agreed and not loop._should_accumulate() and not last_of_epoch:
            self._advice = self._save(trainer)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leave a validation at once.

        Raises:
            Stopped: If there was a signal.
        """
        if self._fitting and (signum := self._agree(trainer)):
            raise Stopped(signum)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save what a stopped validation has not; leave the other ranks."""
        stopped = isinstance(exception, Stopped)
        if isinstance(exception, Stopped) and self._fitting and trainer.validating:
            # The training is as it was after the last step; the validation will be repeated.
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.reset()
            progress.increment_ready()
            progress.increment_started()
            exception.advice = self._save(trainer)
        if self._watch is not None:
            failed = isinstance(exception, RuntimeError) and not isinstance(exception, UserError)
            if failed and self._watch.lost.wait(GRACE):
                exception.add_note(self.lost_message())  # which the failure follows from
            # Only ranks of a fit have agreed on where they stop; others may be in a collective.
            self._watch.close(together=stopped and self._fitting)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Wait for the other ranks, and give the signals back.

        Raises:
            Stopped: If there was a signal, to any rank.
        """
        if self._watch is not None:
            self._watch.close(together=True)
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self.signum:
            raise Stopped(self.signum)

    # ---- helpers -----------------------------------------------------------------------------

    def lost_message(self) -> str:
        """What to say when another rank is lost."""
        return f"{LOST}. When that is mended, {HOW_TO_GO_ON}" if self._fitting else LOST

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and time.monotonic() > self._first_signal + 2:
            os._exit(128 + signum)  # the user insists
        self._first_signal = min(self._first_signal, time.monotonic())
        self.signum = self.signum or signum
        if not self._fitting:
            raise Stopped(self.signum)

    def _agree(self, trainer: pl.Trainer) -> int:
        """A signal that any rank has received, the same on all of them, or 0."""
        if trainer.world_size == 1:
            return self.signum
        # Lightning has just made the ranks wait for each other, and for their devices.
        signum = torch.tensor(self.signum, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(signum, reduce_op="max"))

    @staticmethod
    def _save(trainer: pl.Trainer) -> str:
        """Write the checkpoint beside those of the run; returns how to go on from it."""
        directories = [
            callback.dirpath
            for callback in trainer.checkpoint_callbacks
            if isinstance(callback, ModelCheckpoint) and callback.dirpath
        ]
        if not directories or trainer.sanity_checking or not trainer.global_step:
            return ""
        path = Path(directories[0]) / LAST
        trainer.save_checkpoint(path, weights_only=False)  # the optimizer's state too
        return f" after step {trainer.global_step}; {HOW_TO_GO_ON} ({path})"


class Watch(threading.Thread):
    """Tells all ranks of a signal to one of them, and ends this rank when another is lost.

    Args:
        stop: Where a signal is noted.
        children: Processes of other ranks that this one has started.
    """

    def __init__(self, stop: GracefulStop, children: list[Any]) -> None:
        super().__init__(name="watch", daemon=True)
        self._stop_flag = stop
        # Lightning kills this process when one of them ends, be it as it should.
        self._children = children.copy()
        children.clear()
        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self._group = cast(dist.ProcessGroup, group)
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, (platform.node(), os.getpid()), self._group)
        self._parent = os.getppid() if (platform.node(), os.getppid()) in ranks else None
        self._finished, self._failed = threading.Event(), threading.Event()
        self._told = threading.Event()  # the other ranks know of the signal
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
                received = [s for s in self._receiver.recv(64) if s in SIGNALS]
                self._stop_flag.signum = self._stop_flag.signum or next(iter(received), 0)
            flags = torch.tensor([self._stop_flag.signum, not self._finished.is_set()])
            try:
                dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
            except RuntimeError:
                self.lost.set()
                return self._end()
            signum, others_work = flags.tolist()
            if signum:
                self._told.set()
            if signum and not self._stop_flag.signum:
                self._stop_flag.signum = signum
                os.kill(os.getpid(), signum)  # the handler runs in the main thread

    def close(self, *, together: bool) -> None:
        """Stop watching; wait for the other ranks to do so if ``together``."""
        if together:
            self._finished.set()
            self.join()
        else:
            if self._stop_flag.signum:
                self._told.wait(GRACE)
            self._failed.set()
            self.join(GRACE)  # Python must not end while it is in a collective
        signal.set_wakeup_fd(-1)

    def _end(self) -> None:
        """Another rank is lost: end this one, unless it ends by itself."""
        if self._failed.wait(GRACE):
            return
        if not self._stop_flag.signum:
            sys.stderr.write(f"error: {self._stop_flag.lost_message()}\n")
            sys.stderr.flush()
        for child in self._children:
            child.kill()
        if self._parent is not None and self._parent == os.getppid():
            os.kill(self._parent, signal.SIGKILL)
        os._exit(128 + self._stop_flag.signum if self._stop_flag.signum else 1)


def refuse_to_go_on(trainer: pl.Trainer) -> None:
    """Raise :class:`ncsn.errors.Stopped` if a signal has arrived; for long work on one rank."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, GracefulStop) and callback.signum:
            raise Stopped(callback.signum)
