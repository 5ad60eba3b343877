"""Find files below a root, local or in an object store, and make manifests of them."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from halo_ray.errors import InputError, has_control_characters, one_line
from halo_ray.filesystems import read_file, resolve

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
        kind = self._info(self._base)[0].type
        if kind == pafs.FileType.File:
            raise InputError(f"{root} is a file: name the directory that holds it")
        if kind != pafs.FileType.Directory:
            raise InputError(f"no directory {root}: check data_root")

    def has(self, folder: str) -> bool:
        """Whether there is a directory of that name right below."""
        return bool(self._info(f"{self._base}/{folder}")[0].type == pafs.FileType.Directory)

    def files(self) -> list[str]:
        """Paths of all files below the root."""
        every = self._info(pafs.FileSelector(self._base, recursive=True))
        return [self._path(info)[len(self._base) + 1 :] for info in every if info.is_file]

    def find(self, pattern: str) -> dict[str, str]:
        """Path below the root of each file that matches, by what the one * stands for (which may hold slashes).

        A pattern that ends in * takes files of any suffix, which is left out of what it stands for.

        Raises:
            InputError: two files for one name.
        """
        before, after = posixpath.normpath(pattern).lstrip("/").split("*")
        folder = f"{self._base}/{before}".rpartition("/")[0]
        prefix = f"{self._base}/{before}"
        found: dict[str, str] = {}
        for info in self._info(pafs.FileSelector(folder, recursive=True, allow_not_found=True)):
            whole = self._path(info)
            long_enough = len(whole) > len(prefix) + len(after)  # the * stands for something
            if info.is_file and long_enough and whole.startswith(prefix) and whole.endswith(after):
                name = whole[len(prefix) : len(whole) - len(after)]
                name = name if after else str(PurePosixPath(name).with_suffix(""))
                path = whole[len(self._base) + 1 :]
                if name in found:
                    raise InputError(
                        f"{found[name]} and {path} below {self.uri} have the same image id {name!r}: rename one"
                    )
                found[name] = path
        return found

    def path_uri(self, path: str) -> str:
        """How resolve() finds ``path``, which lies below the root; local files by their plain path."""
        path, parts = f"{self._base}/{path}", urlsplit(self.uri)
        if "://" not in self.uri or parts.scheme == "file":
            return path
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return f"{parts.scheme}://{user}{quote(path)}" + (f"?{parts.query}" if parts.query else "")

    def lines(self, path: str) -> list[str]:
        """The lines of a text file below the root, without empty ones.

        Raises:
            InputError: it cannot be read, or a line stands twice.
        """
        try:
            lines = read_file(self._filesystem, f"{self._base}/{path}").decode("utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise InputError(f"list {self.uri}/{path} cannot be read: check the split's name and data_root") from error
        names = [line.strip() for line in lines if line.strip()]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise InputError(f"list {self.uri}/{path} names {repeated[0]!r} twice: mend the list")
        return names

    def _path(self, info: pafs.FileInfo) -> str:
        try:
            return str(info.path)
        except UnicodeDecodeError as error:
            raise InputError(f"a file below {self.uri} is not named in UTF-8 ({error.object!r}): rename it") from error

    def _info(self, what: str | pafs.FileSelector) -> list[pafs.FileInfo]:
        try:
            found = self._filesystem.get_file_info(what)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{self.uri!r} cannot be listed ({one_line(error)}): check its name and your credentials"
            ) from error
        return found if isinstance(found, list) else [found]


def manifest(root: Root, rows: Iterable[tuple[str, str, str | None, str | None]]) -> pa.Table:
    """The manifest of (image id, image, label, label format), files by their path below the root; sorted by id.

    Raises:
        InputError: two images have the same id, or one has control characters in its name.
    """
    rows = sorted(rows)
    for name, image, _, _ in rows:
        if has_control_characters(name) or has_control_characters(image):
            raise InputError(f"{image!r} below {root.uri} has control characters in its name: rename it")
    for one, other in pairwise(rows):
        if one[0] == other[0]:
            raise InputError(f"{one[1]} and {other[1]} below {root.uri} have the same image id {one[0]!r}: rename one")
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
        raise InputError(f"{root}/{list_file} names {name!r}, but there is no image of that id: mend the list")
    return table.filter(pc.is_in(table["image_id"], pa.array(wanted, pa.string())))
