"""Where class maps may be written: over no image and no file of anybody else's, and none in another's place."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from halo_ray.benchmarks.object_store import ObjectStore
from halo_ray.errors import BadRecordError, InputError
from halo_ray.patience import StorageError
from halo_ray.predict_images import find_images
from halo_ray.predict_outputs import mark, output_names, problems_of_outputs, write_output
from halo_ray.storage import Storage


def class_map() -> bytes:
    buffer = io.BytesIO()
    written = Image.new("P", (300, 200))
    written.putpalette([level % 256 for level in range(768)])
    written.save(buffer, "PNG", pnginfo=mark())
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("a.jpg", "b.png", "below/c.png"):
        image(folder / name)
    return folder


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)
    return path


def problems(images: Path | str, out: Path | str, overlay: bool = False) -> dict[str, str]:
    return problems_of_outputs(find_images(str(images)), Storage(str(images)), Storage(str(out)), overlay)


def test_names_that_are_free_and_class_maps_of_before_are_no_problem(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert problems(images, out, overlay=True) == {}
    assert not out.exists()
    for name in (name for each in ("a", "b", "below/c") for name in output_names(each, overlay=True)):
        write_output(Storage(str(out)), name, class_map(), "")
    assert problems(images, out, overlay=True) == {}


ALIASES: dict[str, Callable[[Path, Path], Path]] = {
    "itself": lambda images, out: images,
    "below": lambda images, out: images / "out",
    "link": lambda images, out: linked(out, images),
    "link to a directory below": lambda images, out: linked(out, images / "below"),
    "below a link": lambda images, out: linked(out, images) / "x/y",
    "link of a link": lambda images, out: linked(out, linked(out.with_name(f"{out.name} 2"), images)),
    "parent of a directory of that name": lambda images, out: images.parent,
}


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("how", ALIASES)
def test_a_directory_of_images_is_no_place_for_class_maps(images: Path, tmp_path: Path, how: str) -> None:
    image(images / "images/d.png")  # whose class map would be OUT/images/d.png
    for given in (images, linked(tmp_path / "given", images)):
        out = ALIASES[how](images, tmp_path / f"out {given.name}")
        with pytest.raises(InputError, match="images"):
            problems(given, out)


def test_a_directory_that_holds_images_which_links_lead_to_is_no_place_either(tmp_path: Path) -> None:
    image(tmp_path / "far/a.png")
    (tmp_path / "farm").mkdir()
    linked(tmp_path / "farm/far", tmp_path / "far")
    for out in (tmp_path / "far", tmp_path / "far/out"):
        with pytest.raises(InputError, match="far"):
            problems(tmp_path / "farm", out)


@pytest.mark.parametrize("how", ["link", "hard link", "image"])
def test_a_class_map_in_place_of_an_image_is_refused(images: Path, tmp_path: Path, how: str) -> None:
    out, farm = tmp_path / "out", tmp_path / "farm"
    out.mkdir()
    if how == "link":
        linked(out / "b.png", images / "b.png")
    elif how == "hard link":
        (out / "b.png").hardlink_to(images / "b.png")
    else:  # a farm of links to single files, and OUT is where these lie
        farm.mkdir()
        linked(farm / "b.png", image(out / "b.png"))
        images = farm
    with pytest.raises(InputError, match=r"out/b\.png is the image"):
        problems(images, out)


def test_of_two_results_with_one_name_the_first_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for name in ("a.png", "a.overlay.png", "b.overlay.png", "c.jpg", "c.overlay.png/d.jpg"):
        image(folder / name)
    found = problems(folder, tmp_path / "out", overlay=True)
    assert set(found) == {"a.overlay", "c.overlay", "c.overlay.png/d"}  # the last but one is a directory
    assert f"{folder}/a.png" in found["a.overlay"]
    for name in ("c.overlay", "c.overlay.png/d"):
        assert f"{folder}/c.jpg" in found[name]
    assert set(problems(folder, tmp_path / "out")) == {"c.overlay.png/d"}  # it needs a directory where that one's is


def directory(path: Path) -> None:
    path.mkdir()


def foreign(path: Path) -> None:
    Image.new("L", (5, 5), 3).save(path)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere.png")


def link(path: Path) -> None:
    (path.parent.parent / "somebody's.png").write_bytes(class_map())
    path.symlink_to("../somebody's.png")


@pytest.mark.parametrize("what", [directory, foreign, dangling, link, os.mkfifo])
def test_what_came_after_the_look_is_the_problem_of_one_image_too(images: Path, tmp_path: Path, what: Callable) -> None:
    """Hours lie between the first look and the last class map."""
    out = tmp_path / "out"
    out.mkdir()
    assert problems(images, out) == {}
    what(out / "b.png")
    before = (out / "b.png").lstat(), (out / "b.png").read_bytes() if what is foreign else None
    for _ in range(2):  # the second time over its own
        write_output(Storage(str(out)), "a.png", class_map(), "/x/a.jpg")
        with pytest.raises(
            BadRecordError, match=r"^image /x/b\.jpg [^(]*/out/b\.png cannot be written \(there is an? "
        ):
            write_output(Storage(str(out)), "b.png", class_map(), "/x/b.jpg")
    assert ((out / "b.png").lstat(), (out / "b.png").read_bytes() if what is foreign else None) == before
    assert (out / "a.png").read_bytes() == class_map()


def test_what_comes_between_the_look_and_the_writing_of_a_class_map_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "exists", lambda self, name: False)
    (tmp_path / "a.png").write_bytes(b"somebody's")
    with pytest.raises(BadRecordError, match="that predict did not write"):
        write_output(Storage(str(tmp_path)), "a.png", class_map(), "/x/a.jpg")
    assert (tmp_path / "a.png").read_bytes() == b"somebody's"


@pytest.mark.parametrize("what", [directory, foreign, dangling, link, os.mkfifo])
def test_what_is_in_the_way_is_the_problem_of_one_image(images: Path, tmp_path: Path, what: Callable) -> None:
    (tmp_path / "out").mkdir()
    what(tmp_path / "out/b.png")
    found = problems(images, tmp_path / "out")
    assert set(found) == {"b"}
    assert f"{images}/b.png" in found["b"]
    assert f"{tmp_path}/out/b.png" in found["b"]


def test_a_file_in_place_of_a_directory_is_the_problem_of_the_images_below(images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/below").write_text("mine")
    assert set(problems(images, tmp_path / "out")) == {"below/c"}


def test_long_names_are_the_problem_of_their_images(tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    names = ["x" * 251, "y" * 243, "ü" * 122 + "z", "short"]  # bytes with .overlay.png: 263, 255, 257, 17
    for name in names:
        image(folder / f"{name}.png")
    image(folder / f"{'z' * 251}.jpg")
    assert problems(folder, out) == {}
    for name in names:
        write_output(Storage(str(out)), f"{name}.png", b"", "")
    found = problems(folder, tmp_path / "other", overlay=True)
    assert set(found) == {"x" * 251, "ü" * 122 + "z", "z" * 251}
    assert all(f"{folder}/{name}" in said for name, said in found.items())
    with pytest.raises(BadRecordError, match=r"x{251}\.overlay"):
        write_output(Storage(str(out)), f"{'x' * 251}.overlay.png", b"", "")


def test_what_one_name_cannot_have_is_told_from_a_storage_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path / "out"), patience=0.1)
    (tmp_path / "far").mkdir()
    (tmp_path / "out").mkdir()
    linked(tmp_path / "out/link", tmp_path / "far")
    (tmp_path / "out/file").write_text("mine")
    (tmp_path / "out/directory.png").mkdir()
    for name in ("link/a.png", "file/a.png", "directory.png"):
        with pytest.raises(BadRecordError, match=rf"image /x/y\.jpg .*{name.partition('/')[0]}"):
            write_output(storage, name, b"x", "/x/y.jpg")
    assert list((tmp_path / "far").iterdir()) == []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("halo_ray.storage.create_local", full)
    with pytest.raises(StorageError, match="No space left"):
        write_output(storage, "a.png", b"x", "/x/y.jpg")


def test_in_a_bucket(s3: ObjectStore, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "out/c.png"):
        image(tmp_path / "up" / name)
    image(tmp_path / "up" / "/".join(["k" * 200] * 4) / f"{'k' * 100}.png")  # a key of 900 bytes and more
    s3.upload(tmp_path / "up", "outputs/images")
    images = s3.uri("outputs/images")
    for out in ("outputs/images", "outputs/images/x", "outputs/images/"):
        with pytest.raises(InputError, match="within"):
            problems(images, s3.uri(out))
    out = Storage(s3.uri("outputs/" + "o" * 150))
    long = problems(images, out.uri)
    assert [len(name) > 800 for name in long] == [True]
    out.write("a.png", class_map())
    out.write("b.png", b"somebody's")
    assert set(problems(images, out.uri)) == {"b", *long}
    write_output(out, "a.png", class_map() + b"again", "")
    with pytest.raises(BadRecordError, match="that predict did not write"):
        write_output(out, "b.png", class_map(), "")
    assert (out.read("a.png"), out.read("b.png")) == (class_map() + b"again", b"somebody's")
