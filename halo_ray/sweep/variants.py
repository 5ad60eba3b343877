"""Named variants of a configuration: some of its keys with other values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import Any, TypeVar

import yaml

from halo_ray.config import Config, config_from_yaml, config_to_yaml, identity
from halo_ray.errors import InputError
from halo_ray.suggest import nearest

Section = TypeVar("Section")


def typed_settings(base: Config, settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Values of dotted identity keys as ``base`` with them would hold them, each checked as in a file.

    Args:
        settings: as YAML holds them.
        name: what errors call them.

    Raises:
        InputError: an unknown key, or one that does not make an experiment what it is; a value that cannot be used.
    """
    known = identity(base)
    tree = yaml.safe_load(config_to_yaml(base))
    for key, value in settings.items():
        if key not in known:
            raise InputError(f"{name}: {key} is no key that a trial could differ in; {nearest(key, known)}")
        *above, last = key.split(".")
        reduce(dict.__getitem__, above, tree)[last] = value
    parsed = config_from_yaml(yaml.safe_dump(tree), name)
    return {key: reduce(getattr, key.split("."), parsed) for key in settings}


def with_settings(own: Section, settings: Mapping[str, Any]) -> Section:
    """A configuration, or a section of one, with other values of dotted keys, all of a section at once.

    Raises:
        InputError: the values contradict each other or the rest.
    """
    below: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        first, _, rest = key.partition(".")
        below.setdefault(first, {})[rest] = value
    values = {
        first: with_settings(getattr(own, first), rests) if "" not in rests else rests[""]
        for first, rests in below.items()
    }
    return replace(own, **values)  # type: ignore[type-var]
