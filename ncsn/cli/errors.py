"""The triage of errors: what is shown as one line, and what keeps its traceback.

Messages are worded where they are raised: those about checkpoints in
:mod:`ncsn.runtime.checkpoints` and :mod:`ncsn.cli.parser`.
"""

import os
import signal
import sys
import sysconfig
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.memory import is_oom_error

from ncsn.runtime.signals import SIGNALS, Stopped
from ncsn.runtime.watch import LOST

PACKAGE = str(Path(__file__).parents[1]) + os.sep

LIBRARIES = (
    *(
        sysconfig.get_path(name) + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    PACKAGE,
    "<",  # frozen modules
)
"""Where the files of Python, of installed packages, and of this project are."""

PACKAGES = {"site-packages", "dist-packages"}

DELIBERATE = (ValueError, OSError, FloatingPointError, MemoryError, ImportError)
"""What this package raises with a message for the user; a ``KeyError`` from it is a bug."""

OUT_OF_MEMORY = (
    "out of memory: lower data.batch_size (trainer.accumulate_grad_batches makes up for it; "
    "predict and restore have --batch_size) or the size of model.network, or set "
    "trainer.precision to bf16-mixed"
)


def exit_with(error: BaseException) -> NoReturn:
    """End the process with one line, or with the traceback of a user's own code.

    The traceback of an unexpected error goes to a file.
    """
    if isinstance(error, Stopped):
        for signum in SIGNALS:  # the first one decides how this ends
            signal.signal(signum, signal.SIG_IGN)
        if rank_zero_only.rank:  # type: ignore[attr-defined]
            sys.exit(128 + error.signum)
        fail(str(error), status=128 + error.signum)
    if isinstance(error, KeyboardInterrupt):
        fail("interrupted", status=128 + signal.SIGINT)
    if isinstance(error, RuntimeError) and is_oom_error(error):
        fail(OUT_OF_MEMORY)
    for note in getattr(error, "__notes__", ()):
        if note.startswith(LOST):
            fail(note)
    if (own := _user_error(error)) is not None:
        raise own
    if isinstance(error, OSError) and error.strerror:
        fail(f"{error.filename or 'a file or a network connection'}: {error.strerror}")
    if _raised_by_this_package(error) or isinstance(error, MisconfigurationException):
        fail(str(error))
    fail(f"{type(error).__name__}: {error}; {write_traceback(error)}")


def write_traceback(error: BaseException) -> str:
    """Write a traceback to a temporary file, or else to stderr; returns a text that says where."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="ncsn-", suffix=".txt", delete=False
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)
        return "the traceback is above"
    return f"the traceback is in {file.name}"


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line and exit."""
    sys.stderr.write("error: " + " ".join(message.split()) + "\n")
    sys.exit(status)


def root_cause(error: BaseException) -> BaseException:
    """The error below the messages of jsonargparse and Lightning."""
    deeper = error.__cause__ or error.__context__
    if deeper is None or not _raised_in(error)[0].startswith(("jsonargparse", "lightning")):
        return error
    return root_cause(deeper)


def _user_error(error: BaseException | None) -> BaseException | None:
    """The cause that passed through code that is no library's; its author wants to see it."""
    while error is not None:
        frames = traceback.walk_tb(error.__traceback__)
        if not all(_in_a_library(frame.f_code.co_filename) for frame, _ in frames):
            return error
        error = error.__cause__
    return None


def _in_a_library(path: str) -> bool:
    # A user's packages, or those of a distribution, are in none of the directories of this Python.
    return path.startswith(LIBRARIES) or not PACKAGES.isdisjoint(Path(path).parts)


def _raised_by_this_package(error: BaseException) -> bool:
    return isinstance(error, DELIBERATE) and _raised_in(error)[1].startswith(PACKAGE)


def _raised_in(error: BaseException) -> tuple[str, str]:
    """The module and the file that raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return (
        (frames[-1].f_globals["__name__"], frames[-1].f_code.co_filename) if frames else ("", "")
    )
