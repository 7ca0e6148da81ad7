"""The exceptions that are shown to users as a single line."""

import signal

__all__ = ["Stopped", "UserError"]


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
