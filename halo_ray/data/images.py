"""Read images and labels by URI, inside Ray tasks."""

from __future__ import annotations

import errno
import io
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow.fs as pafs
from PIL import Image, UnidentifiedImageError

from halo_ray.data.classes import ClassSet
from halo_ray.data.label_formats import LABEL_FORMATS
from halo_ray.data.local import is_forbidden, what_is
from halo_ray.data.synthetic import render_scene
from halo_ray.errors import BadRecordError, InputError, one_line
from halo_ray.filesystems import read_file, resolve
from halo_ray.patience import StorageError, patiently, reason
from halo_ray.place import is_uri

SYNTHETIC = "synthetic"
"""URI scheme of rendered scenes: ``synthetic://STYLE/SEED/INDEX?height=H&width=W``."""

PASSING = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOTCONN}
PASSING |= {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH}
"""What a local or mounted filesystem says when it fails, and not the file."""

READ_PATIENCE = 60.0
"""Seconds for which a file is asked for again while its filesystem fails."""

LARGEST_FILE = 2 << 30
"""Bytes of a file that may be an image or a label."""

READ_AHEAD = 4
"""Files that are fetched while another is decoded: an object store answers slowly, but many at once."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of that EXIF orientation upright; others have nothing to turn."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = b"IHDR", b"PLTE", b"IDAT"
_PNG_BITS = 24
"""Place of the bit depth in a PNG file."""
_TIFF_BITS = 258
"""TIFF tag of the bits of each channel."""


@dataclass(frozen=True)
class File:
    """A file by its URI, whose content may still be on its way."""

    uri: str
    read: Callable[[], bytes]
    """Raises OSError where it cannot be read."""


def file(uri: str) -> File:
    """The file of that URI, read when its content is asked for."""
    return File(uri, lambda: _read(uri))


@contextmanager
def read_ahead(uris: Iterable[str]) -> Iterator[Iterator[File]]:
    """The files of ``uris`` in their order, the next READ_AHEAD of which are being fetched while the body runs."""
    # Not a generator of the files alone: where an error's traceback kept that alive the garbage collector joined its
    # threads, and it may do so in a thread that is starting, which then waits for itself for ever.
    uris = list(uris)
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        coming = [pool.submit(_read, uri) for uri in uris[:READ_AHEAD]]

        def files() -> Iterator[File]:
            for place, uri in enumerate(uris):
                if place + READ_AHEAD < len(uris):
                    coming.append(pool.submit(_read, uris[place + READ_AHEAD]))
                yield File(uri, coming.pop(0).result)

        try:
            yield files()
        finally:  # those that nobody will ask for
            for reading in coming:
                reading.cancel()


def read_image(uri: str) -> npt.NDArray[np.uint8]:
    """(H, W, 3) of the image of that URI; see decode_image."""
    return np.asarray(decode_image(file(uri))[0])


def read_label(
    uri: str, classes: ClassSet, label_format: str | None = None, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """The label of that URI; see decode_label."""
    return decode_label(file(uri), classes, label_format, size)


def decode_image(source: File) -> tuple[Image.Image, list[str]]:
    """The image in RGB, upright, and what had to be done for that: colour modes converted, turned as EXIF says.

    Raises:
        BadRecordError: missing, damaged, too large, or of more than 8 bits a channel.
    """
    if source.uri.startswith(SYNTHETIC):
        return Image.fromarray(_scene(source.uri)[0]), []
    with _naming("image", source.uri):
        data = source.read()
        image = _open(data)
        if _deep(image, data):
            raise BadRecordError(
                f"image {source.uri} has more than 8 bits a channel ({image.mode}): convert it to 8 bits"
            )
        changes = [] if image.mode == "RGB" else [f"converted from {image.mode} to RGB"]
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        if turn is not None:
            changes.append("turned upright as its EXIF orientation says")
            image.load()  # by which Pillow turns a TIFF itself, and drops its orientation
            if image.getexif().get(_ORIENTATION) is not None:
                image = image.transpose(turn)
        image.load()
        return (image if image.mode == "RGB" else image.convert("RGB")), changes


def decode_label(
    source: File, classes: ClassSet, label_format: str | None = None, size: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """(H, W) training classes, IGNORE where void.

    Args:
        label_format: name in LABEL_FORMATS; None: 8-bit ids as the class set numbers them.
        size: (H, W), to which the label is resized (nearest); None: its own.

    Raises:
        BadRecordError: missing, damaged, of another kind than the format's, or an id outside the class set.
    """
    if source.uri.startswith(SYNTHETIC):
        return _resized(Image.fromarray(_scene(source.uri)[1]), size)
    with _naming("label", source.uri):
        raw = _raw_label(source, label_format is not None and LABEL_FORMATS[label_format].first_channel)
    return classes.to_classes(_resized(raw, size), source.uri, label_format)


def read_numbers(source: File) -> npt.NDArray[np.uint8]:
    """(H, W): what stands in an 8-bit grey or palette image, whatever it means.

    Raises:
        BadRecordError: missing, damaged, or of another kind.
    """
    with _naming("label", source.uri):
        return np.asarray(_raw_label(source, first_channel=False))


def other_size(uri: str, label: npt.NDArray[np.uint8], size: tuple[int, int]) -> BadRecordError:
    """What is wrong with a label whose image is of ``size`` = (height, width)."""
    return BadRecordError(
        f"label {uri} is {label.shape[1]}x{label.shape[0]} pixels, but its image is {size[1]}x{size[0]}: give them the "
        "same size"
    )


def read_mask(uri: str) -> npt.NDArray[np.bool_]:
    """(H, W): True where an image is not black.

    Raises:
        BadRecordError: missing or not an image.
    """
    with _naming("mask", uri):
        return np.asarray(_open(_read(uri)).convert("L")) > 0


@contextmanager
def _naming(kind: str, uri: str) -> Iterator[None]:
    """Turns what is raised on a damaged or oversized file into an error that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damaged files make Pillow raise anything, struct.error and TypeError among it
        raise BadRecordError(f"{kind} {uri} {_what_is_wrong(uri, error)}") from error


