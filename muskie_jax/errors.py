"""The one kind of error that is the user's to mend."""


class UserError(Exception):
    """Something in the config, the data or the work directory is wrong.

    The message is one line: what is wrong, and what to write instead. The command line prints it
    without a traceback and exits with status 2.
    """
