"""How every entry point ends."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from halo_ray.errors import AnswersNeededError
from halo_ray.runtime import input_error
from halo_ray.secret import redacted


def exit_code(work: Callable[[], object]) -> int:
    """Does the work of a job: 0 when done; 2, and one sentence on stderr, where something must be mended first.

    3, and one sentence, where answers are needed first; 1, and a traceback, where something went wrong that nobody
    foresaw. Credentials in URIs are not shown.
    """
    try:
        work()
        return 0
    except Exception as error:
        mendable = input_error(error)
        if mendable is None:
            print(redacted(traceback.format_exc()), file=sys.stderr)
            return 1
        waiting = isinstance(mendable, AnswersNeededError)
        print(redacted(f"{'waiting' if waiting else 'error'}: {mendable}"), file=sys.stderr)
        return 3 if waiting else 2
