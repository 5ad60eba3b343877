"""Broken images and labels: each is a recorded skip that names the file, and its neighbours are as if it were not.

Cases: 45 files as an image and as a label (90), 60 cuts, 7 that are no file, 6 of 200 GiB, 4 others that cannot be
read; random ones (Hypothesis, always the same): 150 images, 300 labels: 617.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow as pa
import pytest
from bad_input import DAMAGES, HTML, MANY_CASES, SECONDS, assert_one_sentence, damaged, examples, refused
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from halo_ray.data.classes import ClassSet, class_set
from halo_ray.data.decoding import DecodeImages
from halo_ray.data.images import read_mask
from halo_ray.data.inspection import Inspection, InspectRecords, SplitInspection
from halo_ray.data.layouts import folder
from halo_ray.data.listing import MANIFEST
from halo_ray.errors import BadRecordError, InputError
from halo_ray.predict_images import ReadImages, find_images

pytestmark = [
    pytest.mark.timeout(SECONDS),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]
CLASSES = ClassSet("mine", ("a", "b", "c"), ids=(4, 0, 200))
HEIGHT, WIDTH = 24, 40
RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
IDS = np.array([4, 0, 200, 255], np.uint8)
LABEL = IDS[RANDOM.integers(0, 4, (HEIGHT, WIDTH))]
OTHER = 255 - RGB


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def frames(kind: str) -> bytes:
    return encoded(Image.fromarray(RGB), kind, save_all=True, append_images=[Image.fromarray(OTHER)])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, before: bytes = b"", depth: int = 8, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_wrong_crc(data: bytes) -> bytes:
    place = data.index(b"IDAT")
    length = struct.unpack(">I", data[place - 4 : place])[0]
    end = place + 4 + length
    return data[:end] + bytes(4) + data[end + 4 :]


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 99, 0, 0, 54) + header + bytes(99)


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encoded(RGB, "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


GREY = zlib.compress(bytes((WIDTH + 1) * HEIGHT))
DEEP = np.stack([LABEL.astype(np.uint16) * 100] * 3, -1)
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="40" height="24"><rect/></svg>'
PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 24\n%%EndComments\n{} loop\n%%EOF\n"
GARBAGE_EXIF = b"Exif\0\0" + bytes(range(256))

# Bytes, and whether they serve as an image and as a label.
CORPUS: dict[str, tuple[bytes, bool, bool]] = {
    "empty": (b"", False, False),
    "one byte": (b"\xff", False, False),
    "zeros": (bytes(5000), False, False),
    "text": (b"road sidewalk sky\n" * 50, False, False),
    "page of an error": (HTML, False, False),
    "SVG": (SVG, False, False),
    "program in PostScript": (PROGRAM, False, False),
    "archive": (b"PK\x03\x04" + bytes(200), False, False),
    "gzip": (b"\x1f\x8b\x08" + bytes(200), False, False),
    "magic of JPEG alone": (b"\xff\xd8\xff", False, False),
    "magic of PNG alone": (b"\x89PNG\r\n\x1a\n", False, False),
    "JPEG behind the magic of PNG": (b"\x89PNG\r\n\x1a\n" + encoded(RGB, "JPEG"), False, False),
    "PNG behind the magic of JPEG": (b"\xff\xd8\xff" + encoded(LABEL), False, False),
    "PNG of no width": (png(0, HEIGHT, GREY), False, False),
    "PNG of no size": (png(0, 0, GREY), False, False),
    "BMP of no size": (bmp(0, 0), False, False),
    "BMP of a negative width": (bmp(-7, 7), False, False),
    "JPEG of no size": (jpeg_that_claims(0, 0), False, False),
    "JPEG that claims 60000x60000": (jpeg_that_claims(60000, 60000), False, False),
    "PNG that claims 2 billion columns": (png(2**31 - 1, 1, GREY), False, False),
    "PNG that claims a negative width": (png(2**32 - 1, 1, GREY), False, False),
    "PNG that claims 30000x30000": (png(30000, 30000, GREY), False, False),
    "BMP that claims 30000x30000": (bmp(30000, 30000), False, False),
    "PPM that claims 99999x99999": (b"P6 99999 99999 255\n", False, False),
    "PPM with a size of 20 digits": (b"P6 99999999999999999999 1 255\n", False, False),
    "PNG with a bomb in its text": (
        png(WIDTH, HEIGHT, GREY, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))), False, False
    ),
    "PNG with a bomb in its profile": (
        png(WIDTH, HEIGHT, GREY, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000)))), False, False
    ),
    "PNG of corrupt zlib": (png(WIDTH, HEIGHT, b"\x78\x9c" + bytes(50)), False, False),
    "PNG of too few pixels": (png(WIDTH, HEIGHT, zlib.compress(bytes(99))), False, False),
    "PNG of a wrong checksum": (with_wrong_crc(encoded(LABEL)), False, False),
    "PNG of no such depth": (png(WIDTH, HEIGHT, GREY, depth=7), False, False),
    "PNG of no such colour type": (png(WIDTH, HEIGHT, GREY, colour=5), False, False),
    "palette image without a palette": (png(WIDTH, HEIGHT, GREY, colour=3), True, True),
    "16-bit RGB": (imagecodecs.png_encode(DEEP), False, False),
    "16-bit grey": (imagecodecs.png_encode(DEEP[..., 0].copy()), False, False),
    "float TIFF": (encoded(LABEL.astype(np.float32), "TIFF"), False, False),
    "1-bit": (encoded(LABEL > 4), True, False),
    "CMYK": (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), True, False),
    "RGB and alpha": (encoded(np.dstack([RGB, LABEL])), True, False),
    "grey and alpha": (encoded(Image.fromarray(RGB).convert("LA")), True, False),
    "animated WebP": (frames("WEBP"), True, False),
    "TIFF of two pages": (frames("TIFF"), True, False),
    "label as a JPEG": (encoded(LABEL, "JPEG"), True, False),
    "ids outside": (encoded(np.full((HEIGHT, WIDTH), 77, np.uint8)), True, False),
    "garbage for EXIF": (encoded(RGB, "JPEG", exif=GARBAGE_EXIF), True, False),
}  # fmt: skip


def rows(folder: Path, image: bytes, label: bytes) -> pa.Table:
    """A manifest of three records, of which the middle one is of these files."""
    listed = []
    for name, files in (("a", (encoded(RGB[:9]), encoded(LABEL[:9]))), ("bad", (image, label)),
                        ("z", (encoded(RGB[:, :7]), encoded(LABEL[:, :7].copy())))):  # fmt: skip
        uris = [folder / f"{name} image", folder / f"{name} label"]
        for uri, data in zip(uris, files, strict=True):
            uri.write_bytes(data)
        listed.append({"image_id": name, "image_uri": str(uris[0]), "label_uri": str(uris[1])})
    return pa.Table.from_pylist(listed, schema=MANIFEST)


def outcome(folder: Path, image: bytes, label: bytes, culprit: str) -> str | None:
    """The problem of the middle record, once all that must be true of the three has been found so."""
    table = rows(folder, image, label)
    inspected = InspectRecords(CLASSES)(table)
    first, bad, last = inspected.to_pylist()
    assert (first["problem"], first["height"], first["width"], sum(first["class_pixels"])) == (
        None,
        9,
        WIDTH,
        9 * WIDTH,
    )
    assert (last["problem"], last["height"], last["width"], sum(last["class_pixels"])) == (None, HEIGHT, 7, HEIGHT * 7)
    found = SplitInspection()
    found.add("pool", inspected)
    decoded = DecodeImages((32, 32), keep_bad=True)(table).to_pylist()
    predicted = ReadImages((32, 32))(table).to_pylist()
    for seen in (decoded, predicted):
        assert [row["problem"] for row in (seen[0], seen[2])] == [None, None]
        assert [len(row["image"]) for row in (seen[0], seen[2])] == [32 * 32 * 3] * 2
    if bad["problem"] is None:
        assert (found.images, found.bad) == (3, [])
        assert len(decoded[1]["image"]) == 32 * 32 * 3
        assert sum(bad["class_pixels"]) == bad["height"] * bad["width"]
        return None
    file = f"{culprit} {folder}/bad {culprit}"
    assert_one_sentence(bad["problem"], file)
    assert found.bad == [{"split": "pool", "image_id": "bad", "problem": bad["problem"]}]
    inspection = Inspection({"pool": found}, None)
    refused(lambda: inspection.settle("fail"), file, "data.on_bad_record")
    inspection.settle("skip")
    if culprit == "image" and "same size" not in bad["problem"]:
        assert decoded[1]["image"] is None
        assert decoded[1]["problem"] == predicted[1]["problem"] == bad["problem"]
        with pytest.raises(BadRecordError, match="bad image"):
            DecodeImages((32, 32))(table)
    return str(bad["problem"])


@pytest.mark.parametrize("what", CORPUS)
def test_a_broken_image(tmp_path: Path, what: str) -> None:
    data, usable, _ = CORPUS[what]
    assert (outcome(tmp_path, data, encoded(LABEL), "image") is None) == usable


@pytest.mark.parametrize("what", CORPUS)
def test_a_broken_label(tmp_path: Path, what: str) -> None:
    data, _, usable = CORPUS[what]
    assert (outcome(tmp_path, encoded(RGB), data, "label") is None) == usable


@pytest.mark.parametrize("twentieth", range(1, 20))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_cut_off(tmp_path: Path, kind: str, twentieth: int) -> None:
    data = encoded(RGB, kind)
    assert outcome(tmp_path, data[: len(data) * twentieth // 20], encoded(LABEL), "image")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP"])
def test_another_kind_of_image_cut_off(tmp_path: Path, kind: str) -> None:
    data = encoded(RGB, kind)
    assert outcome(tmp_path, data[: len(data) // 2], encoded(LABEL), "image")


@MANY_CASES
@examples(150)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"]),
    damage=st.sampled_from(DAMAGES),
    seed=st.integers(0, 10**6),
)
def test_a_damaged_image_is_another_image_or_a_skip(
    tmp_path_factory: pytest.TempPathFactory, kind: str, damage: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged EXIF
        problem = outcome(folder, damaged(encoded(RGB, kind), damage, seed), encoded(LABEL), "image")
    if damage in ("empty", "zeros", "noise"):
        assert problem is not None


@MANY_CASES
@examples(300)
@given(damage=st.sampled_from(("flip", *DAMAGES)), seed=st.integers(0, 10**6))
def test_a_damaged_label_is_refused_or_reads_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, damage: str, seed: int
) -> None:
    """PNG has checksums: no flipped bit may turn a class into another."""
    folder, whole = tmp_path_factory.mktemp("label"), encoded(LABEL)
    if outcome(folder, encoded(RGB), damaged(whole, damage, seed), "label") is None:
        damaged_one = InspectRecords(CLASSES)(rows(folder, encoded(RGB), damaged(whole, damage, seed))).to_pylist()[1]
        assert damaged_one == InspectRecords(CLASSES)(rows(folder, encoded(RGB), whole)).to_pylist()[1]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))  # absolute ones may be too long


def loop(path: Path) -> None:
    path.symlink_to(path.name)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "directory": Path.mkdir, "pipe": fifo, "endless device": device, "socket": unix_socket, "link to itself": loop,
    "dangling link": lambda path: path.symlink_to("nowhere"), "missing": lambda path: None,
}  # fmt: skip


@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file_is_a_skip_and_nobody_waits_for_it(tmp_path: Path, what: str) -> None:
    for culprit in ("image", "label"):
        table = rows(tmp_path, encoded(RGB), encoded(LABEL))
        path = tmp_path / f"bad {culprit}"
        path.unlink()
        NO_FILES[what](path)
        problems = InspectRecords(CLASSES)(table)["problem"].to_pylist()
        assert problems[::2] == [None, None]
        assert_one_sentence(problems[1], f"{culprit} {path}")
        refused(lambda path=path: read_mask(str(path)), str(path))
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


HUGE = 200 << 30
"""Bytes of a sparse file, which takes none of the disk."""


def huge(path: Path) -> Path:
    path.write_bytes(encoded(RGB))  # a good beginning
    os.truncate(path, HUGE)
    return path


def test_a_file_that_no_memory_holds_is_a_skip_and_is_not_read(tmp_path: Path) -> None:
    for culprit in ("image", "label"):
        table = rows(tmp_path, encoded(RGB), encoded(LABEL))
        path = huge(tmp_path / f"bad {culprit}")
        problems = InspectRecords(CLASSES)(table)["problem"].to_pylist()
        assert problems[::2] == [None, None]
        assert_one_sentence(problems[1], f"{culprit} {path}", str(HUGE))
    problem = ReadImages((32, 32))(find_images(str(huge(tmp_path / "x.png"))))["problem"][0].as_py()
    assert_one_sentence(problem, f"image {tmp_path}/x.png", str(HUGE))
    refused(lambda: read_mask(str(huge(tmp_path / "mask.png"))), f"mask {tmp_path}/mask.png", str(HUGE))
    huge(tmp_path / "list.txt")
    refused(lambda: folder(str(tmp_path), images="*.png", list_file="list.txt"), f"{tmp_path}/list.txt", str(HUGE))
    refused(lambda: class_set(str(huge(tmp_path / "classes.yaml"))), f"{tmp_path}/classes.yaml", str(HUGE))


@pytest.mark.parametrize("where", ["halo_ray.data.images.read_file", "PIL.Image.open"])
def test_a_file_for_which_there_is_too_little_memory_is_a_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    table = rows(tmp_path, encoded(RGB), encoded(LABEL))

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(where, exhausted)
    for name, problem in zip(("a", "bad", "z"), InspectRecords(CLASSES)(table)["problem"].to_pylist(), strict=True):
        assert_one_sentence(problem, f"image {tmp_path}/{name} image", "memory")


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_file_that_its_mode_closes_is_a_skip_and_a_mount_that_refuses_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Who runs the tests may read everything, so another user is acted."""
    table = rows(tmp_path, encoded(RGB), encoded(LABEL))
    (tmp_path / "bad image").chmod(mode)

    def closed(filesystem: object, path: str, most: int) -> bytes:
        if path.endswith("bad image"):
            raise PermissionError(13, "Permission denied", path)
        return Path(path).read_bytes()

    monkeypatch.setattr("halo_ray.data.images.read_file", closed)
    monkeypatch.setattr("halo_ray.data.images.READ_PATIENCE", 0.1)
    for name in ("geteuid", "getegid"):
        monkeypatch.setattr(os, name, lambda: 54321)
    monkeypatch.setattr(os, "getgroups", list)
    if mode == 0o600:
        problems = InspectRecords(CLASSES)(table)["problem"].to_pylist()
        assert problems[::2] == [None, None]
        assert_one_sentence(problems[1], f"image {tmp_path}/bad image", "Permission denied")
    else:
        with pytest.raises(InputError, match="bad image") as caught:
            InspectRecords(CLASSES)(table)
        assert not isinstance(caught.value, BadRecordError)
