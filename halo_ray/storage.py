"""The experiment directory on any pyarrow filesystem, and the markers that say which stages are done."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow.fs as pafs

from halo_ray.errors import InputError

_UNFINISHED = ".tmp"


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path in it that a local path or a URI (``s3://``, ``gs://``, ``file://``) names.

    Raises:
        InputError: the URI has a scheme that pyarrow does not know.
    """
    try:
        if "://" not in uri:
            uri = os.path.abspath(uri)
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise InputError(f"cannot open {uri}: {error}") from error
    return filesystem, path


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

    def check_writable(self) -> None:
        """Raises InputError where a file cannot be created in this directory."""
        name = f"write-test-{uuid.uuid4().hex}"
        try:
            self.write(name, b"")
            self.filesystem.delete_file(self.path(name))
        except OSError as error:
            raise InputError(f"output_dir {self.uri} cannot be written to ({_reason(error)}): name another") from error

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

    def read(self, name: str) -> bytes:
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return bytes(stream.read())

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise InputError(f"{self.uri}/{name} is damaged ({error}): restore it from a copy") from error

    def exists(self, name: str) -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type != pafs.FileType.NotFound)

    def files(self, name: str) -> list[str]:
        """Paths (in ``self.filesystem``) of the whole files right under ``name``, sorted; none if it is not there."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path(name), allow_not_found=True))
        return sorted(info.path for info in found if info.is_file and not info.path.endswith(_UNFINISHED))

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
        marker = f"stages/{name}.json"
        if self.done(name):
            return self.storage.read_json(marker)["result"]
        start = time.monotonic()
        result = work(*args, **kwargs)
        self.storage.write_json(marker, {"seconds": round(time.monotonic() - start, 3), "result": result})
        return result

    def seconds(self, name: str) -> float:
        """Wall-clock seconds that the stage took in the run that finished it."""
        return float(self.storage.read_json(f"stages/{name}.json")["seconds"])


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
