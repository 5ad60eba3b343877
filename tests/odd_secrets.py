"""Secrets of all characters, and what it means that nothing is told of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from halo_ray.errors import InputError
from halo_ray.secret import Secrets

ANOTHER = "Q7zQ7zQ7zQ7zQ7z"
ODD = [
    "a b/c?d#e@f",
    "p@ss/w:rd",
    "%&+=;",
    "'\"()<>[]{}",
    "\\n\\x41",
    "ключ/密码😀",
    "***",
    "50%x",
    "///",
    "a@bucket/x",
    "?x=1",
]

characters = st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("/?#@: %+&=\"'()<>[]\\")
secrets = st.text(characters, min_size=1, max_size=30) | st.sampled_from(ODD)
slow = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@contextmanager
def fresh() -> Iterator[None]:
    """A process that has seen no secret yet."""
    with patch("halo_ray.secret._SECRETS", Secrets()):
        yield


def forms(secret: str) -> set[str]:
    """How a secret could be read in a text."""
    return {secret, quote(secret), quote(secret, safe=""), unquote(secret), repr(secret)[1:-1]}


def is_clear(secret: str, raw: bool) -> bool:
    """Whether the secret means itself where it is written like that in a URI."""
    meant = unquote(secret) == secret and not re.search(r"\?[\w.&=-]*=", secret)
    return secret != "***" and (meant or not raw)


def as_written(secret: str, raw: bool) -> str:
    """The secret in a URI."""
    return secret if raw else quote(secret, safe="")


def tells_nothing(said: Callable[[str], str], secret: str, raw: bool) -> None:
    """Asserts that ``said``, of a secret as it is written in a URI, does not depend on it.

    A secret may be part of what is said of every one; then it is at least not to be found.
    """
    with fresh():
        expected = said(ANOTHER)
    assert ANOTHER not in expected
    with fresh():
        found = said(as_written(secret, raw))
    core = secret.strip()
    if not any(form in expected for form in forms(core)) and not any(part in expected for part in core.split()):
        assert found == expected
    elif len(core) >= 4:
        assert not re.search(rf"(?<![^\W_]){re.escape(core)}(?![^\W_])", found)


def error(work: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        work()
    return str(caught.value).replace('"', "'")  # repr chooses either
