"""Where a path or a URI leads: pyarrow's filesystems."""

from __future__ import annotations

import errno
import os
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow.fs as pafs

from halo_ray.errors import InputError, one_line

SCHEMES = ("file", "s3", "gs", "gcs", "hdfs", "viewfs")
"""Of URIs. pyarrow knows Azure too, but ends the process where it finds no credentials for it."""

_NO_FILES = {pafs.FileType.Directory: "it is a directory", pafs.FileType.Unknown: "it is a pipe or a device"}

_URI_CHARACTERS = "%/:?=&#@+,;~!$'()*[]"
"""What may stand in a URI beside letters and digits; anything else is percent-encoded."""


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem and the path in it that a local path or a URI (``s3://``, ``gs://``, ``file://``) names.

    Spaces and letters outside ASCII may stand in a URI as they are or percent-encoded.

    Raises:
        InputError: the URI has a scheme that pyarrow does not know, or its store cannot be reached.
    """
    if "\0" in uri:
        raise InputError(f"{uri!r} holds a null character: no file has such a name")
    try:
        parts = urlsplit(quote(uri, safe=_URI_CHARACTERS))
        if "://" in uri and parts.scheme not in SCHEMES:
            raise ValueError(f"a URI begins with {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
        if parts.scheme in ("s3", "gs", "gcs") and "://" in uri and not parts.netloc.rpartition("@")[2]:
            raise ValueError("it names no bucket")
        if "://" not in uri or parts.scheme not in ("s3", "gs", "gcs"):
            filesystem, path = pafs.FileSystem.from_uri(urlunsplit(parts) if "://" in uri else os.path.abspath(uri))
            return filesystem, path
        filesystem, bucket = _object_filesystem(urlunsplit((parts.scheme, parts.netloc, "", parts.query, "")))
    except (ValueError, OSError) as error:
        raise InputError(f"cannot open {uri}: {one_line(error)}") from error
    return filesystem, (bucket + unquote(parts.path)).rstrip("/")


def below(uri: str, name: str) -> str:
    """The path or URI of ``name`` in the directory ``uri``, whose options (?...) it keeps."""
    place, mark, options = uri.partition("?" if "://" in uri else "\0")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


@lru_cache(maxsize=16)
def _object_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a bucket and the bucket's name; kept, since making one may ask the store where it lies."""
    filesystem, bucket = pafs.FileSystem.from_uri(uri)
    return filesystem, bucket


def read_file(filesystem: pafs.FileSystem, path: str) -> bytes:
    """The whole file, in one request where it lies in an object store (a stream of it takes many).

    Raises:
        OSError: it cannot be read, or is none: a pipe or a device might never end.
    """
    if filesystem.type_name == "local" and (what := _NO_FILES.get(filesystem.get_file_info(path).type)):
        raise OSError(errno.ENXIO, what)
    with filesystem.open_input_file(path) as file:
        data: bytes = file.read()
    return data
