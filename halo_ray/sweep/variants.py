"""Named variants of a configuration: some of its keys with other values, as YAML holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import yaml

from halo_ray.config import Config, config_from_yaml, config_to_yaml, identity
from halo_ray.errors import InputError
from halo_ray.suggest import nearest

Section = TypeVar("Section")


def with_settings(base: Config, settings: Mapping[str, Any], name: str) -> Config:
    """``base`` with other values of dotted identity keys, each checked as in a file.

    Args:
        name: what errors call the settings.

    Raises:
        InputError: an unknown key, or one that does not make an experiment what it is; a value that cannot be used.
    """
    known = identity(base)
    tree = yaml.safe_load(config_to_yaml(base))
    for key, value in settings.items():
        if key not in known:
            raise InputError(f"{name}: {key} is no key that a trial could differ in; {nearest(key, known)}")
        section = tree
        *above, last = key.split(".")
        for part in above:
            section = section[part]
        section[last] = value
    # Only what is named is taken from the text, in which credentials of URIs do not stand.
    return _taken(base, config_from_yaml(yaml.safe_dump(tree), name), [key.split(".") for key in settings])


def _taken(own: Section, other: Any, keys: Sequence[Sequence[str]]) -> Section:
    """``own`` with the fields that ``keys`` lead to as ``other`` has them, all of a section at once."""
    below: dict[str, list[Sequence[str]]] = {}
    for first, *rest in keys:
        below.setdefault(first, []).append(rest)
    values = {
        first: _taken(getattr(own, first), getattr(other, first), rests) if rests[0] else getattr(other, first)
        for first, rests in below.items()
    }
    return replace(own, **values)  # type: ignore[type-var]
