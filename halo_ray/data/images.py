"""Read images and labels by URI, inside Ray tasks."""

from __future__ import annotations

import io
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
    try:
        return np.asarray(_open(uri).convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise BadRecordError(f"image {uri} cannot be read ({error}): replace it or leave it out") from error


def read_label(uri: str, classes: ClassSet) -> npt.NDArray[np.uint8]:
    """(H, W) training classes, IGNORE where void.

    Raises:
        BadRecordError: missing, not an 8-bit label image, or an id outside the class set.
    """
    if uri.startswith(SYNTHETIC):
        return _scene(uri)[1]
    try:
        image = _open(uri)
        if image.mode not in ("L", "P"):
            raise BadRecordError(
                f"label {uri} has colour mode {image.mode}: class ids are read from 8-bit grey or palette images"
            )
        raw = np.asarray(image)
    except (OSError, SyntaxError) as error:
        raise BadRecordError(f"label {uri} cannot be read ({error}): replace it or leave it out") from error
    return classes.to_classes(raw, uri)


def read_size(uri: str) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone.

    Raises:
        BadRecordError: missing or not an image.
    """
    try:
        width, height = _open(uri).size
    except (OSError, SyntaxError) as error:
        raise BadRecordError(f"image {uri} cannot be read ({error}): replace it or leave it out") from error
    return height, width


def _open(uri: str) -> Image.Image:
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        return Image.open(io.BytesIO(stream.read()))


def _scene(uri: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    parts = urlsplit(uri)
    seed, index = (int(part) for part in parts.path.strip("/").split("/"))
    size = {key: int(value) for key, value in parse_qsl(parts.query)}
    return render_scene(parts.netloc, seed, index, **size)
