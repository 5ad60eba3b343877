"""Local files that appear whole or not at all, and are on the disk when they have appeared."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

UNFINISHED = ".tmp"
"""Ends the names of files that are being written."""


def replace_local(path: str, data: bytes) -> None:
    """Writes a file, in whose place there may be another."""
    with _complete(path, data) as unfinished:
        os.replace(unfinished, path)


def create_local(path: str, data: bytes) -> None:
    """Writes a file that is not there yet; of several writers exactly one succeeds, on NFS too.

    Raises:
        FileExistsError: it is there already.
    """
    with _complete(path, data) as unfinished:
        _link(unfinished, path)


def sync(path: str) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _complete(path: str, data: bytes) -> Iterator[str]:
    """A file beside ``path`` that holds the data; when the body has given it its name, that is on the disk."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    unfinished = f"{path}.{uuid.uuid4().hex}{UNFINISHED}"
    try:
        with open(unfinished, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield unfinished
        sync(directory)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise OSError(
                f"its filesystem has no hard links, which keep two writers apart ({error.strerror})"
            ) from error
        raise
