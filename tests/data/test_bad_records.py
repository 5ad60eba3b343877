"""Real files that cannot be used are told apart from their neighbours; usable ones are changed only as they say."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow as pa
import pytest
from PIL import ExifTags, Image

from halo_ray.data.classes import ClassSet
from halo_ray.data.images import read_image
from halo_ray.data.inspection import InspectRecords, SplitInspection
from halo_ray.data.listing import MANIFEST
from halo_ray.errors import BadRecordError

CLASSES = ClassSet("mine", ("a", "b", "c"), ids=(4, 0, 200))
IDS = np.array([4, 0, 200, 255], np.uint8)
HEIGHT, WIDTH = 24, 40
DIRECTORY = b"a directory of the file's name"
RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
LABEL = IDS[RANDOM.integers(0, 4, (HEIGHT, WIDTH))]
SMOOTH = np.stack(np.broadcast_arrays(np.arange(WIDTH) * 6, np.arange(HEIGHT)[:, None] * 10, 90), -1).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A grey PNG of a few bytes, all of whose checksums are right."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(bytes(1000)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def cut(data: bytes, share: float, after: bytes) -> bytes:
    """The headers and a share of the pixels."""
    start = data.index(after) + 20
    return data[: start + int(share * (len(data) - start))]


def row(folder: Path, name: str, image: bytes | None, label: bytes | None) -> dict:
    """Of a manifest, with the files that it names; None: there is none."""
    uris = {"image_uri": folder / f"{name} image", "label_uri": folder / f"{name} label"}
    for file, data in zip(uris.values(), (image, label), strict=True):
        if data == DIRECTORY:
            file.mkdir()
        elif data is not None:
            file.write_bytes(data)
    return {"image_id": name} | {key: str(file) for key, file in uris.items()}


def inspect(*rows: dict) -> list[dict]:
    return InspectRecords(CLASSES)(pa.Table.from_pylist(list(rows), schema=MANIFEST)).to_pylist()


def assert_refused_alone(tmp_path: Path, image: bytes | None, label: bytes | None, culprit: str, *parts: str) -> None:
    """Between two good records of other sizes, a problem in one line that names the file and ``parts``."""
    good = [LABEL[:9, :7], LABEL[:5, :33]]
    first, last = (row(tmp_path, str(i), encoded(RGB[: len(g), : g.shape[1]]), encoded(g)) for i, g in enumerate(good))
    records = inspect(first, row(tmp_path, "bad", image, label), last)
    counts = [[int((each == number).sum()) for number in IDS] for each in good]
    for record, each, count in zip(records[::2], good, counts, strict=True):
        assert (record["problem"], record["height"], record["width"]) == (None, *each.shape)
        assert record["class_pixels"] == count
    problem = records[1]["problem"]
    assert problem.startswith(f"{culprit} {tmp_path}/bad {culprit} ")
    assert "\n" not in problem
    for part in parts:
        assert part in problem
    found = SplitInspection()
    found.add("pool", pa.Table.from_pylist(records))
    assert found.bad == [{"split": "pool", "image_id": "bad", "problem": problem}]
    assert (found.images, found.sizes) == (2, {each.shape: 1 for each in good})
    assert found.class_pixels.tolist() == np.sum(counts, 0).tolist()


DAMAGED: dict[str, tuple[bytes | None, tuple[str, ...]]] = {
    "empty": (b"", ("empty",)),
    "text": (b"no image at all\n" * 9, ()),
    "directory": (DIRECTORY, ("is a directory",)),
    "missing": (None, ("is not there",)),
    "claims 400 million pixels": (png_that_claims(20000, 20000), ("400000000",)),
    "claims 95 million pixels": (png_that_claims(10000, 9500), ("95000000",)),
    "claims more than it holds": (png_that_claims(HEIGHT * 9, WIDTH * 9), ()),
}


@pytest.mark.parametrize("what", DAMAGED)
@pytest.mark.parametrize("culprit", ["image", "label"])
def test_a_missing_or_damaged_file_is_the_one_problem(tmp_path: Path, culprit: str, what: str) -> None:
    data, parts = DAMAGED[what]
    image, label = (data, encoded(LABEL)) if culprit == "image" else (encoded(RGB), data)
    assert_refused_alone(tmp_path, image, label, culprit, *parts)


@pytest.mark.parametrize("share", [0, 0.05, 0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_cut_within_its_pixels_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    data = cut(encoded(RGB, kind), share, after=b"\xff\xda" if kind == "JPEG" else b"IDAT")
    with Image.open(io.BytesIO(data)) as header:  # a look at the size alone would pass it
        assert header.size == (WIDTH, HEIGHT)
    assert_refused_alone(tmp_path, data, encoded(LABEL), "image")


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9])
def test_a_label_cut_within_its_pixels_is_refused(tmp_path: Path, share: float) -> None:
    assert_refused_alone(tmp_path, encoded(RGB), cut(encoded(LABEL), share, after=b"IDAT"), "label")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_wherever_a_file_is_cut_it_is_refused_or_read_as_it_was(tmp_path: Path, kind: str) -> None:
    file, refused = tmp_path / "x", 0
    file.write_bytes(encoded(RGB, kind))
    whole, data = read_image(str(file)), file.read_bytes()
    for end in [*range(0, len(data) - 40, 31), *range(len(data) - 40, len(data))]:
        file.write_bytes(data[:end])
        try:
            np.testing.assert_array_equal(read_image(str(file)), whole)
        except BadRecordError:
            refused += 1
    assert refused > len(data) // 31 - 2  # only a missing end mark is harmless


DEEP = np.stack([LABEL.astype(np.uint16) * 100] * 3, -1)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(imagecodecs.png_encode(DEEP), id="16-bit RGB PNG"),
        pytest.param(imagecodecs.png_encode(DEEP[..., 0].copy()), id="16-bit grey PNG"),
        pytest.param(imagecodecs.png_encode(np.dstack([DEEP, DEEP[..., :1]])), id="16-bit RGBA PNG"),
        pytest.param(encoded(DEEP[..., 0], "TIFF"), id="16-bit grey TIFF"),
        pytest.param(encoded(LABEL.astype(np.int32), "TIFF"), id="32-bit TIFF"),
        pytest.param(encoded(LABEL.astype(np.float32), "TIFF"), id="float TIFF"),
    ],
)
def test_an_image_of_more_than_8_bits_is_refused(tmp_path: Path, image: bytes) -> None:
    assert_refused_alone(tmp_path, image, encoded(LABEL), "image", "8 bits")


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        pytest.param(encoded(DEEP[..., 0]), ("I;16",), id="16-bit grey"),
        pytest.param(encoded(RGB), ("RGB",), id="RGB"),
        pytest.param(encoded(np.dstack([RGB, LABEL])), ("RGBA",), id="RGBA"),
        pytest.param(imagecodecs.png_encode(DEEP), ("RGB",), id="16-bit RGB"),
        pytest.param(encoded(LABEL > 4), (), id="1-bit"),
        pytest.param(
            encoded(np.where(LABEL == 4, 17, LABEL).astype(np.uint8)), ("17", "mine"), id="id outside the set"
        ),
        pytest.param(encoded(LABEL[1:]), (f"{WIDTH}x{HEIGHT - 1}", f"{WIDTH}x{HEIGHT}"), id="other size"),
        pytest.param(encoded(LABEL.T.copy()), (f"{HEIGHT}x{WIDTH}", f"{WIDTH}x{HEIGHT}"), id="transposed"),
    ],
)
def test_a_label_of_another_kind_or_size_is_refused(tmp_path: Path, label: bytes, parts: tuple[str, ...]) -> None:
    assert_refused_alone(tmp_path, encoded(RGB), label, "label", *parts)


@pytest.mark.parametrize("tall", [False, True])
def test_a_side_may_have_65536_pixels_and_no_more(tmp_path: Path, tall: bool) -> None:
    for side in (65_536, 65_537):
        pixels = np.full((side, 1) if tall else (1, side), 4, np.uint8)
        (record,) = inspect(row(tmp_path, f"{side}", encoded(pixels), encoded(pixels)))
        if side == 65_536:
            assert (record["problem"], record["class_pixels"]) == (None, [side, 0, 0, 0])
        else:
            assert f"{tmp_path / '65537 image'} is " in record["problem"]
            assert "65537" in record["problem"].replace(str(tmp_path), "")


PALETTE = Image.fromarray(RGB[..., 0] % 16)
PALETTE.putpalette(RGB.reshape(-1, 3)[:16].tobytes())
COLOURED = RGB.reshape(-1, 3)[:16][RGB[..., 0] % 16]
GREY = np.stack([RGB[..., 0]] * 3, -1)
INK = Image.fromarray(np.dstack([255 - SMOOTH, 0 * LABEL]), "CMYK")  # no black: the complement of RGB
CONVERTED: dict[str, tuple[bytes, str, np.ndarray]] = {
    "grey JPEG": (encoded(SMOOTH[..., 1], "JPEG", quality=100), "L", np.stack([SMOOTH[..., 1]] * 3, -1)),
    "CMYK JPEG": (encoded(INK, "JPEG", quality=100), "CMYK", SMOOTH),
    "grey and alpha": (encoded(Image.fromarray(np.dstack([RGB[..., 0], LABEL]), "LA")), "LA", GREY),
    "RGB and alpha": (encoded(np.dstack([RGB, LABEL])), "RGBA", RGB),
    "palette": (encoded(PALETTE), "P", COLOURED),
    "transparent palette": (encoded(PALETTE, transparency=bytes(range(0, 256, 16))), "P", COLOURED),
    "RGB": (encoded(RGB), "RGB", RGB),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
@pytest.mark.parametrize("what", CONVERTED)
def test_another_colour_mode_is_converted_to_rgb_and_named(tmp_path: Path, what: str) -> None:
    data, mode, expected = CONVERTED[what]
    (record,) = inspect(row(tmp_path, "x", data, encoded(LABEL)))
    read = read_image(record["image_uri"])
    np.testing.assert_allclose(read.astype(int), expected, atol=3 if "JPEG" in what else 0)
    assert record["problem"] is None
    assert record["changes"] == ([] if mode == "RGB" else [f"converted from {mode} to RGB"])


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
"""By EXIF orientation: where its first row and first column lie, as the standard says."""


def turned(orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    return encoded(SMOOTH, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_upright_and_its_label_fits_the_upright_one(
    tmp_path: Path, orientation: int, kind: str
) -> None:
    upright, data = UPRIGHT[orientation](SMOOTH), turned(orientation, kind)
    fits = row(tmp_path, "fits", data, encoded(np.ascontiguousarray(UPRIGHT[orientation](LABEL))))
    stored = row(tmp_path, "stored", data, encoded(LABEL))
    good, other = inspect(fits, stored)
    np.testing.assert_allclose(read_image(good["image_uri"]).astype(int), upright, atol=3 if kind == "JPEG" else 0)
    assert (good["problem"], good["height"], good["width"]) == (None, *upright.shape[:2])
    assert len(good["changes"]) == (orientation > 1)
    assert all("EXIF" in change for change in good["changes"])
    assert (other["problem"] is None) == (upright.shape == SMOOTH.shape)
    if other["problem"]:
        assert stored["label_uri"] in other["problem"]


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_means_nothing_is_no_change(tmp_path: Path, orientation: int) -> None:
    (record,) = inspect(row(tmp_path, "x", turned(orientation), encoded(LABEL)))
    np.testing.assert_array_equal(read_image(record["image_uri"]), SMOOTH)
    assert (record["problem"], record["changes"]) == (None, [])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_beside_an_orientation_does_not_hide_the_pixels(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "a camera", 6
    tag, damaged = (number.to_bytes(2, "big") for number in (ExifTags.Base.Make, ExifTags.Base.ImageWidth))
    assert exif.tobytes().count(tag) == 1
    data = encoded(SMOOTH, kind, exif=exif.tobytes().replace(tag, damaged))  # a width that is text
    (record,) = inspect(row(tmp_path, "x", data, encoded(np.rot90(LABEL, -1).copy())))
    assert (record["problem"], record["height"], record["width"]) == (None, WIDTH, HEIGHT)
