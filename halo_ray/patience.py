"""Storage that fails now and then: tried again, ever more slowly, and given up after a stated time."""

from __future__ import annotations

import errno
import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from halo_ray.errors import InputError, one_line
from halo_ray.secret import redacted

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds for which an operation is tried again, where nothing else is said."""

FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0
"""Seconds between two tries."""

TOLD_AFTER = 1.0
"""Seconds after which it is said that an operation fails, where the next try comes later."""

ANSWERS = FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError
"""What a storage that works says too: it is not asked again."""

NEVER = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
"""What is said of a name that no patience makes a file."""


class StorageError(InputError):
    """A storage that failed for too long; what was committed is as it was."""


def patiently(operation: Callable[[], T], name: str, seconds: float) -> T:
    """The result of an operation of a storage, which must bear repetition.

    Full disks, lost permissions, stores that are busy or away: whatever is an OSError may be over in a moment.

    Args:
        name: of what is read or written.
        seconds: for how long to try again.

    Raises:
        StorageError: it still fails then.
        OSError: one of ANSWERS, at once.
    """
    start, wait, told = time.monotonic(), FIRST_WAIT, False
    while True:
        try:
            return operation()
        except ANSWERS:
            raise
        except OSError as error:
            if error.errno in NEVER:
                raise StorageError(f"{name} cannot be read or written ({reason(error)}): mend its name") from error
            left = start + seconds - time.monotonic()
            if left <= 0:
                raise StorageError(
                    f"{name} could not be read or written for {seconds:g} s ({reason(error)}): mend its storage; the "
                    "same command goes on from what is committed"
                ) from error
            # Many actors that were refused together must not come back together.
            pause = min(wait * random.uniform(0.5, 1), left)
            if seconds - left + pause > TOLD_AFTER and not told:  # not of what is over at once
                told = True
                said = f"{name}: {reason(error)}; trying again for up to {left:.0f} s"
                print(redacted(said), file=sys.stderr, flush=True)
        time.sleep(pause)
        wait = min(2 * wait, LONGEST_WAIT)


def reason(error: OSError) -> str:
    """Why, for a sentence."""
    return error.strerror or one_line(error)
