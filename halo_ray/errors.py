"""Errors that the user can fix."""

import re

from halo_ray.secret import redacted

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class InputError(Exception):
    """A configuration, file or machine that cannot be used as it is.

    The message is one sentence that names the file, key or id, and what to do; jobs print it and exit with code 2. It
    has no credentials in it: some are stored.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class AnswersNeededError(InputError):
    """People, or whoever else labels, must answer first; the same command goes on then. Jobs exit with code 3."""


class BadRecordError(InputError):
    """An image or label that cannot be used, or on which the network fails; others may be fine."""


def has_control_characters(text: str) -> bool:
    """Whether it would break a line, steer a terminal, or be no UTF-8."""
    return _CONTROL.search(text) is not None


def printable(text: str) -> str:
    """The text with its control characters as escapes."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(error: BaseException) -> str:
    """What an error of another library says, to be part of a sentence; without credentials, since it may be cut."""
    return printable(" ".join(redacted(str(error)).split()))
