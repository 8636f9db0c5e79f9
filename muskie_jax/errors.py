"""Errors that end a run with one line and no traceback."""


def printable(text: str) -> str:
    """A text with names of files in it, on one line and harmless to terminals, whatever the names are."""
    escaped = lambda c: c.encode("unicode_escape").decode()
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def one_line(message: str) -> str:
    """A message as one harmless line, however it was broken."""
    return printable(" ".join(message.split()))


def first_line(error: Exception) -> str:
    """What somebody else's exception says first, or its kind if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class UserError(Exception):
    """Something in the config, the data or the work directory is wrong.

    The message is one line: what is wrong, and what to write instead.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


class NotFinite(Exception):
    """A loss or a state holds an infinite or undefined number; nothing of it was saved."""
