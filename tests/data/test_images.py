"""Files with known pixels, read back; and files that are damaged or mean something else, refused by name."""

import re
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halo_ray.data.classes import IGNORE, ClassSet, class_set
from halo_ray.data.images import file, read_ahead, read_image, read_label, read_mask
from halo_ray.data.synthetic import render_scene
from halo_ray.errors import BadRecordError, InputError

CAMVID = Path(__file__).parents[2] / "../shared/data/camvid"
CLASSES = ClassSet("mine", ("a", "b", "c"), ids=(4, 0, 200))
READERS: dict[str, Callable[[str], object]] = {
    "image": read_image,
    "label": lambda uri: read_label(uri, CLASSES),
    "mask": read_mask,
}
SCENE = "synthetic://target/5/9?height=40&width=72"


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(image: Image.Image, file: Path) -> str:
    image.save(file)
    return str(file)


def test_an_rgb_file_is_read_as_it_is(tmp_path: Path) -> None:
    rgb = noise(6, 4, 3)
    uri = saved(Image.fromarray(rgb), tmp_path / "ä b.png")
    np.testing.assert_array_equal(read_image(uri), rgb)
    np.testing.assert_array_equal(read_image(Path(uri).as_uri()), rgb)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "1"])
def test_other_colour_modes_are_read_as_rgb(tmp_path: Path, mode: str) -> None:
    grey, rgb = noise(6, 4), noise(6, 4, 3)
    gray3 = np.stack([grey] * 3, -1)
    made = {
        "L": (Image.fromarray(grey), gray3),
        "LA": (Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 - grey)]), gray3),
        "RGBA": (Image.fromarray(np.dstack([rgb, grey])), rgb),
        "CMYK": (Image.fromarray(np.dstack([255 - rgb, 0 * grey]), "CMYK"), rgb),  # no black: the complement of RGB
        "P": (Image.fromarray(grey % 2), np.where(gray3 % 2, [[[7, 8, 9]]], [[[200, 100, 0]]])),
        "1": (Image.fromarray(grey > 99), np.where(gray3 > 99, 255, 0)),
    }
    image, expected = made[mode]
    if mode == "P":
        image.putpalette([200, 100, 0, 7, 8, 9])
    assert image.mode == mode
    uri = saved(image, tmp_path / ("x.tif" if mode == "CMYK" else "x.png"))
    np.testing.assert_array_equal(read_image(uri), expected)


def test_a_16_bit_image_is_refused_rather_than_read_as_white(tmp_path: Path) -> None:
    uri = saved(Image.fromarray(np.linspace(256, 65535, 24).astype(np.uint16).reshape(6, 4)), tmp_path / "deep.png")
    with pytest.raises(BadRecordError, match=r"deep\.png"):
        read_image(uri)


@pytest.mark.parametrize("palette", [False, True])
def test_a_label_holds_ids_in_grey_or_as_palette_indices(tmp_path: Path, palette: bool) -> None:
    image = Image.fromarray(np.array([[4, 0], [200, 255], [4, 4]], np.uint8))
    if palette:
        image.putpalette(noise(256, 3).tobytes())
    assert image.mode == ("P" if palette else "L")
    assert read_label(saved(image, tmp_path / "x.png"), CLASSES).tolist() == [[0, 1], [2, IGNORE], [0, 0]]


