"""The mark in PNG files of ours, by which they are told from files of somebody else."""

from __future__ import annotations

import os
import stat

from halo_ray.data.local import what_is
from halo_ray.patience import patiently
from halo_ray.storage import Storage

_KEY, _HEAD = "Software", 4096
"""Keyword of the PNG text that is the mark; bytes at the beginning of a file of ours that hold it."""


def mark(command: str) -> dict[str, str]:
    """The PNG texts that a command writes into its files so that ``foreign`` knows them again."""
    return {_KEY: f"halo_ray {command}"}


def foreign(storage: Storage, name: str, command: str) -> str | None:
    """Why what has a name must not be replaced; None: it is the command's own, or nothing has the name."""
    path = storage.path(name)
    try:
        if storage.local:
            mode = os.lstat(path).st_mode
            if not stat.S_ISREG(mode):
                return f"there is {'a link' if stat.S_ISLNK(mode) else what_is(path) or 'no file'} of that name"
            head = _local_head(path)
        else:
            head = patiently(lambda: _stored_head(storage, path), f"{storage.uri}/{name}", storage.patience)
    except FileNotFoundError:
        return None
    ((key, text),) = mark(command).items()
    marked = b"tEXt" + f"{key}\0{text}".encode() in head
    return None if marked else f"there is a file of that name that {command} did not write"


def _local_head(path: str) -> bytes:
    """The beginning of a file; nothing where it cannot be read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""


def _stored_head(storage: Storage, path: str) -> bytes:
    with storage.filesystem.open_input_file(path) as file:
        return bytes(file.read(_HEAD))
