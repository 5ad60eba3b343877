"""YAML that users write: read as it stands or refused, whatever it holds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

from halo_ray.errors import one_line
from halo_ray.secret import known

MOST_NODES = 100_000
"""Values and keys of a document, its aliases followed: a few lines of aliases could stand for more than fits memory."""


def load_yaml(text: str | bytes, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """What a document holds; None where it is empty. No error quotes its lines, which may hold half of a secret.

    Raises:
        yaml.YAMLError: it is no YAML, nests too deeply or without end, stands for too much, names a key twice, or holds
            a value that is not what it is marked as.
    """
    try:
        opened = loader(text)
        root = opened.get_single_node()
        if root is None:
            return None
        _count(root, {})
        return opened.construct_document(root)
    except yaml.MarkedYAMLError as error:
        for mark in filter(None, (error.context_mark, error.problem_mark)):
            mark.buffer = None
        raise
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except (ValueError, LookupError, AttributeError, TypeError) as error:  # of a date without a month, of `!!int ""`
        raise yaml.YAMLError(f"a value is not what it is marked as or looks like: {one_line(error)}") from error


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """How many nodes ``node`` stands for, itself included."""
    if id(node) in counted:
        if not counted[id(node)]:
            raise yaml.YAMLError("an alias stands for what it lies in")
        return counted[id(node)]
    counted[id(node)] = 0  # until all that lies in it is counted
    below: list[yaml.Node] = []
    if isinstance(node, yaml.ScalarNode):
        known(node.value)
    if isinstance(node, yaml.MappingNode):
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for (_, name), times in keys.items():
            if times > 1:
                raise yaml.YAMLError(f"the key {name!r} stands twice in one place")
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    counted[id(node)] = number = 1 + sum(_count(part, counted) for part in below)
    if number > MOST_NODES:
        raise yaml.YAMLError(f"with its aliases followed it holds more than {MOST_NODES} values")
    return number
