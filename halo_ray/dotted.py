"""Functions of a user's own, named by their dotted path."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from halo_ray.errors import InputError
from halo_ray.suggest import nearest


def own_function(name: str, key: str, known: Iterable[str], of: str) -> Callable[..., Any]:
    """What ``package.module.function`` names.

    Args:
        key: of the configuration, as errors name it.
        known: names that stand for functions of ours; the nearest one is named where ``name`` is no path.
        of: what it is a function of.

    Raises:
        InputError: there is none.
    """
    module, _, attribute = name.rpartition(".")
    if not all(name.split(".")) or not module:
        raise InputError(f"{key}: no function {name!r}; {nearest(name, known)}")
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{key}: cannot import {module!r} for {name!r} ({error}): put it on the PYTHONPATH of every node"
        ) from error
    except Exception as error:  # whatever a user's module raises while it is run
        raise InputError(f"{key}: importing {module!r} for {name!r} failed ({said(error)}): mend it") from error
    found = getattr(imported, attribute, None)
    if found is None:
        raise InputError(f"{key}: module {module!r} has no {attribute!r}: check the name")
    if not callable(found):
        raise InputError(f"{key}: {name!r} is no function of {of}: name one")
    function: Callable[..., Any] = found
    return function


def said(error: Exception) -> str:
    """What a user's function raised, to be part of a sentence."""
    return f"{type(error).__name__}: {error}"
