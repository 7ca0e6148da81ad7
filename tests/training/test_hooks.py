"""The table in ``ncsn/callbacks/__init__.py``: who does what at each hook, and in which order.

Real runs record, around each call of a hook, what it changed: the weights of the module, the count
of the average, the usual loss, files, the checkpoint that it was given.
"""

import os
import re
import signal
from copy import deepcopy
from typing import NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from short_runs import Probe, fit, weights_in, weights_of
from support.runs import assert_same

import ncsn.callbacks
from ncsn.callbacks import EMA, Divergence, Preview
from ncsn.networks import MLP
from ncsn.runtime import GracefulStop, Resume, Stopped
from ncsn.runtime.signals import SIGNALS
from ncsn.sampling import Langevin

TABLE = {
    "on_train_batch_end": [
        ("EMA", "n_averaged"),
        ("Divergence", "usual_loss"),
        ("ModelCheckpoint", "checkpoints"),
        ("GracefulStop", "checkpoints"),
    ],
    "on_validation_start": [("EMA", "weights")],
    "on_validation_epoch_end": [("Preview", "pictures")],
    "on_validation_end": [("EMA", "weights"), ("ModelCheckpoint", "checkpoints")],
    "on_exception": [("EMA", "weights"), ("GracefulStop", "checkpoints")],
    "on_save_checkpoint": [("EMA", "checkpoint")],  # Divergence changes nothing: see below
    "on_load_checkpoint": [("EMA", "weights"), ("Resume", "checkpoint")],
    "on_train_end": [("EMA", "weights")],
    "on_fit_end": [("Preview", "pictures")],
}
"""For each hook, who changes what, in this order."""


class Call(NamedTuple):
    """A call of a hook, and the state around it."""

    hook: str
    callback: str
    before: dict
    after: dict

    @property
    def changes(self):
        return [name for name in self.before if not same(self.before[name], self.after[name])]


def same(first, second):
    try:
        assert_same(first, second)
    except AssertionError:
        return False
    return True


class Recording:
    """A run with the callbacks of the command line."""

    def __init__(self, directory, previews):
        self.directory, self.calls = directory, []
        preview = Preview(every_n_epochs=int(previews), num_samples=4, num_compared=0)
        sampler = Langevin(num_steps=2)
        self.module = StoppableProbe(MLP(hidden_dim=8), sampler=sampler, preview=preview)
        self.ema, self.divergence = EMA(0.9), Divergence()
        # Those that write checkpoints come first in this list, but are called last.
        self.callbacks = [
            ModelCheckpoint(directory, "{step}", every_n_train_steps=1, save_top_k=-1),
            ModelCheckpoint(directory, "validated", save_on_train_epoch_end=False),
            *(self.ema, self.divergence, Resume(), GracefulStop()),
        ]
        for callback in (*self.callbacks, preview):
            for hook in TABLE:
                self.watch(callback, hook)

    def watch(self, callback, hook):
        """Record the calls of a hook of a callback."""
        call = getattr(callback, hook)

        def watched(trainer, module, *args):
            before = self.state(hook, args)
            call(trainer, module, *args)
            name = type(callback).__name__
            self.calls.append(Call(hook, name, before, self.state(hook, args)))

        setattr(callback, hook, watched)

    def state(self, hook, args):
        """What a hook may change."""
        files = {path: path.stat() for path in self.directory.rglob("*.*")}
        state = {
            "weights": weights_of(self.module),
            "n_averaged": self.ema.n_averaged,
            "usual_loss": self.divergence.usual_loss,
        }
        for name, suffix in {"checkpoints": ".ckpt", "pictures": ".png"}.items():
            chosen = {path: stat for path, stat in files.items() if path.suffix == suffix}
            state[name] = {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in chosen.items()}
        if hook in ("on_save_checkpoint", "on_load_checkpoint"):
            state["checkpoint"] = deepcopy(args[0])
        return state

    def last(self, hook, callback=None):
        """The calls of the last time that Lightning called a hook, or that of one callback."""
        calls = [call for call in self.calls if call.hook == hook][-len(self.callbacks) - 1 :]
        if callback is None:
            return calls
        (call,) = (call for call in calls if call.callback == callback)
        return call


class StoppableProbe(Probe):
    """Sends its own process a signal in a training or validation step."""

    stop_in = None

    def training_step(self, batch, batch_idx):
        if self.stop_in == "training" and (self.current_epoch, batch_idx) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        if self.stop_in == "validation" and self.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().validation_step(batch, batch_idx)


