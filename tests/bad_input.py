"""What tests of bad input share: damage to bytes, and the only two ways in which reading it may end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from halo_ray.errors import InputError, has_control_characters

SECONDS = 60
"""In which each case must have ended."""

MANY_CASES = pytest.mark.timeout(10 * SECONDS)
"""Of a test that is many cases, each of which has its own SECONDS."""

HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
"""What a server says instead of the file that was asked for."""

DAMAGES = "flip", "flips", "cut", "longer", "empty", "zeros", "noise"


def examples(number: int) -> settings:
    """So many random cases of a test, the same ones every time."""
    slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=timedelta(seconds=SECONDS),
        database=None,
        phases=[Phase.explicit, Phase.generate],  # the smallest failure is not worth the minutes of a slow machine
        suppress_health_check=slow,
    )


def damaged(data: bytes, kind: str, seed: int) -> bytes:
    """Other bytes than ``data``: a bit or a handful flipped somewhere, cut off, and so on."""
    chance = random.Random(f"{kind}{seed}")
    changed = bytearray(data)
    if kind in ("flip", "flips"):
        for place in chance.sample(range(len(data)), 1 if kind == "flip" else min(7, len(data))):
            changed[place] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        changed = changed[: chance.randrange(1, len(data))]
    elif kind == "longer":
        changed += chance.randbytes(chance.randrange(1, 99))
    elif kind == "empty":
        changed = bytearray()
    elif kind == "zeros":
        changed = bytearray(len(data))
    else:
        changed = bytearray(chance.randbytes(len(data)))
    assert changed != data
    return bytes(changed)


def assert_one_sentence(said: str, *parts: str) -> None:
    """A line that a person can read, with all of ``parts`` in it."""
    assert said
    assert not has_control_characters(said), said
    assert "Traceback" not in said
    for part in parts:
        assert part in said


def refused(read: Callable[[], object], *parts: str) -> str:
    """The sentence with which ``read`` refuses; any other error, and none, fail the test."""
    with pytest.raises(InputError) as caught:
        read()
    assert_one_sentence(str(caught.value), *parts)
    return str(caught.value)


def same_or_refused(read: Callable[[], Any], whole: Any, *parts: str) -> bool:
    """Whether ``read`` gave ``whole`` in spite of the damage; where it did not, it said so."""
    try:
        found = read()
    except InputError as error:
        assert_one_sentence(str(error), *parts)
        return False
    assert found == whole
    return True


class Payload:
    """A pickled object that makes a file where it is unpickled as its author means it."""

    def __init__(self, file: str) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._file,)
