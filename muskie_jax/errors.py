"""Errors that end a run with one line and no traceback."""


def printable(text: str) -> str:
    """A text with names of files in it, on one line and in valid UTF-8, whatever the names are."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


class UserError(Exception):
    """Something in the config, the data or the work directory is wrong.

    The message is one line: what is wrong, and what to write instead.
    """


class NotFinite(Exception):
    """A loss or a state holds an infinite or undefined number; nothing of it was saved."""