class SaveAmidGradients(ModelCheckpoint):
    """Saves after the third batch of an epoch, when the gradient of one has been accumulated."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 2:
            trainer.save_checkpoint(f"{self.dirpath}/amid.ckpt")


def record(directory, stop_in=None, ckpt_path=None):
    """Record a run, which a signal ends in training or in validation if ``stop_in`` says so."""
    recording = Recording(directory, previews=stop_in is None and ckpt_path is None)
    recording.module.stop_in = stop_in
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    try:
        fit(
            recording.module,
            epochs=2,
            callbacks=[*recording.callbacks, SaveAmidGradients(directory)],
            logger=CSVLogger(directory),
            ckpt_path=ckpt_path,
            accumulate_grad_batches=2,
            num_sanity_val_steps=1,
        )
        assert stop_in is None
    except Stopped:
        assert stop_in is not None
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    return recording


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """``runs(name)`` is the recording of a run that is whole, resumed, or stopped somewhere."""
    found = {}

    def run(name):
        if name not in found:
            directory = tmp_path_factory.mktemp(name)
            stop_in = name if name in ("training", "validation") else None
            ckpt_path = run("whole").directory / "amid.ckpt" if name == "resumed" else None
            found[name] = record(directory, stop_in, ckpt_path)
        return found[name]

    return run


def load(path):
    return torch.load(path, weights_only=True)


def test_the_table_names_these_hooks_and_callbacks():
    _, _, body, _ = re.split(r"^=+ +=+\n", ncsn.callbacks.__doc__, flags=re.M)
    lines = re.findall(r"^(\w+)  +(.*(?:\n .*)*)", body, re.M)
    named = {hook: re.findall(r"``([A-Z]\w+)``", text) for hook, text in lines}
    expected = {hook: [callback for callback, _ in changes] for hook, changes in TABLE.items()}
    expected["on_save_checkpoint"] += ["Divergence"]
    expected["on_fit_end"].insert(0, "EMA")  # after a finished run
    assert named == expected


RUNS = {
    "on_train_batch_end": "training",
    "on_exception": "validation",
    "on_load_checkpoint": "resumed",
}
"""In which run to look; by default, in the whole one."""


@pytest.mark.parametrize("hook", TABLE)
def test_the_callbacks_change_what_the_table_says_in_its_order(runs, hook):
    calls = runs(RUNS.get(hook, "whole")).last(hook)
    found = [(call.callback, *call.changes) for call in calls if call.changes]
    assert found == TABLE[hook]


def test_validations_previews_and_the_end_see_the_average(runs):
    run = runs("whole")
    start, end = (run.last(f"on_validation_{moment}", "EMA") for moment in ("start", "end"))
    checkpoint = load(run.directory / "step=4.ckpt")  # of the last step before the validation
    average = weights_in(checkpoint["state_dict"], run.module)
    weights = weights_in(checkpoint["current_model_state"], run.module)
    assert not torch.equal(average, weights)
    assert torch.equal(start.before["weights"], weights)
    assert torch.equal(start.after["weights"], average)
    assert torch.equal(end.after["weights"], weights)
    for hook in ("on_validation_epoch_end", "on_fit_end"):
        assert torch.equal(run.last(hook, "Preview").before["weights"], average)
    assert len(run.module.sampled_with) == 3  # two previews, and the end
    assert all(torch.equal(seen, average) for seen in run.module.sampled_with[1:])
    assert torch.equal(run.last("on_train_end", "EMA").after["weights"], average)


@pytest.mark.parametrize(
    ("name", "file"), [("whole", "validated"), ("training", "last"), ("validation", "last")]
)
def test_each_of_them_saves_the_average_and_the_weights_of_the_last_step(runs, name, file):
    run = runs(name)
    last_step = f"step={3 if name == 'training' else 4}"
    saved, expected = (load(run.directory / f"{each}.ckpt") for each in (file, last_step))
    for part in ("state_dict", "current_model_state"):
        assert_same(saved[part], expected[part])


def test_a_checkpoint_is_checked_when_the_average_is_in_it(runs):
    calls = runs("whole").last("on_save_checkpoint")
    names = [call.callback for call in calls]
    assert names.index("EMA") < names.index("Divergence")
    assert "current_model_state" in calls[names.index("Divergence")].before["checkpoint"]


def test_a_checkpoint_gives_back_the_weights_the_average_and_the_progress(runs):
    checkpoint = load(runs("whole").directory / "amid.ckpt")
    run = runs("resumed")
    loaded = run.last("on_load_checkpoint", "EMA")
    average = weights_in(checkpoint["state_dict"], run.module)
    assert torch.equal(loaded.before["weights"], average)  # by Lightning
    weights = weights_in(checkpoint["current_model_state"], run.module)
    assert torch.equal(loaded.after["weights"], weights)
    assert torch.equal(run.module.before_batches[0], weights)
    # The third batch of four is taken again, since its gradient is not in the checkpoint.
    assert len(run.module.before_batches) == 2
    assert run.ema.n_averaged == 4
    for part in ("state_dict", "current_model_state"):
        resumed, whole = (load(runs(n).directory / "step=4.ckpt") for n in ("resumed", "whole"))
        assert_same(resumed[part], whole[part])
