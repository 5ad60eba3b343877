"""The experiment directory on any pyarrow filesystem, and the markers that say which stages are done."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from halo_ray.errors import InputError
from halo_ray.exclusive import create_local, create_object

_UNFINISHED = ".tmp"

_URI_CHARACTERS = "%/:?=&#@+,;~!$'()*[]"
"""What may stand in a URI beside letters and digits; anything else is percent-encoded."""

_NAME_BYTES = 200
"""Longest file name that is made from an id; most filesystems end at 255."""


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path in it that a local path or a URI (``s3://``, ``gs://``, ``file://``) names.

    Spaces and letters outside ASCII may stand in a URI as they are or percent-encoded.

    Raises:
        InputError: the URI has a scheme that pyarrow does not know, or its store cannot be reached.
    """
    try:
        parts = urlsplit(quote(uri, safe=_URI_CHARACTERS))
        if "://" not in uri or parts.scheme not in ("s3", "gs", "gcs"):
            filesystem, path = pafs.FileSystem.from_uri(urlunsplit(parts) if "://" in uri else os.path.abspath(uri))
            return filesystem, path
        filesystem, bucket = _object_filesystem(urlunsplit((parts.scheme, parts.netloc, "", parts.query, "")))
    except (ValueError, OSError) as error:
        raise InputError(f"cannot open {uri}: {error}") from error
    return filesystem, (bucket + unquote(parts.path)).rstrip("/")


@lru_cache(maxsize=16)
def _object_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a bucket and the bucket's name; kept, since making one may ask the store where it lies."""
    filesystem, bucket = pafs.FileSystem.from_uri(uri)
    return filesystem, bucket


def read_file(filesystem: pafs.FileSystem, path: str) -> bytes:
    """The whole file, in one request where it lies in an object store (a stream of it takes many)."""
    with filesystem.open_input_file(path) as file:
        data: bytes = file.read()
    return data


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
    only when it is complete.
    """

    def __init__(self, uri: str) -> None:
        # Absolute, because actors open the same storage from directories of their own.
        self.uri = uri if "://" in uri else os.path.abspath(uri)
        self.filesystem, self.root = resolve(uri)
        self.local = isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, name: str) -> str:
        """The path of ``name`` in ``self.filesystem``."""
        return f"{self.root}/{name}"

    def below(self, name: str) -> Storage:
        """The directory ``name`` of this one, as a storage of its own."""
        place, mark, options = self.uri.partition("?" if "://" in self.uri else "\0")
        return Storage(f"{place.rstrip('/')}/{name}{mark}{options}")

    def check_writable(self, key: str = "output_dir") -> None:
        """Raises InputError, which says that ``key`` named it, where a file cannot be created in this directory."""
        name = f"write-test-{uuid.uuid4().hex}"
        try:
            self.create(name, b"")
            self.filesystem.delete_file(self.path(name))
        except OSError as error:
            raise InputError(f"{key} {self.uri} cannot be written to ({_reason(error)}): name another") from error

    def write(self, name: str, data: bytes) -> None:
        path = self.path(name)
        self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        target = f"{path}.{uuid.uuid4().hex}{_UNFINISHED}" if self.local else path
        try:
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(data)
            if self.local:
                self.filesystem.move(target, path)
        except OSError:
            if self.local and self.filesystem.get_file_info(target).is_file:
                self.filesystem.delete_file(target)
            raise

    def create(self, name: str, data: bytes) -> None:
        """Writes a file that is not there yet; of several writers exactly one succeeds.

        Raises:
            FileExistsError: it is there already.
        """
        path = self.path(name)
        if self.local:
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            create_local(path, data, _UNFINISHED)
        else:
            create_object(self.uri, self.filesystem, path, data)

    def read(self, name: str) -> bytes:
        return read_file(self.filesystem, self.path(name))

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise InputError(f"{self.uri}/{name} is damaged ({error}): restore it from a copy") from error

    def write_table(self, name: str, table: pa.Table) -> None:
        """Writes a table as Parquet."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self.write(name, buffer.getvalue())

    def read_table(self, name: str) -> pa.Table:
        return pq.read_table(io.BytesIO(self.read(name)))

    def exists(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type != pafs.FileType.NotFound)

    def files(self, name: str) -> list[str]:
        """Paths (in ``self.filesystem``) of the whole files right under ``name``, sorted; none if it is not there."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path(name), allow_not_found=True))
        return sorted(info.path for info in found if info.is_file and not info.path.endswith(_UNFINISHED))

    def directories(self, name: str) -> list[str]:
        """Names of the directories right under ``name``, sorted; none if it is not there."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path(name), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def take(self, other: Storage, name: str) -> None:
        """Copies the directory ``name`` of another storage, which must have it, to the same name."""
        self.clear(name)
        self.filesystem.create_dir(self.path(name), recursive=True)
        pafs.copy_files(
            other.path(name),
            self.path(name),
            source_filesystem=other.filesystem,
            destination_filesystem=self.filesystem,
        )

    def clear(self, name: str) -> None:
        """Deletes the directory ``name`` and all it holds; nothing happens where it does not exist."""
        if self.exists(name):
            self.filesystem.delete_dir(self.path(name))


class Stages:
    """Runs each stage of an experiment once: a stage is done when its marker is there, and markers are written last."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def done(self, name: str) -> bool:
        return self.storage.exists(f"stages/{name}.json")

    def run(self, name: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The JSON-able result of ``work(*args, **kwargs)``: committed now, or read where the stage is done."""
        if self.done(name):
            return self.result(name)
        start = time.monotonic()
        result = work(*args, **kwargs)
        self.storage.write_json(
            f"stages/{name}.json", {"seconds": round(time.monotonic() - start, 3), "result": result}
        )
        return result

    def result(self, name: str) -> Any:
        """What a stage that is done gave."""
        return self.storage.read_json(f"stages/{name}.json")["result"]

    def seconds(self, name: str) -> float:
        """Wall-clock seconds that the stage took in the run that finished it."""
        return float(self.storage.read_json(f"stages/{name}.json")["seconds"])


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
