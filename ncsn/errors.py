"""The one exception that is shown to users as a single line."""

__all__ = ["UserError"]


class UserError(RuntimeError):
    """Something that the user can mend; the message names the value and the way out."""
