"""Errors that end a run with one line and no traceback."""


def printable(text: str) -> str:
    """A text with names of files in it, on one line and harmless to terminals, whatever the names are."""
    escaped = lambda c: c.encode("unicode_escape").decode()
    return "".join(c if c.isprintable() else escaped(c) for c in text)


class UserError(Exception):
    """Something in the config, the data or the work directory is wrong.

    The message is one line: what is wrong, and what to write instead.
    """

    def __init__(self, message: str):
        super().__init__(printable(" ".join(message.split())))


class NotFinite(Exception):
    """A loss or a state holds an infinite or undefined number; nothing of it was saved."""
