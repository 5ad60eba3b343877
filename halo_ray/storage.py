"""The experiment directory on any pyarrow filesystem."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from halo_ray.atomic import NOBODY, create_local, delete_local, replace_local, sync, unfinished_owner
from halo_ray.errors import InputError
from halo_ray.exclusive import create_object, replace_object
from halo_ray.filesystems import below, read_file, resolve
from halo_ray.patience import PATIENCE, patiently, reason
from halo_ray.place import is_uri
from halo_ray.secret import shown

T = TypeVar("T")

DIGEST = "sha256"
"""Key of a sealed JSON file that holds the digest of all others; ends the name of a checksum file too."""

WRITE_TEST = ".halo_ray-test-"
"""Begins the names of files that only show whether a storage can be written to, or is seen."""

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


class Guard(Protocol):
    """Says whether a process may still write: what a lock gives its holder."""

    @property
    def run(self) -> str:
        """16 hexadecimal digits that name the run which holds the lock."""

    def __call__(self) -> None:
        """Raises InputError where it may not; OSError where that cannot be found out now."""


class Storage:
    """A directory on a pyarrow filesystem; names are relative to it, with ``/`` between parts.

    Writes are atomic: locally by writing beside and renaming, on object stores because an upload shows only when it is
    complete. What fails is tried again for a while; after that StorageError is raised. Links within the directory are
    never followed by a change, which would be made elsewhere; the directory itself may be one.

    Args:
        patience: seconds for which an operation that fails is tried again.
        guard: asked in every attempt at a change, when all but its last step is done.
        top: path of the directory of which this one is a part, and below which no link is followed; None: this one.
    """

    def __init__(
        self, uri: str, patience: float = PATIENCE, guard: Guard | None = None, top: str | None = None
    ) -> None:
        # Absolute, because actors open the same storage from directories of their own.
        self.uri = uri if is_uri(uri) else os.path.abspath(uri)
        self.patience, self.guard = patience, guard
        self.filesystem, self.root = resolve(uri)
        self._top = self.root if top is None else top
        self.local = isinstance(self.filesystem, pafs.LocalFileSystem)

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.uri, self.patience, self.guard, self._top)

    def __repr__(self) -> str:
        return f"Storage({shown(self.uri)})"

    def path(self, name: str) -> str:
        """The path of ``name`` in ``self.filesystem``.

        Raises:
            InputError: it would lie outside this directory.
        """
        if ".." in name.split("/"):
            raise InputError(f"{name!r} lies outside of {self.uri}: nothing there is read or written")
        return f"{self.root}/{name}"

    def below(self, name: str) -> Storage:
        """The directory ``name`` of this one, as a storage of its own; it may be no link either.

        Raises:
            InputError: it would lie outside this directory.
        """
        self.path(name)
        return Storage(below(self.uri, name), self.patience, self.guard, self._top)

    def guarded(self, guard: Guard) -> Storage:
        """The same, with that guard."""
        return Storage(self.uri, self.patience, guard, self._top)

    def with_patience(self, seconds: float) -> Storage:
        """The same, where what fails is tried again for that long."""
        return Storage(self.uri, seconds, self.guard, self._top)

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
        """Writes a file, in whose place there may be another."""
        self._change(name, lambda: self._write(name, data))

    def _write(self, name: str, data: bytes) -> None:
        path = self._own(name)
        if self.local:
            replace_local(path, data, self._owner, self._check)
            return
        self._check()
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
        path = self._own(name)
        if self.local:
            create_local(path, data, self._owner, self._check)
        else:
            self._check()
            create_object(self.uri, self.filesystem, path, data)

    def commit(self, name: str, data: bytes) -> None:
        """Writes a file that a marker will name: what others have committed is never replaced.

        What a run left there that died before its marker gives way, as long as this process holds the lock: whoever
        has lost it is refused, however late it comes.
        """

        def attempt() -> None:
            while True:
                with suppress(FileExistsError):
                    self._create(name, data)
                    return
                with suppress(FileNotFoundError):
                    found = read_file(self.filesystem, self.path(name))
                    if found == data:
                        return
                    self._replace(name, data, found)

        self._change(name, attempt)

    def _replace(self, name: str, data: bytes, found: bytes) -> None:
        """Makes room for a file, or on an object store replaces it if it still holds what was found."""
        if self.local:
            delete_local(self._own(name), self._owner, self._check)
        else:
            replace_object(self.uri, self.filesystem, self.path(name), data, found, self._check)

    @property
    def _owner(self) -> str:
        return NOBODY if self.guard is None else self.guard.run

    def _check(self) -> None:
        if self.guard is not None:
            self.guard()

    def _own(self, name: str) -> str:
        """The path of a name that is to be changed.

        Raises:
            InputError: a directory on its way is a link, behind which nothing is ours.
        """
        path = self.path(name)
        if self.local:
            at = self._top
            for part in os.path.relpath(os.path.dirname(path), at).split("/"):
                at = os.path.join(at, part)
                if os.path.islink(at):
                    raise InputError(f"{at} is a link, and nothing is written behind it: replace it by a directory")
        return path

    def read(self, name: str) -> bytes:
        return self._patiently(name, lambda: read_file(self.filesystem, self.path(name)))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, as_json(value))

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise self.damaged(name, error) from error

    def write_sealed(self, name: str, value: dict[str, Any]) -> None:
        """Writes JSON with its own digest, by which read_sealed sees whether it is what was written."""
        self.write(name, sealed(value))

    def read_sealed(self, name: str) -> dict[str, Any]:
        """The JSON object that ``sealed`` made the content of a file.

        Raises:
            InputError: it is damaged.
        """
        return self.unsealed(name, self.read(name))

    def unsealed(self, name: str, data: bytes) -> dict[str, Any]:
        """The JSON object that ``sealed`` made ``data`` of, the content of the file ``name``.

        Raises:
            InputError: it is damaged.
        """
        try:
            value = json.loads(data)
            # The very bytes: an edit that leaves the value as it is, is one too.
            sound = isinstance(value, dict) and sealed({k: v for k, v in value.items() if k != DIGEST}) == data
        except (ValueError, RecursionError) as error:  # from json.dumps too: NaN, and deep nesting
            raise self.damaged(name, error) from error
        if not sound:
            raise self.damaged(name, "its content is not that of its digest")
        found: dict[str, Any] = value
        del found[DIGEST]
        return found

    def write_checksum(self, name: str, data: bytes) -> None:
        """Commits the SHA-256 of the file ``name``, which holds ``data``, beside it, as ``sha256sum -c`` reads it."""
        self.commit(f"{name}.{DIGEST}", _checksum_line(name, data))

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
        """Commits a table as Parquet, and its checksum file."""
        data = _as_parquet(table)
        self.commit(name, data)
        self.write_checksum(name, data)

    def read_checked_table(self, name: str) -> pa.Table:
        """The table that write_checked_table wrote.

        Raises:
            InputError: it is damaged.
        """
        return self.as_table(name, self.read_checked(name))

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

    def is_there(self, name: str) -> bool:
        """Whether there is a file of that name, by one request without a listing.

        Raises:
            OSError: that cannot be found out now; it is not asked again.
        """
        if self.local:
            return os.path.lexists(self.path(name))
        try:
            with self.filesystem.open_input_file(self.path(name)):
                return True
        except FileNotFoundError:
            return False

    def exists(self, name: str) -> bool:
        return bool(self._info(name, self.path(name)).type != pafs.FileType.NotFound)

    def files(self, name: str) -> list[str]:
        """Names of the whole files right under ``name``, sorted; none if it is not there."""
        found = self._info(name, pafs.FileSelector(self.path(name), allow_not_found=True))
        return sorted(self._name(info) for info in found if info.is_file and unfinished_owner(info.path) is None)

    def directories(self, name: str) -> list[str]:
        """Names of the directories right under ``name``, sorted; none if it is not there."""
        found = self._info(name, pafs.FileSelector(self.path(name) if name else self.root, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def entries(self) -> list[str]:
        """Names of all that lies right in the directory, whatever it is, sorted; none if it is not there."""
        if self.local:
            return sorted(os.listdir(self.root)) if os.path.isdir(self.root) else []
        found = self._info("", pafs.FileSelector(self.root, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def tree(self, name: str) -> list[str]:
        """Names of all files below ``name``, unfinished ones too, sorted; none if it is not there.

        No link is followed; those that lead to a file are files.
        """
        place = self.path(name) if name else self.root
        if not self.local:
            found = self._info(name, pafs.FileSelector(place, recursive=True, allow_not_found=True))
            return sorted(self._name(info) for info in found if info.is_file)
        files = (os.path.join(at, file) for at, _, names in os.walk(place) for file in names)
        return sorted(path[len(self.root) + 1 :] for path in files if os.path.isfile(path))

    def make(self, name: str) -> None:
        """Makes a directory, for writers that do not do so."""

        def attempt() -> None:
            self._check()
            self.filesystem.create_dir(self._own(f"{name}/.").removesuffix("/."), recursive=True)

        self._change(name, attempt)

    def take(self, other: Storage, name: str) -> None:
        """Commits copies of all files below the directory ``name`` of another storage, which must have it."""
        files = other.tree(name)
        if not files:
            raise FileNotFoundError(f"{other.uri}/{name} is not there")
        for file in {*self.tree(name)} - {*files}:  # of another one, which was given up
            self.delete(file)
        for file in files:
            self.commit(file, other.read(file))

    def sync(self, name: str) -> None:
        """Waits until a file that somebody else wrote, and its name, will survive the loss of power."""
        if self.local:
            for path in (self.path(name), os.path.dirname(self.path(name))):
                self._patiently(name, lambda path=path: sync(path))  # type: ignore[misc]

    def delete(self, name: str) -> None:
        """Deletes a file; nothing happens where it does not exist."""

        def attempt() -> None:
            with suppress(FileNotFoundError):
                if self.local:
                    delete_local(self._own(name), self._owner, self._check)
                else:
                    self._check()
                    self.filesystem.delete_file(self.path(name))

        self._change(name, attempt)

    def clear(self, name: str) -> None:
        """Deletes the directory ``name`` and all it holds, but follows no link; nothing happens where it is none."""

        def attempt() -> None:
            with suppress(FileNotFoundError):  # by another, meanwhile
                if self.local:
                    self._own(f"{name}/x")  # which is no link itself
                    delete_local(self.path(name), self._owner, self._check)
                else:
                    self._check()
                    self.filesystem.delete_dir(self.path(name))

        if self.exists(name):
            self._change(name, attempt)

    def _change(self, name: str, operation: Callable[[], T]) -> T:
        """The result of a change of the storage, which asks the guard itself, as late as it can."""
        return self._patiently(name, operation)

    def _info(self, name: str, what: str | pafs.FileSelector) -> Any:
        return self._patiently(name, lambda: self.filesystem.get_file_info(what))

    def _patiently(self, name: str, operation: Callable[[], T]) -> T:
        return patiently(operation, f"{self.uri}/{name}", self.patience)

    def _name(self, info: pafs.FileInfo) -> str:
        return str(info.path)[len(self.root) + 1 :]


def sealed(value: dict[str, Any]) -> bytes:
    """A JSON file that holds a value and its digest."""
    return as_json({**value, DIGEST: digest_of(value)})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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


def as_json(value: Any) -> bytes:
    """The content of a JSON file."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
