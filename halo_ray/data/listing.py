"""Find files below a root, local or in an object store, and make manifests of them."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from halo_ray.data.aliases import identity
from halo_ray.data.walk import Tree, walk
from halo_ray.errors import InputError, has_control_characters, one_line, printable
from halo_ray.filesystems import read_file, resolve
from halo_ray.patience import reason
from halo_ray.secret import known, redacted

MANIFEST = pa.schema(
    [
        ("image_id", pa.string()),
        ("image_uri", pa.string()),
        ("label_uri", pa.string()),
        ("label_format", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)
"""Columns of a manifest. label_uri is null where there is no label; label_format says how a public dataset numbers its
classes (label_formats.LABEL_FORMATS), null where the class set does; height and width are the image's in pixels, null
until it was read."""

MAX_SIDE = 65_536
"""Places in an image are stored in 16 bits."""


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

LIST_BYTES = 256 << 20
"""Of the largest file with image ids that is read."""

NAMED_LINKS = 5
"""So many links that are not followed are printed."""


def check_pattern(key: str, pattern: str) -> None:
    """Raises InputError, which names ``key``, where no or several * stand in the pattern."""
    if pattern.count("*") != 1 or "*" not in posixpath.normpath(pattern):  # which a .. behind it takes away
        raise InputError(f"{key}: pattern {pattern!r} needs exactly one *, which stands for the image id")


class Root:
    """A directory or URI with images.

    Raises:
        InputError: it is no directory, or its store refuses.
    """

    def __init__(self, root: str) -> None:
        self.uri = root
        self._filesystem, self._base = resolve(root)
        self._local = isinstance(self._filesystem, pafs.LocalFileSystem)
        self._before, self._after = known(root).around
        kind = self._info(self._base)[0].type
        if kind == pafs.FileType.File:
            raise InputError(f"{root} is a file: name the directory that holds it")
        if kind != pafs.FileType.Directory:
            raise InputError(f"no directory {root}: check data_root")

    def has(self, folder: str) -> bool:
        """Whether there is a directory of that name right below."""
        return bool(self._info(f"{self._base}/{folder}")[0].type == pafs.FileType.Directory)

    def images(self) -> list[str]:
        """Paths below the root of all names with the suffix of an image; says what links were not followed."""
        tree = self._tree("", "")
        found = [path for path in (*tree.files, *tree.directories) if _suffix(path).lower() in IMAGE_SUFFIXES]
        self._say_what_is_left_out(tree, found)
        return found

    def names(self, pattern: str) -> list[tuple[str, str]]:
        """What the one * stands for (it may hold slashes), and the path below the root, of every name that matches.

        What is no file is among them: dangling links, pipes, and directories that are named like an image; a reader
        says so. Several names may lead to one file. A pattern that ends in * takes files of any suffix, which is left
        out of what it stands for. Says what links were not followed.
        """
        tree, found = self._matching(pattern)
        self._say_what_is_left_out(tree, [path for _, path in found])
        return found

    def find(self, pattern: str, wanted: Iterable[str] = ()) -> dict[str, str]:
        """The same as path by what the * stands for, for labels: one file may be that of several images.

        Args:
            wanted: looked for also behind links to directories that lie below the root under another name.

        Raises:
            InputError: two files for one name.
        """
        tree, names = self._matching(pattern)
        found: dict[str, str] = {}
        for name, path in names:
            if name in found and not self._is_same(found[name], path):
                raise InputError(
                    f"{found[name]} and {path} below {self.uri} have the same image id {name!r}: rename one"
                )
            found.setdefault(name, path)
        before, after = _halves(pattern)
        if tree.again and after:
            behind = ((name, f"{before}{name}{after}") for name in wanted if name not in found)
            found |= {name: path for name, path in behind if os.path.lexists(f"{self._base}/{path}")}
        return found

    def path_uri(self, path: str) -> str:
        """How resolve() finds ``path``, which lies below the root; local files by their plain path."""
        path = f"{self._base}/{path}"
        return path if self._local else f"{self._before}{quote(path)}{self._after}"

    def lines(self, path: str) -> list[str]:
        """The lines of a text file below the root, without empty ones.

        Raises:
            InputError: it cannot be read, or a line stands twice.
        """
        try:
            data = read_file(self._filesystem, f"{self._base}/{path}", LIST_BYTES)
            lines = data.decode("utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else one_line(error)
            raise InputError(
                f"list {self.uri}/{path} cannot be read ({why}): check the split's name and data_root"
            ) from error
        names = [line.strip() for line in lines if line.strip()]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise InputError(f"list {self.uri}/{path} names {repeated[0]!r} twice: fix the list")
        return names

    def _matching(self, pattern: str) -> tuple[Tree, list[tuple[str, str]]]:
        """What lies where a pattern begins, and of that what names() says."""
        before, after = _halves(pattern)
        tree = self._tree(before, after)
        # Without a suffix in the pattern any directory matches it, and holds images as a rule.
        named_like_images = [
            path
            for path in tree.directories
            if "." in after.rpartition("/")[2] or _suffix(path).lower() in IMAGE_SUFFIXES
        ]
        shortest = len(before) + len(after) + 1  # the * stands for something
        found = []
        for path in (*tree.files, *named_like_images):
            if len(path) >= shortest and path.startswith(before) and path.endswith(after):
                name = path[len(before) : len(path) - len(after)]
                found.append((name if after else without_suffix(name), path))
        return tree, found

    def _tree(self, before: str, after: str) -> Tree:
        """All that lies below the root and begins so; locally every directory under one name (see walk)."""
        if self._local:
            try:
                return walk(self._base, before, after)
            except OSError as error:
                raise self._unlisted(error) from error
        folder = f"{self._base}/{before}".rpartition("/")[0]
        tree = Tree()
        for info in self._info(pafs.FileSelector(folder, recursive=True, allow_not_found=True)):
            path = self._path(info)[len(self._base) + 1 :]
            (tree.directories if info.type == pafs.FileType.Directory else tree.files).append(path)
        return tree

    def _is_same(self, one: str, other: str) -> bool:
        found = identity(self.path_uri(one))
        return found is not None and found == identity(self.path_uri(other))

    def _say_what_is_left_out(self, tree: Tree, named: Collection[str]) -> None:
        """Prints the links that may lead to images, and that nothing else will name."""
        unnamed = set(tree.nowhere) - set(named)
        for what, paths in (
            ("directories that are listed already under another name", tree.again),
            ("links that lead nowhere", sorted(unnamed)),
        ):
            if paths:
                more = f" and {len(paths) - NAMED_LINKS} more" if len(paths) > NAMED_LINKS else ""
                shown = ", ".join(map(printable, paths[:NAMED_LINKS]))
                print(redacted(f"{self.uri}: passed over {what} ({len(paths)}): {shown}{more}"), flush=True)

    def _path(self, info: pafs.FileInfo) -> str:
        try:
            return str(info.path)
        except UnicodeDecodeError as error:
            raise InputError(f"a file below {self.uri} is not named in UTF-8 ({error.object!r}): rename it") from error

    def _info(self, what: str | pafs.FileSelector) -> list[pafs.FileInfo]:
        try:
            found = self._filesystem.get_file_info(what)
        except (OSError, ValueError) as error:
            raise self._unlisted(error) from error
        return found if isinstance(found, list) else [found]

    def _unlisted(self, error: Exception) -> InputError:
        return InputError(f"{self.uri!r} cannot be listed ({one_line(error)}): check its name and your credentials")


def without_suffix(path: str) -> str:
    """A path without the suffix of its file: the image id."""
    return path[: len(path) - len(_suffix(path))]


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix


def _halves(pattern: str) -> tuple[str, str]:
    """What stands before and behind the * of a pattern."""
    before, after = posixpath.normpath(pattern).lstrip("/").split("*")
    return before, after


def manifest(root: Root, rows: Iterable[tuple[str, str, str | None, str | None]]) -> pa.Table:
    """The manifest of (image id, image, label, label format), files by their path below the root; sorted by id.

    An id may stand there several times; aliases.one_name_each decides.

    Raises:
        InputError: an image has control characters in its name, or letters that are no UTF-8.
    """
    rows = sorted(rows)
    for name, image, _, _ in rows:
        if has_control_characters(name) or has_control_characters(image):
            raise InputError(f"{image!r} below {root.uri} has control characters or no UTF-8 in its name: rename it")
    listed: list[dict[str, Any]] = [
        {
            "image_id": name,
            "image_uri": root.path_uri(image),
            "label_uri": None if label is None else root.path_uri(label),
            "label_format": label_format,
        }
        for name, image, label, label_format in rows
    ]
    return pa.Table.from_pylist(listed, schema=MANIFEST)


def only_listed(table: pa.Table, root: str, list_file: str | None) -> pa.Table:
    """The rows whose ids stand in a list below the root, one a line; all of them without a list.

    Raises:
        InputError: the list cannot be read, or names an image that is not there.
    """
    if list_file is None:
        return table
    wanted = Root(root).lines(list_file)
    missing = set(wanted) - set(table["image_id"].to_pylist())
    if missing:
        name = next(name for name in wanted if name in missing)
        raise InputError(f"{root}/{list_file} names {name!r}, but there is no image of that id: fix the list")
    return table.filter(pc.is_in(table["image_id"], pa.array(wanted, pa.string())))
