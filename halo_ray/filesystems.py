"""Where a path or a URI leads: pyarrow's filesystems."""

from __future__ import annotations

import errno
import os
import re
from functools import lru_cache

import pyarrow.fs as pafs

from halo_ray.errors import InputError, one_line
from halo_ray.place import HIDDEN, Place, decoded
from halo_ray.secret import known

OBJECT_STORES = ("s3", "gs", "gcs")
SCHEMES = ("file", *OBJECT_STORES, "hdfs", "viewfs")
"""Known to pyarrow, which knows Azure too, but ends the process where it finds no credentials for it."""

_OPTION_NAME = re.compile(r"[\w.-]+", re.A)
_NO_FILES = {pafs.FileType.Directory: "it is a directory", pafs.FileType.Unknown: "it is a pipe or a device"}


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path in it that a local path or a URI (``s3://``, ``gs://``, ``file://``) names.

    See halo_ray.place for what may stand in it: also credentials that are not percent-encoded.

    Raises:
        InputError: the URI has a scheme that pyarrow does not know, or its store cannot be reached.
    """
    if "\0" in uri:
        raise InputError(f"{uri!r} holds a null character: no file has such a name")
    place = known(uri)
    try:
        if not place.is_uri and not uri.startswith("://"):
            filesystem, path = pafs.FileSystem.from_uri(os.path.abspath(uri))
            return filesystem, path
        _check(place)
        if place.scheme not in OBJECT_STORES:
            filesystem, path = pafs.FileSystem.from_uri(place.canonical.text)
            return filesystem, path
        # Of the same store for all paths, or every image would ask it where the bucket lies.
        filesystem, bucket = _object_filesystem(place.canonical.with_path(""))
    except (ValueError, OSError) as error:
        raise InputError(f"cannot open {place.shown}: {one_line(error)}") from None  # which may quote the URI
    return filesystem, (bucket + decoded(place.path)).rstrip("/")


def _check(place: Place) -> None:
    """Raises ValueError where a URI says something that pyarrow would misunderstand, or pass over."""
    if place.scheme not in SCHEMES:
        raise ValueError(f"a URI begins with {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if place.is_hidden:
        raise ValueError(f"{HIDDEN} stands for credentials that are not shown: write them out or leave them out")
    if place.scheme in OBJECT_STORES and not place.host:
        raise ValueError("it names no bucket")
    if place.password and not place.user:
        raise ValueError("it has a secret, but no access key before the colon")
    # pyarrow quotes unknown names; one with other signs may be a misspelled secret.
    odd = any(value is None or not _OPTION_NAME.fullmatch(name) for name, value in place.raw_options)
    if odd or (place.scheme == "file" and place.query is not None):
        raise ValueError("options stand behind a ? as name=value, and files have none: write %3F for a ? in a name")


def below(uri: str, name: str) -> str:
    """The path or URI of ``name`` in the directory ``uri``, whose options (?...) it keeps."""
    return known(uri).below(name)


@lru_cache(maxsize=16)
def _object_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a bucket and the bucket's name; kept, since making one may ask the store where it lies."""
    filesystem, bucket = pafs.FileSystem.from_uri(uri)
    return filesystem, bucket


def read_file(filesystem: pafs.FileSystem, path: str, most: int | None = None) -> bytes:
    """The whole file, in one request where it lies in an object store (a stream of it takes many).

    Args:
        most: bytes that it may have; None: any number.

    Raises:
        OSError: it cannot be read, or is none: a pipe or a device might never end. EFBIG: it is larger than ``most``.
    """
    if filesystem.type_name == "local" and (what := _NO_FILES.get(filesystem.get_file_info(path).type)):
        raise OSError(errno.ENXIO, what)
    with filesystem.open_input_file(path) as file:
        if most is not None and file.size() > most:
            raise OSError(errno.EFBIG, f"it has {file.size()} bytes, and no more than {most} are read")
        data: bytes = file.read()
    return data