@pytest.mark.parametrize("bits", [2, 4])
def test_a_grey_label_of_few_bits_holds_its_ids(tmp_path: Path, bits: int) -> None:
    """PNG optimizers write such files for few classes; Pillow alone would spread the ids over 0..255."""
    ids = noise(6, 8) % 3
    packed = np.packbits(np.unpackbits(ids[..., None], axis=2)[..., 8 - bits :].reshape(6, -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 6, bits, 0, 0, 0, 0)
    (tmp_path / "x.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    assert np.asarray(Image.open(tmp_path / "x.png")).max() > 3  # why this test exists
    plain = ClassSet("plain", ("a", "b", "c"))
    np.testing.assert_array_equal(read_label(str(tmp_path / "x.png"), plain), ids)


def test_what_stands_behind_the_end_of_a_png_is_no_part_of_it(tmp_path: Path) -> None:
    """Some cameras append data of their own there, in which nothing is a chunk with a checksum."""
    pixels = noise(6, 4, 3)
    uri = saved(Image.fromarray(pixels), tmp_path / "x.png")
    with (tmp_path / "x.png").open("ab") as file:
        file.write(struct.pack(">I", 4) + b"IDAT" + b"none" + b"sum?")
    np.testing.assert_array_equal(read_image(uri), pixels)


@pytest.mark.parametrize(
    ("mode", "pixels"),
    [("RGB", noise(6, 4, 3)), ("RGBA", noise(6, 4, 4)), ("I;16", np.ones((6, 4), np.uint16)), ("1", noise(6, 4) > 9)],
)
def test_a_label_that_holds_no_bytes_of_ids_is_refused(tmp_path: Path, mode: str, pixels: np.ndarray) -> None:
    uri = saved(Image.fromarray(pixels), tmp_path / "odd.png")
    with pytest.raises(BadRecordError, match=rf"odd\.png.*{mode} *"):
        read_label(uri, CLASSES)


def test_a_label_with_an_id_outside_the_set_is_named_with_the_id(tmp_path: Path) -> None:
    uri = saved(Image.fromarray(np.array([[0, 17]], np.uint8)), tmp_path / "odd.png")
    with pytest.raises(InputError, match=r"odd\.png.*17.*mine"):
        read_label(uri, CLASSES)


def test_files_read_ahead_come_in_order_and_a_bad_one_fails_when_its_content_is_asked_for(tmp_path: Path) -> None:
    names = [f"{i}" for i in range(20)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "7").unlink()
    with read_ahead(str(tmp_path / name) for name in names) as files:
        seen = list(files)
    assert [each.uri for each in seen] == [file(str(tmp_path / name)).uri for name in names]
    assert [each.read() for i, each in enumerate(seen) if i != 7] == [n.encode() for n in names if n != "7"]
    with pytest.raises(OSError, match="7"):
        seen[7].read()


def test_an_error_leaves_no_thread_that_reads_ahead_however_long_its_traceback_is_kept(tmp_path: Path) -> None:
    kept = []
    before = set(threading.enumerate())
    try:
        with read_ahead(str(tmp_path / f"{i}") for i in range(20)) as files:
            next(files)
            raise ValueError("of the consumer")
    except ValueError as error:
        kept.append(error)
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    images = {"image": noise(60, 40, 3), "label": np.array(CLASSES.ids, np.uint8)[noise(60, 40) % 3]}
    for kind, pixels in images.items():
        file = tmp_path / f"cut {kind}.{suffix}"
        uri = saved(Image.fromarray(pixels), file)
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
        with pytest.raises(BadRecordError, match=re.escape(uri)):
            READERS[kind](uri)


@pytest.mark.parametrize("kind", READERS)
class TestUnusableFiles:
    def assert_refused(self, kind: str, file: Path) -> None:
        with pytest.raises(BadRecordError, match=re.escape(str(file))):
            READERS[kind](str(file))

    def test_missing(self, kind: str, tmp_path: Path) -> None:
        self.assert_refused(kind, tmp_path / "gone.png")

    def test_directory(self, kind: str, tmp_path: Path) -> None:
        self.assert_refused(kind, tmp_path)

    def test_not_an_image(self, kind: str, tmp_path: Path) -> None:
        (tmp_path / "x.png").write_text("no image")
        self.assert_refused(kind, tmp_path / "x.png")

    def test_damaged_width(self, kind: str, tmp_path: Path) -> None:
        file = tmp_path / "x.bmp"
        data = bytearray(Path(saved(Image.fromarray(noise(6, 4)), file)).read_bytes())
        data[18:22] = struct.pack("<i", 2**30)  # where the BMP header holds the width
        file.write_bytes(data)
        self.assert_refused(kind, file)


def test_a_synthetic_uri_names_the_scene() -> None:
    image, label = render_scene("target", 5, 9, height=40, width=72)
    np.testing.assert_array_equal(read_image(SCENE), image)
    np.testing.assert_array_equal(read_label(SCENE, class_set("synthetic")), label)


def test_camvid_ids_mean_the_classes_of_its_statistics() -> None:
    """Shares of all pixels in percent, from the README of the edition at hand."""
    if not CAMVID.exists():
        pytest.skip(f"no CamVid at {CAMVID}")
    shares = {"sky": 21.37, "building": 15.26, "pole": 0.73, "road": 15.95, "pavement": 4.93, "tree": 21.09}
    shares |= {"sign": 0.48, "fence": 0.79, "car": 10.95, "pedestrian": 1.08, "bicyclist": 0.50}
    classes, names = class_set("camvid11"), (CAMVID / "splits/dusk_val.txt").read_text().split()
    labels = np.stack([read_label(f"{CAMVID}/labels/{name}.png", classes) for name in names])
    found = {name: 100 * (labels == i).mean() for i, name in enumerate(classes.classes)}
    assert found == pytest.approx(shares, abs=0.0051)
    assert 100 * (labels == IGNORE).mean() == pytest.approx(6.87, abs=0.0051)
