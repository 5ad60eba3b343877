"""Names of images, and patterns, lists and roots that name none: a sentence, and nothing outside of the experiment.

Cases: 30 patterns, lists and roots, 7 names that are refused and 9 tests of names that are not: 46.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from bad_input import HTML, SECONDS, refused
from PIL import Image

from halo_ray.data.layouts import folder
from halo_ray.data.listing import Root
from halo_ray.errors import InputError
from halo_ray.predict_images import find_images
from halo_ray.storage import Storage, safe_name

pytestmark = pytest.mark.timeout(SECONDS)


def _image() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


IMAGE = _image()

REFUSED_NAMES = {
    "not UTF-8": b"\xff\xfe", "line break": b"a\nb", "carriage return": b"a\rb", "escape": b"\x1b[31m", "tab": b"a\tb",
    "line separator": "a\u2028b".encode(), "delete": b"a\x7f",
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED_NAMES)
def test_a_name_that_no_sentence_can_hold_is_refused(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "images"
    directory.mkdir()
    with open(os.fsencode(directory) + b"/" + REFUSED_NAMES[what] + b".png", "wb") as file:
        file.write(IMAGE)
    refused(lambda: folder(str(directory), images="*.png"), str(directory), "rename it")
    refused(lambda: folder(str(tmp_path), images="images/*"), "rename it")
    refused(lambda: find_images(str(directory)), "rename it")


ESCAPES = ["..", ".", "...", "%2e%2e%2f", "a%00b", "~", "$HOME", "C:\\x"]


@pytest.mark.parametrize("name", ESCAPES)
def test_no_image_id_leads_outside_of_the_experiment(tmp_path: Path, name: str) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    (images / "deep").mkdir(parents=True)
    for place in (images, images / "deep"):
        (place / f"{name}.png").write_bytes(IMAGE)
    ids = folder(str(images), images="*.png")["image_id"].to_pylist()
    assert sorted(ids) == sorted([name, f"deep/{name}"])
    storage = Storage(str(out))
    before = set(tmp_path.rglob("*"))
    for image_id in ids:
        storage.write(f"maps/{safe_name(image_id)}.npz", b"x")  # as scoring does
        storage.write(f"{image_id}.png", b"x")  # as predict does
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(written) == 2 * len(ids)
    assert all(path.resolve().is_relative_to(out.resolve()) for path in written)


def test_ids_that_look_alike_stay_two(tmp_path: Path) -> None:
    """A composed and a decomposed é, and a slash and its percent-encoded form."""
    names = ["\u00e9", "e\u0301", "a/b", "a%2Fb"]
    assert len({safe_name(name) for name in names}) == len(names)
    for name in names:
        (tmp_path / f"{name}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(IMAGE)
    assert sorted(folder(str(tmp_path), images="*.png")["image_id"].to_pylist()) == sorted(names)


@pytest.mark.parametrize("pattern", ["", "*.png*", "**", "*/../..", "*/..", "images", "../*/../*", "\0", "a/../.."])
def test_a_pattern_that_is_none_is_refused(tmp_path: Path, pattern: str) -> None:
    refused(lambda: folder(str(tmp_path), images=pattern), "exactly one *")


LISTS = {
    "not UTF-8": b"\xff\xfe\0", "way out": b"../../x\n", "absolute": b"/etc/passwd\n", "null": b"a\0b\n",
    "twice": b"a\na\n", "image": IMAGE, "page": HTML,
}  # fmt: skip


@pytest.mark.parametrize("what", LISTS)
def test_a_list_that_names_no_images(tmp_path: Path, what: str) -> None:
    (tmp_path / "a.png").write_bytes(IMAGE)
    (tmp_path / "list.txt").write_bytes(LISTS[what])
    refused(lambda: folder(str(tmp_path), images="*.png", list_file="list.txt"), "list.txt")


@pytest.mark.parametrize("name", ["", ".", "..", "nowhere", "x" * 300, "pipe", "/dev/zero"])
def test_a_list_that_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(IMAGE)
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: folder(str(tmp_path), images="*.png", list_file=name), f"list {tmp_path}/{name} cannot be read")


@pytest.mark.parametrize("root", ["nowhere", "a\0b", "x" * 5000, "/dev/zero", "/etc/hostname", "foo://x", "s3://"])
def test_a_root_that_is_no_directory(root: str) -> None:
    with pytest.raises(InputError) as caught:
        Root(root)
    assert repr(root)[1:-1] in str(caught.value)
