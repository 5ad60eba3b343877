"""How every entry point ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from halo_ray.runtime import input_error


def exit_code(work: Callable[[], object]) -> int:
    """Does the work of a job: 0 when done; 2, and one sentence on stderr, where something must be mended first."""
    try:
        work()
        return 0
    except Exception as error:
        mendable = input_error(error)
        if mendable is None:
            raise
        print(f"error: {mendable}", file=sys.stderr)
        return 2
