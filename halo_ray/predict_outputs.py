"""Where class maps of images go, and which of them can be written there without harm to anything else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pyarrow as pa
from PIL.PngImagePlugin import PngInfo

from halo_ray import png_mark
from halo_ray.data.aliases import identity
from halo_ray.errors import BadRecordError, InputError
from halo_ray.parallel_reads import READERS
from halo_ray.patience import StorageError, reason
from halo_ray.storage import Storage

_COMMAND = "predict"
"""As the mark of our files names it."""

_KEY_BYTES = 1024
"""Longest key in an object store."""

_OF_THE_NAME = {errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EINVAL, errno.EILSEQ}
"""What a filesystem says where one file cannot be written, and another can."""


def output_names(image_id: str, overlay: bool) -> list[str]:
    """Names below OUT of what is written for an image."""
    return [f"{image_id}.png", *([f"{image_id}.overlay.png"] if overlay else [])]


def mark() -> PngInfo:
    """What Pillow writes into a PNG file so that png_mark.foreign knows it again."""
    info = PngInfo()
    for text in png_mark.mark(_COMMAND).items():
        info.add_text(*text)
    return info


def write_output(out: Storage, name: str, data: bytes, image: str) -> None:
    """Writes a file; what lies there by now gives way only if it is predict's own.

    Args:
        image: whose result it is, for errors.

    Raises:
        BadRecordError: this one cannot be written, while others may.
        StorageError: the storage fails: its disk is full, or it is away.
    """
    try:
        if not out.exists(name):
            with suppress(FileExistsError):  # hours may lie between the first look at OUT and this
                out.create(name, data)
                return
        if (why := png_mark.foreign(out, name, _COMMAND)) is not None:
            raise InputError(why)
        out.write(name, data)
    except StorageError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _OF_THE_NAME:
            raise
        raise BadRecordError(_unwritten(image, out, name, reason(error.__cause__))) from error
    except OSError as error:
        raise BadRecordError(_unwritten(image, out, name, reason(error))) from error
    except InputError as error:  # it is behind a link, or in another's place
        raise BadRecordError(_unwritten(image, out, name, str(error))) from error


def problems_of_outputs(images: pa.Table, folder: Storage, out: Storage, overlay: bool) -> dict[str, str]:
    """Why the results of images cannot be written, by image id; the others can as far as is known before.

    Args:
        images: manifest of what is to be predicted.
        folder: where these were looked for.

    Raises:
        InputError: a result would be one of the images, or lie among them and be an image of the next run.
    """
    ids = images["image_id"].to_pylist()
    uris = dict(zip(ids, images["image_uri"].to_pylist(), strict=True))
    problems: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    taken = _Taken()
    for image_id in ids:
        names[image_id] = output_names(image_id, overlay)
        if (found := taken.add(image_id, names[image_id])) is not None:
            name, other = found
            problems[image_id] = (
                f"image {uris[image_id]} is not predicted: its result {name} and one of {uris[other]} cannot both be "
                "written: rename one"
            )
    every = [name for image_id in ids for name in names[image_id]]
    _check_apart(images, folder, out, every)
    existing: _LocalOutputs | _StoredOutputs = _LocalOutputs(out) if out.local else _StoredOutputs(out, every)
    for image_id in ids:
        for name in names[image_id]:
            if image_id not in problems and (why := existing.problem(name)) is not None:
                problems[image_id] = _unwritten(uris[image_id], out, name, why)
    return problems


def _unwritten(image: str, out: Storage, name: str, why: str) -> str:
    return (
        f"image {image} is not predicted: {out.uri}/{name} cannot be written ({why}): move what is there, rename the "
        "image, or name another directory"
    )


class _Taken:
    """Names of files, and of the directories that these need: no two images may be in each other's way."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._directories: dict[str, str] = {}

    def add(self, image_id: str, names: Iterable[str]) -> tuple[str, str] | None:
        """Takes the names for an image; or, where one is taken, that name and the other image."""
        names = list(names)
        for name in names:
            if (other := self._files.get(name, self._directories.get(name))) is not None:
                return name, other
            for directory in _parents(name):
                if (other := self._files.get(directory)) is not None:
                    return name, other
        for name in names:
            self._files[name] = image_id
            for directory in _parents(name):
                self._directories.setdefault(directory, image_id)
        return None


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _check_apart(images: pa.Table, folder: Storage, out: Storage, names: list[str]) -> None:
    """Raises InputError where a result would be one of the images, or lie in a directory with some."""
    if folder.filesystem.type_name != out.filesystem.type_name:
        return
    uris = images["image_uri"].to_pylist()
    if not out.local:
        if stored := [name for name in ("", *names) if f"{out.root}/{name}".startswith(f"{folder.root}/")]:
            raise _within(out, stored[0], folder.uri)
        return
    # Real ones, whatever links lead there; images may be links to files elsewhere, which are then no others' place.
    held = {os.path.realpath(folder.root), *map(os.path.realpath, {os.path.dirname(uri) for uri in uris})}
    for parent in ("", *sorted({name.rpartition("/")[0] for name in names} - {""})):
        real = os.path.realpath(os.path.join(out.root, parent))
        if inside := [each for each in sorted(held) if f"{real}/".startswith(f"{each.rstrip('/')}/")]:
            raise _within(out, parent, inside[0])
    if not os.path.isdir(out.root):
        return
    files = {identity(uri): uri for uri in uris}
    files.pop(None, None)
    for name in names:
        if (uri := files.get(identity(f"{out.root}/{name}"))) is not None:
            raise InputError(f"{out.uri}/{name} is the image {uri}: write the class maps to a directory of their own")


def _within(out: Storage, name: str, folder: str) -> InputError:
    where = f"{out.uri}/{name}" if name else out.uri
    return InputError(f"{where} lies within {folder}: write the class maps to a directory of their own")


class _LocalOutputs:
    """What lies where local results will be written."""

    def __init__(self, out: Storage) -> None:
        self._out, self._root = out, out.root
        there = out.root
        while not os.path.isdir(there):
            there = os.path.dirname(there)
        self._longest = os.pathconf(there, "PC_NAME_MAX")
        self._closed: dict[str, bool] = {}

    def problem(self, name: str) -> str | None:
        """Why a name cannot be written, or must not since what has it is not ours; None: it can."""
        parts = name.split("/")
        if max(len(os.fsencode(part)) for part in parts) > self._longest:
            return f"a name has {self._longest} bytes at the most"
        directory = os.path.join(self._root, *parts[:-1])
        try:
            if (why := png_mark.foreign(self._out, name, _COMMAND)) is not None:
                return why
        except OSError as error:
            return reason(error)
        if directory not in self._closed:
            self._closed[directory] = os.path.isdir(directory) and not os.access(directory, os.W_OK | os.X_OK)
        return "its directory is not writable" if self._closed[directory] else None


class _StoredOutputs:
    """What lies in an object store where results will be written."""

    def __init__(self, out: Storage, names: list[str]) -> None:
        self._out = out
        there = sorted(set(out.tree("")) & set(names))
        with ThreadPoolExecutor(READERS) as readers:
            self._foreign = dict(
                zip(there, readers.map(lambda name: png_mark.foreign(out, name, _COMMAND), there), strict=True)
            )

    def problem(self, name: str) -> str | None:
        """As for local ones."""
        if len(self._out.path(name).partition("/")[2].encode()) > _KEY_BYTES:
            return f"a key has {_KEY_BYTES} bytes at the most"
        return self._foreign.get(name)
