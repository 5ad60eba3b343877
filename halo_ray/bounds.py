"""Ranges of the numbers that a user may set: each stands beside its key, and all are checked in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from halo_ray.errors import InputError

COUNT = 1_000_000_000
"""Largest number of things that are only counted; no computation with a few of them leaves 64 bits."""

YEAR = 366 * 86400
"""Longest time in seconds; every clock and timeout takes it."""


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``; as ``Annotated[float, Range(0, 1)]`` it bounds a field of a dataclass.

    Every number in a tuple is bounded, and None is left to the type.
    """

    low: float
    high: float
    infinite: bool = False
    """Infinity is allowed too."""

    def check(self, key: str, value: Any) -> None:
        """Raises InputError, which names ``key``, where a number in ``value`` lies outside."""
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if number is not None and not (self.low <= number <= self.high or (self.infinite and number == math.inf)):
                shown = list(value) if isinstance(value, (list, tuple)) else value
                no_limit = " or .inf" if self.infinite else ""
                raise InputError(f"{key} is {_short(shown)}: it must lie in {self.low}..{self.high}{no_limit}")


def check_ranges(section: object, prefix: str) -> None:
    """Check every field of a dataclass that is annotated with a Range.

    Args:
        prefix: of the keys in errors, as "training.".

    Raises:
        InputError: a number lies outside, or a field is None that may not be; the message names it.
    """
    kind: Any = type(section)
    for name, allowed, optional in _bounded(kind):
        value = getattr(section, name)
        if value is None and not optional:
            raise InputError(f"{prefix}{name} is null: give it a value or leave it out")
        allowed.check(f"{prefix}{name}", value)


@cache
def _bounded(section: Any) -> tuple[tuple[str, Range, bool], ...]:
    """Name, range and whether it may be None of every bounded field."""
    return tuple(
        (name, allowed, type(None) in get_args(hint.__origin__))
        for name, hint in get_type_hints(section, include_extras=True).items()
        for allowed in getattr(hint, "__metadata__", ())
        if isinstance(allowed, Range)
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:20]}...{text[-10:]}"
