"""Local files that appear whole or not at all, and are on the disk when they have appeared."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

NOBODY = "0" * 16
"""Owner of files that are written without a lock."""

_UNFINISHED = re.compile(r"\.halo_ray-([0-9a-f]{16})-[0-9a-f]{12}\.tmp")
"""Name of a file that is being written: whose it is, and a number of its own. It does not hold the name that the file
will have, which may be as long as names can be."""

Check = Callable[[], None]
"""Raises where this process may write no longer."""


def unfinished_owner(name: str) -> str | None:
    """Owner of a file that is being written, or was when its writer died; None for any other file."""
    found = _UNFINISHED.fullmatch(name.rpartition("/")[2])
    return found and found[1]


def replace_local(path: str, data: bytes, owner: str = NOBODY, check: Check = lambda: None) -> None:
    """Writes a file, in whose place there may be another.

    Args:
        owner: 16 hexadecimal digits that name the writer's run, should it die now.
        check: called when all is written and only the file's name is missing.
    """
    with _complete(path, data, owner) as unfinished:
        check()
        os.replace(unfinished, path)


def create_local(path: str, data: bytes, owner: str = NOBODY, check: Check = lambda: None) -> None:
    """Writes a file that is not there yet; of several writers exactly one succeeds, on NFS too.

    Raises:
        FileExistsError: it is there already.
    """
    with _complete(path, data, owner) as unfinished:
        check()
        _link(unfinished, path)


def delete_local(path: str, owner: str = NOBODY, check: Check = lambda: None) -> None:
    """Deletes a file, or a directory with all it holds; no link is followed.

    It is renamed first, and comes back under its name where ``check`` raises then: it may be another writer's by now.

    Raises:
        FileNotFoundError: it is not there.
    """
    aside = _beside(path, owner)
    check()
    os.rename(path, aside)
    try:
        check()
    except BaseException:
        with suppress(OSError):  # there is a new one under its name
            if os.path.isdir(aside):
                os.rename(aside, path)
            else:
                os.link(aside, path)
                os.unlink(aside)
        raise
    if os.path.isdir(aside) and not os.path.islink(aside):
        shutil.rmtree(aside)
    else:
        os.unlink(aside)


def sync(path: str) -> None:
    """Waits until a file, or the names in a directory, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _complete(path: str, data: bytes, owner: str) -> Iterator[str]:
    """A file beside ``path`` that holds the data; when the body has given it its name, that is on the disk."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    unfinished = _beside(path, owner)
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


def _beside(path: str, owner: str) -> str:
    return os.path.join(os.path.dirname(path), f".halo_ray-{owner}-{uuid.uuid4().hex[:12]}.tmp")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise OSError(
                f"its filesystem has no hard links, which keep two writers apart ({error.strerror})"
            ) from error
        raise
