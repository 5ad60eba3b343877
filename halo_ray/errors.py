"""Errors that the user can mend."""


class InputError(Exception):
    """A configuration, file or machine that cannot be used as it is.

    The message is one sentence that names the file, key or id, and what to do; jobs print it and exit with code 2.
    """


class BadRecordError(InputError):
    """An image or label that cannot be used, or on which the network fails; others may be fine."""


def one_line(error: BaseException) -> str:
    """What an error of another library says, to be part of a sentence."""
    return " ".join(str(error).split())
