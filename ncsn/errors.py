"""The exceptions that are shown to users as a single line."""

import os
import signal
import sysconfig
import traceback
from pathlib import Path

__all__ = ["Stopped", "UserError", "of_somebodys_own_code"]

LIBRARIES = (
    *(
        sysconfig.get_path(name) + os.sep
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
    str(Path(__file__).parent) + os.sep,
    "<",  # frozen modules
)
"""Where the files of Python, of all that is installed, and of this project are."""


class UserError(RuntimeError):
    """Something that the user can mend; the message names the value and the way out."""


class Stopped(Exception):
    """A signal has ended the run.

    Args:
        signum: The number of the signal.
        advice: How to go on, if there is a way.
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        self.signum, self.advice = signum, advice

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}{self.advice}"


def of_somebodys_own_code(error: BaseException) -> bool:
    """Whether an error came through code that is not a library's; its author wants to see it."""
    frames = traceback.walk_tb(error.__traceback__)
    return not all(frame.f_code.co_filename.startswith(LIBRARIES) for frame, _ in frames)
