"""The file that --json names: it takes the place of nothing but what the same command wrote earlier."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from halo_ray.atomic import replace_local
from halo_ray.errors import InputError


def check_replaceable(file: str, keys: Collection[str]) -> None:
    """Checks that ``file`` can be written without loss.

    Args:
        keys: of the JSON object that will be written; an earlier one is known by them.

    Raises:
        InputError: there is something else: another file, or a link that leads nowhere.
    """
    if not os.path.lexists(file) or _is_device(file):
        return
    try:
        found = json.loads(Path(file).read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.keys() != set(keys):
        raise InputError(f"--json {file} is there, and this command did not write it: name another file")


def write_json_file(file: str, value: Mapping[str, Any]) -> None:
    """Writes a JSON object whole or not at all, unless ``file`` is no file but, say, /dev/stdout.

    Raises:
        InputError: it cannot be written, or check_replaceable refuses it.
    """
    check_replaceable(file, value)
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    try:
        if _is_device(file):
            Path(file).write_text(text)
        else:
            # What a link leads to is an earlier one, so the link may stay.
            replace_local(os.path.realpath(file), text.encode())
    except OSError as error:
        raise InputError(f"--json {file} cannot be written: {error.strerror}") from error


def _is_device(file: str) -> bool:
    """Whether it is there, but neither a file nor a directory."""
    return os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file)
