"""Errors that end a run with one line and no traceback."""


class UserError(Exception):
    """Something in the config, the data or the work directory is wrong.

    The message is one line: what is wrong, and what to write instead.
    """


class NotFinite(Exception):
    """A loss or a state holds an infinite or undefined number; nothing of it was saved."""