def _what_is_wrong(uri: str, error: Exception) -> str:
    """The rest of a sentence on a file at which ``error`` was raised."""
    what = what_is(uri) if isinstance(error, OSError) and not is_uri(uri) else None
    if what is not None:
        return f"is {what}: replace it or leave it out"
    if isinstance(error, FileNotFoundError):
        return "is not there: add it or leave it out"
    if isinstance(error, MemoryError):
        return "needs more memory than there is: make it smaller or leave it out"
    why = reason(error) if isinstance(error, OSError) else one_line(error)
    return f"cannot be read ({why}): replace it or leave it out"


def _read(uri: str) -> bytes:
    if uri.startswith(SYNTHETIC):
        return b""
    filesystem, path = resolve(uri)
    local = isinstance(filesystem, pafs.LocalFileSystem)

    def attempt() -> bytes | OSError:
        try:
            return read_file(filesystem, path, LARGEST_FILE)
        except OSError as error:
            if error.errno == errno.EFBIG or (local and (error.errno not in PASSING or is_forbidden(path))):
                return error  # it is the file
            raise

    try:
        found = patiently(attempt, uri, READ_PATIENCE)
    except StorageError as error:  # the store fails, not this record, which must not be left out for that
        raise InputError(
            f"{uri} cannot be read now ({one_line(error.__cause__ or error)}): check its store and run the same "
            "command again"
        ) from error
    if isinstance(found, OSError):
        raise found
    return found


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("it is empty")
    with warnings.catch_warnings():
        # A file that claims more pixels than Pillow's limit is no street scene, whether twice as many or more.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:  # names the buffer, not the file
            raise ValueError("it is no image, or its header is damaged") from error
    if image.format == "EPS":  # a program, which Pillow would have Ghostscript run
        raise ValueError("it is PostScript")
    if data.startswith(_PNG):
        _check_chunks(data)
    return image


def _check_chunks(data: bytes) -> None:
    """Raises ValueError where what makes up the pixels of a PNG has another checksum, at which Pillow does not look."""
    view, place, kind = memoryview(data), len(_PNG), b""
    while place < len(data) and kind != b"IEND":  # what comes after it is no part
        size, kind = int.from_bytes(view[place : place + 4], "big"), bytes(view[place + 4 : place + 8])
        end = place + 8 + size
        if kind in _PNG_PIXELS and zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError(f"the checksum of a part of it, {kind.decode()}, is another")
        place = end + 4


def _deep(image: Image.Image, data: bytes) -> bool:
    """Whether a channel has more than 8 bits, of which Pillow would keep the upper ones without a word."""
    if image.mode.startswith(("I", "F")):
        return True
    if data.startswith(_PNG):
        return data[_PNG_BITS] > 8
    return bool(max(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,))) > 8)


def _raw_label(source: File, first_channel: bool) -> Image.Image:
    """The ids of a label file, as 8-bit grey or palette image."""
    data = source.read()
    image = _open(data)
    if first_channel and image.mode == "RGB" and data.startswith(_PNG):
        return Image.fromarray(_first_channel(data))
    if image.mode not in ("L", "P"):
        raise BadRecordError(
            f"label {source.uri} has colour mode {image.mode}: class ids are read from 8-bit grey or palette images"
        )
    if image.format == "JPEG":
        raise BadRecordError(f"label {source.uri} is a JPEG, which mixes ids along borders: store it as PNG")
    image.load()
    if data.startswith(_PNG) and image.mode == "L" and data[_PNG_BITS] < 8:
        # Pillow spreads 2 and 4 bits of grey over 0..255.
        return Image.fromarray(np.asarray(image) // (255 // (2 ** data[_PNG_BITS] - 1)))
    return image


def _resized(label: Image.Image, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    """(H, W) ids of a label at ``size``; None: as it is."""
    if size is not None and size != (label.height, label.width):
        label = label.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(label)


def _first_channel(data: bytes) -> npt.NDArray[np.uint8]:
    """Pillow keeps the high byte of 16 bits, which is 0 in every class."""
    import imagecodecs  # this one format alone needs it

    try:
        ids = imagecodecs.png_decode(data)[..., 0]
    except imagecodecs.PngError as error:
        raise ValueError(error) from error
    if ids.max() > 255:
        raise ValueError(f"its first channel holds {ids.max()}, which is no class id")
    return np.ascontiguousarray(ids, np.uint8)


def _scene(uri: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    parts = urlsplit(uri)
    seed, index = (int(part) for part in parts.path.strip("/").split("/"))
    size = {key: int(value) for key, value in parse_qsl(parts.query)}
    return render_scene(parts.netloc, seed, index, **size)
