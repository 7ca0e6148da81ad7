"""Signals end a run with a checkpoint on all ranks.

A signal handler may only set a flag: a step is in progress, and other ranks wait for this one in
collectives. All ranks agree on the flag before a training step, save a checkpoint after it, and
leave together. For a rank that waits in a collective, see :mod:`ncsn.runtime.watch`.
"""

import os
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from ncsn.runtime.checkpoints import LAST, LastCheckpoint
from ncsn.runtime.resume import repeat_validation, validation_is_due
from ncsn.runtime.watch import GRACE, LOST, Watch

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
HOW_TO_RESUME = f"resume with --ckpt_path {LAST.removesuffix('.ckpt')}"


class Stopped(Exception):
    """A signal has ended the run; ``advice`` says how to resume, if that is possible."""

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signum, advice)
        self.signum, self.advice = signum, advice

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}{self.advice}"


class GracefulStop(Checkpoint):
    """Ends a fit on one of ``SIGNALS`` after the current step, with ``last.ckpt``.

    All else ends at once. The exit status is 128 plus the signal's number, on all ranks. What is
    ignored at the start, like SIGHUP under ``nohup``, stays ignored. It is a ``Checkpoint`` so
    that Lightning calls it after what changes a step's state, like the average.
    """

    def __init__(self) -> None:
        self.signum = self.agreed = 0
        self._advice: str | None = None
        self._watch: Watch | None = None
        self._previous: dict[int, Any] = {}
        self._fitting, self._first_signal = False, float("inf")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over the signals, and start watching the other ranks."""
        # Lightning's own handlers end without a checkpoint, and deadlock under DDP.
        setattr(trainer._signal_connector, "register_signal_handlers", lambda: None)  # noqa: B010
        self._fitting = trainer.state.fn == TrainerFn.FITTING
        heeded = [s for s in SIGNALS if signal.getsignal(s) != signal.SIG_IGN]
        self._previous = {s: signal.signal(s, self._on_signal) for s in heeded}
        if trainer.world_size > 1:
            self._watch = Watch(self, SIGNALS, getattr(trainer.strategy.launcher, "procs", []))
            self._watch.start()

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Leave if the last step has been saved; agree on whether this one is the last."""
        if self._advice is not None:  # only now has Lightning logged that step
            raise Stopped(self.agreed, self._advice)
        self.agreed = self._agree(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save the last step, once the optimizer has used all gradients."""
        if trainer.world_size == 1:
            self.agreed = self.signum
        loop = trainer.fit_loop
        last_of_epoch = loop.epoch_loop.batch_progress.is_last_batch
        if last_of_epoch and validation_is_due(trainer):
            return  # the validation stops by itself
        if self.agreed and not loop._should_accumulate():
            self._advice = self._save(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Leave a validation at once."""
        if self._fitting and (signum := self._agree(trainer)):
            raise Stopped(signum)

    def on_sampling_step(self, trainer: Trainer) -> None:
        """Leave a sampling at once, which one rank does while the others wait for it."""
        if self.signum:
            raise Stopped(self.signum)

    def on_exception(self, trainer: Trainer, _: Any, exception: Any) -> None:
        """Save what a stopped validation has not; leave the other ranks."""
        stopped_fit = isinstance(exception, Stopped) and self._fitting
        if stopped_fit and trainer.validating:
            repeat_validation(trainer)  # the training is as it was after the last step
            exception.advice = self._save(trainer)
        # The ranks that this one has started would wait for it, unless a Watch has taken them.
        # Lightning looks at its list every 5 s, and kills this process if one of them has ended.
        started: list[Any] = getattr(trainer.strategy.launcher, "procs", [])
        ranks = started.copy()
        started.clear()
        for rank in ranks:
            rank.kill()
        if self._watch is not None:
            # When a rank is lost, collectives fail on the others.
            if isinstance(exception, RuntimeError) and self._watch.lost.wait(GRACE):
                exception.add_note(self.lost_message())
            # Only ranks of a fit have agreed on where they stop; others may be in a collective.
            self._watch.close(together=stopped_fit)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the other ranks, and give the signals back."""
        if self._watch is not None:
            self._watch.close(together=True)
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self.signum:
            raise Stopped(self.signum)

    def lost_message(self) -> str:
        """What to say when another rank is lost."""
        return f"{LOST}. When that is fixed, {HOW_TO_RESUME}" if self._fitting else LOST

    def _on_signal(self, signum: int, _: Any) -> None:
        if signum == signal.SIGINT and time.monotonic() > self._first_signal + 2:
            os._exit(128 + signum)  # the user insists
        self._first_signal = min(self._first_signal, time.monotonic())
        if signum == signal.SIGHUP:
            _leave_terminal()
        self.signum = self.signum or signum
        if not self._fitting:
            raise Stopped(self.signum)

    def _agree(self, trainer: Trainer) -> int:
        """A signal that any rank has received, the same on all of them, or 0."""
        if trainer.world_size == 1:
            return self.signum
        # Lightning has just made the ranks wait for each other, and for their devices.
        signum = torch.tensor(self.signum, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(signum, reduce_op="max"))

    @staticmethod
    def _save(trainer: Trainer) -> str:
        """Write the checkpoint to the run's directory; returns how to resume from it."""
        callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        callbacks.sort(key=lambda each: not isinstance(each, LastCheckpoint))
        directories = [callback.dirpath for callback in callbacks if callback.dirpath]
        if not directories or trainer.sanity_checking or not trainer.global_step:
            return ""
        path = Path(directories[0]) / LAST
        trainer.save_checkpoint(path, weights_only=False)  # the optimizer's state too
        return f" after step {trainer.global_step}; {HOW_TO_RESUME} ({path})"


def _leave_terminal() -> None:
    """Write to nowhere instead of a terminal that is gone, or a pipe that is about to be."""
    with Path(os.devnull).open("w") as nowhere, suppress(OSError):  # of streams that are closed
        for stream in (1, 2):
            if not (os.isatty(stream) or stat.S_ISREG(os.fstat(stream).st_mode)):
                os.dup2(nowhere.fileno(), stream)
