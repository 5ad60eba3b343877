"""Where a path or a URI leads: pyarrow's filesystems."""

from __future__ import annotations

import os
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow.fs as pafs

from halo_ray.errors import InputError

_URI_CHARACTERS = "%/:?=&#@+,;~!$'()*[]"
"""What may stand in a URI beside letters and digits; anything else is percent-encoded."""


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
