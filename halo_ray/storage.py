"""The experiment directory on any pyarrow filesystem."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from halo_ray.atomic import UNFINISHED, create_local, replace_local, sync
from halo_ray.errors import InputError
from halo_ray.exclusive import create_object
from halo_ray.filesystems import below, read_file, resolve
from halo_ray.patience import PATIENCE, patiently, reason
from halo_ray.secret import redacted

T = TypeVar("T")

DIGEST = "sha256"
"""Key of a sealed JSON file that holds the digest of all others; ends the name of a checksum file too."""

WRITE_TEST = "write-test-"
"""Begins the names of files that only show whether a storage can be written to."""

_NAME_BYTES = 200
"""Longest file name that is made from an id; most filesystems end at 255."""


def safe_name(name: str) -> str:
    """A file name for an id of any length and letters; different ids give different names."""
    quoted = quote(name, safe="")
    if len(quoted) <= _NAME_BYTES:
        return quoted
    # = is never left by quote, so no other id has this name.
    return f"{quoted[: _NAME_BYTES - 65]}={hashlib.sha256(name.encode()).hexdigest()}"


def round_directory(number: int) -> str:
    """Where a round keeps its files; round 0 is what stands before any purchase."""
    return f"rounds/{number:03d}"


class Storage:
    """A directory on a pyarrow filesystem; names are relative to it, with ``/`` between parts.

    Files appear whole or not at all: locally by writing beside and renaming, on object stores because an upload shows
    only when it is complete. What fails is tried again for a while; after that StorageError is raised.

    Args:
        patience: seconds for which an operation that fails is tried again.
        guard: called before every change; raises where this process may write no longer.
    """

    def __init__(self, uri: str, patience: float = PATIENCE, guard: Callable[[], None] | None = None) -> None:
        # Absolute, because actors open the same storage from directories of their own.
        self.uri = uri if "://" in uri else os.path.abspath(uri)
        self.patience, self.guard = patience, guard
        self.filesystem, self.root = resolve(uri)
        self.local = isinstance(self.filesystem, pafs.LocalFileSystem)

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.uri, self.patience, self.guard)

    def __repr__(self) -> str:
        return f"Storage({redacted(self.uri)})"

    def path(self, name: str) -> str:
        """The path of ``name`` in ``self.filesystem``.

        Raises:
            InputError: it would lie outside this directory.
        """
        if ".." in name.split("/"):
            raise InputError(f"{name!r} lies outside of {self.uri}: nothing there is read or written")
        return f"{self.root}/{name}"

    def below(self, name: str) -> Storage:
        """The directory ``name`` of this one, as a storage of its own."""
        return Storage(below(self.uri, name), self.patience, self.guard)

    def guarded(self, guard: Callable[[], None]) -> Storage:
        """The same, with that guard."""
        return Storage(self.uri, self.patience, guard)

    def check_writable(self, key: str = "output_dir") -> None:
        """Raises InputError, which says that ``key`` named it, where a file cannot be created in this directory."""
        name = f"{WRITE_TEST}{uuid.uuid4().hex}"
        try:
            with suppress(FileExistsError):  # by ourselves: the store did it, and was asked again
                self._create(name, b"")  # at once, or the name is a wrong one
            self.delete(name)
        except OSError as error:
            raise InputError(f"{key} {self.uri} cannot be written to ({reason(error)}): name another") from error

    def write(self, name: str, data: bytes) -> None:
        self._change(name, lambda: self._write(name, data))

    def _write(self, name: str, data: bytes) -> None:
        path = self.path(name)
        if self.local:
            replace_local(path, data)
            return
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def create(self, name: str, data: bytes) -> None:
        """Writes a file that is not there yet; of several writers exactly one succeeds.

        Raises:
            FileExistsError: it is there already.
        """
        tries = 0

        def attempt() -> None:
            nonlocal tries
            tries += 1
            try:
                self._create(name, data)
            except FileExistsError:
                # A store may do what it is asked, and not live to say so.
                if (self.local and tries == 1) or not data or self.read(name) != data:
                    raise

        self._change(name, attempt)

    def _create(self, name: str, data: bytes) -> None:
        if self.local:
            create_local(self.path(name), data)
        else:
            create_object(self.uri, self.filesystem, self.path(name), data)

    def read(self, name: str) -> bytes:
        return self._patiently(name, lambda: read_file(self.filesystem, self.path(name)))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, _as_json(value))

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise self.damaged(name, error) from error

    def write_sealed(self, name: str, value: dict[str, Any]) -> None:
        """Writes JSON with its own digest, by which read_sealed sees whether it is what was written."""
        self.write(name, sealed(value))

    def read_sealed(self, name: str, *, older: bool = True) -> dict[str, Any]:
        """What write_sealed wrote.

        Args:
            older: it may be of an earlier version, which knew no digest.

        Raises:
            InputError: it is damaged.
        """
        value = self.read_json(name)
        digest = value.pop(DIGEST, None if older else "") if isinstance(value, dict) else ""
        if digest is not None and digest != digest_of(value):
            raise self.damaged(name, "its content is not that of its digest")
        found: dict[str, Any] = value
        return found

    def write_checksum(self, name: str, data: bytes) -> None:
        """Writes the SHA-256 of the file ``name``, which holds ``data``, beside it, as ``sha256sum -c`` reads it."""
        self.write(f"{name}.{DIGEST}", _checksum_line(name, data))

    def read_checked(self, name: str) -> bytes:
        """A file that has a checksum file.

        Raises:
            InputError: one of the two is gone, or they do not belong together.
        """
        try:
            data, line = self.read(name), self.read(f"{name}.{DIGEST}")
        except FileNotFoundError as error:
            raise InputError(f"{self.uri}/{name} or its checksum file is gone: restore both from a copy") from error
        if line != _checksum_line(name, data):
            raise InputError(
                f"{self.uri}/{name} is damaged, its SHA-256 is not that of its .{DIGEST} file: restore both from a copy"
            )
        return data

    def write_checked_table(self, name: str, table: pa.Table) -> None:
        """Writes a table as Parquet, and its checksum file."""
        data = _as_parquet(table)
        self.write(name, data)
        self.write_checksum(name, data)

    def read_checked_table(self, name: str) -> pa.Table:
        """What write_checked_table wrote, or an earlier version without a checksum file.

        Raises:
            InputError: it is damaged.
        """
        if self.exists(f"{name}.{DIGEST}"):
            return self.as_table(name, self.read_checked(name))
        try:
            return self.read_table(name)
        except FileNotFoundError as error:
            raise self.gone(name) from error

    def write_table(self, name: str, table: pa.Table) -> None:
        """Writes a table as Parquet."""
        self.write(name, _as_parquet(table))

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        return self.as_table(name, self.read(name), columns)

    def as_table(self, name: str, data: bytes, columns: list[str] | None = None) -> pa.Table:
        """The table that the Parquet file ``name`` is; ``data`` is what it holds.

        Raises:
            InputError: it is damaged, or has no such columns.
        """
        try:
            table = pq.ParquetFile(io.BytesIO(data)).read(columns)
            return table if columns is None else table.select(columns)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise self.damaged(name, error) from error

    def damaged(self, name: str, why: object) -> InputError:
        """The error that says so."""
        return InputError(f"{self.uri}/{name} is damaged ({' '.join(str(why).split())}): restore it from a copy")

    def gone(self, name: str) -> InputError:
        """The error that says that a file is not there."""
        return InputError(f"{self.uri}/{name} is gone: restore it from a copy")

    def exists(self, name: str) -> bool:
        return bool(self._info(name, self.path(name)).type != pafs.FileType.NotFound)

    def files(self, name: str) -> list[str]:
        """Names of the whole files right under ``name``, sorted; none if it is not there."""
        found = self._info(name, pafs.FileSelector(self.path(name), allow_not_found=True))
        return sorted(self._name(info) for info in found if info.is_file and not info.path.endswith(UNFINISHED))

    def directories(self, name: str) -> list[str]:
        """Names of the directories right under ``name``, sorted; none if it is not there."""
        found = self._info(name, pafs.FileSelector(self.path(name), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def tree(self, name: str) -> list[str]:
        """Names of all files below ``name``, unfinished ones too, sorted; none if it is not there."""
        place = self.path(name) if name else self.root
        found = self._info(name, pafs.FileSelector(place, recursive=True, allow_not_found=True))
        return sorted(self._name(info) for info in found if info.is_file)

    def make(self, name: str) -> None:
        """Makes a directory, for writers that do not do so."""
        self._change(name, lambda: self.filesystem.create_dir(self.path(name), recursive=True))

    def take(self, other: Storage, name: str) -> None:
        """Copies the directory ``name`` of another storage, which must have it, to the same name."""
        self.clear(name)
        self.make(name)
        files = other.tree(name)
        if not files:
            raise FileNotFoundError(f"{other.uri}/{name} is not there")
        for file in files:
            self.write(file, other.read(file))

    def sync(self, name: str) -> None:
        """Waits until a file that somebody else wrote, and its name, will survive the loss of power."""
        if self.local:
            for path in (self.path(name), os.path.dirname(self.path(name))):
                self._patiently(name, lambda path=path: sync(path))  # type: ignore[misc]

    def delete(self, name: str) -> None:
        """Deletes a file; nothing happens where it does not exist."""

        def attempt() -> None:
            with suppress(FileNotFoundError):
                self.filesystem.delete_file(self.path(name))

        self._change(name, attempt)

    def clear(self, name: str) -> None:
        """Deletes the directory ``name`` and all it holds; nothing happens where it does not exist."""

        def attempt() -> None:
            with suppress(FileNotFoundError):  # by another, meanwhile
                self.filesystem.delete_dir(self.path(name))

        if self.exists(name):
            self._change(name, attempt)

    def _change(self, name: str, operation: Callable[[], T]) -> T:
        """What every change of the storage goes through."""
        if self.guard is not None:
            self.guard()
        return self._patiently(name, operation)

    def _info(self, name: str, what: str | pafs.FileSelector) -> Any:
        return self._patiently(name, lambda: self.filesystem.get_file_info(what))

    def _patiently(self, name: str, operation: Callable[[], T]) -> T:
        return patiently(operation, f"{self.uri}/{name}", self.patience)

    def _name(self, info: pafs.FileInfo) -> str:
        return str(info.path)[len(self.root) + 1 :]


def sealed(value: dict[str, Any]) -> bytes:
    """A JSON file that holds a value and its digest."""
    return _as_json({**value, DIGEST: digest_of(value)})


def digest_of(value: Any) -> str:
    """The SHA-256 of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _checksum_line(name: str, data: bytes) -> bytes:
    """As ``sha256sum -c`` reads it."""
    return f"{hashlib.sha256(data).hexdigest()}  {name.rpartition('/')[2]}\n".encode()


def _as_parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
