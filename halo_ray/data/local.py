"""What a name in a local filesystem leads to, found out without opening it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Hashable

from halo_ray.errors import printable

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

DANGLING = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""What is said of links that lead to nothing."""


def inode(status: os.stat_result, path: str) -> Hashable:
    """What all names of one file or directory have in common: links, hard links and mounts of the same."""
    # Some filesystems in user space number nothing.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def file_identity(path: str) -> Hashable | None:
    """The inode of the regular file that a name leads to; None where it leads to none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return inode(status, path) if stat.S_ISREG(status.st_mode) else None


def what_is(path: str) -> str | None:
    """What a name leads to that is no file, for a sentence; None for files, and where there is no such name."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno not in DANGLING or not os.path.islink(path):
            return None
        return "a dangling link, which leads " + (
            "back to itself" if error.errno == errno.ELOOP else f"to {printable(os.readlink(path))}"
        )
    return next((what for is_kind, what in _KINDS if is_kind(mode)), None)


def is_forbidden(path: str) -> bool:
    """Whether a file's own mode keeps this process from reading it.

    Where it does not, and the file cannot be read still, it is the mount that fails: its credentials may have run out.
    """
    try:
        status = os.stat(path)
    except OSError:
        return False
    if os.geteuid() == status.st_uid:
        return not status.st_mode & stat.S_IRUSR
    if status.st_gid in {os.getegid(), *os.getgroups()}:
        return not status.st_mode & stat.S_IRGRP
    return not status.st_mode & stat.S_IROTH
