"""Read images and labels by URI, inside Ray tasks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

from halo_ray.data.classes import ClassSet
from halo_ray.data.synthetic import render_scene
from halo_ray.errors import BadRecordError
from halo_ray.storage import resolve

SYNTHETIC = "synthetic"
"""URI scheme of rendered scenes: ``synthetic://STYLE/SEED/INDEX?height=H&width=W``."""


def read_image(uri: str) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB.

    Raises:
        BadRecordError: missing or not an image.
    """
    if uri.startswith(SYNTHETIC):
        return _scene(uri)[0]
    with _naming("image", uri):
        image = _open(uri)
        if image.mode.startswith(("I", "F")):
            raise BadRecordError(f"image {uri} has {image.mode} pixels: convert it to 8 bits a channel")
        return np.asarray(image.convert("RGB"))


def read_label(uri: str, classes: ClassSet) -> npt.NDArray[np.uint8]:
    """(H, W) training classes, IGNORE where void.

    Raises:
        BadRecordError: missing, not an 8-bit label image, or an id outside the class set.
    """
    if uri.startswith(SYNTHETIC):
        return _scene(uri)[1]
    with _naming("label", uri):
        image = _open(uri)
        if image.mode not in ("L", "P"):
            raise BadRecordError(
                f"label {uri} has colour mode {image.mode}: class ids are read from 8-bit grey or palette images"
            )
        raw = np.asarray(image)
    return classes.to_classes(raw, uri)


def read_mask(uri: str) -> npt.NDArray[np.bool_]:
    """(H, W): True where an image is not black.

    Raises:
        BadRecordError: missing or not an image.
    """
    with _naming("mask", uri):
        return np.asarray(_open(uri).convert("L")) > 0


def read_size(uri: str) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone.

    Raises:
        BadRecordError: missing or not an image.
    """
    with _naming("image", uri):
        width, height = _open(uri).size
    return height, width


@contextmanager
def _naming(kind: str, uri: str) -> Iterator[None]:
    """Turns what Pillow raises on a damaged or oversized file into an error that names the file."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadRecordError(f"{kind} {uri} cannot be read ({error}): replace it or leave it out") from error


def _open(uri: str) -> Image.Image:
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        return Image.open(io.BytesIO(stream.read()))


def _scene(uri: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    parts = urlsplit(uri)
    seed, index = (int(part) for part in parts.path.strip("/").split("/"))
    size = {key: int(value) for key, value in parse_qsl(parts.query)}
    return render_scene(parts.netloc, seed, index, **size)
