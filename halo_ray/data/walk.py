"""Walk a local directory in which links lead anywhere: it ends, and enters each directory once."""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from halo_ray.data.local import DANGLING, inode


@dataclass(frozen=True)
class Tree:
    """Paths below a base directory, all of which begin as was asked."""

    files: list[str] = field(default_factory=list)
    """Whatever is no directory: files, and what cannot be read as one."""
    directories: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    """Directories that were not entered, since they are ones that were, under another name."""
    nowhere: list[str] = field(default_factory=list)
    """Links among the files that lead to nothing; it may have been a directory."""


def walk(base: str, before: str = "", after: str = "") -> Tree:
    """All paths below ``base`` that begin with ``before``; a base that is not there has none.

    Links are followed. Names that need none come first: of several names of a directory the one with the fewest links
    is entered, then the first in the order of the alphabet.

    Args:
        after: how the names end that are looked for. Where it has slashes, a directory is entered again under a name
            that makes other files end so.

    Raises:
        OSError: a directory cannot be read, so that what lies in it is unknown.
    """
    walker = _Walk(base.rstrip("/"), before, after)
    level = [before.rpartition("/")[0]]
    while level:
        level = sorted(walker.without_links(level))
    return walker.tree


class _Walk:
    def __init__(self, base: str, before: str, after: str) -> None:
        self.tree = Tree()
        self._base, self._before = base, before
        self._top, _, self._rest = before.rpartition("/")
        parts = after.split("/")
        self._ends = ["/".join(parts[:count]) for count in range(1, len(parts))]
        self._entered: set[Hashable] = set()

    def without_links(self, directories: Iterable[str]) -> list[str]:
        """Enters these, and all below them that no link leads to; returns the links to directories."""
        links: list[str] = []
        left = list(directories)[::-1]
        while left:
            directory = left.pop()
            if not self._is_new(directory):
                self.tree.again.append(directory)
                continue
            below: list[str] = []
            for path, entry in self._entries(directory):
                if self._is_directory(path, entry):
                    self.tree.directories.append(path)
                    (links if entry.is_symlink() else below).append(path)
                else:
                    self.tree.files.append(path)
            left += below[::-1]
        return links

    def _entries(self, directory: str) -> list[tuple[str, os.DirEntry[str]]]:
        """All that begin as was asked, with their paths."""
        try:
            with os.scandir(self._absolute(directory)) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile
            return []
        except PermissionError:
            if directory.rpartition("/")[2] == "lost+found":  # every volume has one, for root alone
                return []
            raise
        prefix = f"{directory}/" if directory else ""
        paths = [(f"{prefix}{entry.name}", entry) for entry in found]
        return [(path, entry) for path, entry in paths if path.startswith(self._before)]

    def _is_directory(self, path: str, entry: os.DirEntry[str]) -> bool:
        """Whether it is one, or a link to one."""
        if not entry.is_symlink():
            return entry.is_dir()
        try:
            return stat.S_ISDIR(entry.stat().st_mode)
        except OSError as error:
            if error.errno not in DANGLING:  # it may be a directory with images
                raise
            self.tree.nowhere.append(path)
            return False

    def _is_new(self, directory: str) -> bool:
        """Whether nothing that could be found in a directory has been found under another name of it."""
        path = self._absolute(directory)
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return True
        # In the topmost one, names must begin with the rest of what was asked, and hold a letter for the * of a
        # pattern; further down they begin as they like.
        is_top = directory == self._top and bool(self._rest or self._ends)
        ended = (directory.endswith(end) and len(directory) > len(self._before) + len(end) for end in self._ends)
        state = (inode(status, path), is_top, *ended)
        if state in self._entered:
            return False
        self._entered.add(state)
        return True

    def _absolute(self, path: str) -> str:
        return f"{self._base}/{path}"
