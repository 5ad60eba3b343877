"""Links: a listing ends, one file is one image whatever it is called, and every name that cannot be used is named."""

from __future__ import annotations

import itertools
import os
import random
import re
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from halo_ray.data.aliases import identity
from halo_ray.data.classes import class_set
from halo_ray.data.inspection import InspectRecords
from halo_ray.data.manifest import SPLITS, DataConfig, known_labels, list_splits
from halo_ray.data.readers import SplitConfig, list_split
from halo_ray.errors import InputError
from halo_ray.predict_images import ReadImages, find_images

pytestmark = pytest.mark.timeout(60)

DEPTH = 5
"""So many directories below each other are entered by the brute-force walk; the generated trees have three."""


def listed(root: Path, images: str = "*.png", **config: object) -> list[str]:
    """Paths below the root of the images of a split."""
    table = list_split(SplitConfig(reader="folder", images=images, **config), str(root), key="data.pool")
    return [uri.removeprefix(f"{root}/") for uri in table["image_uri"].to_pylist()]


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (len(path.name), 2, 3)).save(path)
    return path


def test_a_link_to_its_own_parent_multiplies_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"images/{name}.png")
    (tmp_path / "images/loop").symlink_to(".")
    assert listed(tmp_path, "images/*.png") == ["images/a.png", "images/b.png"]
    assert "images/loop" in capsys.readouterr().out
    assert find_images(str(tmp_path))["image_id"].to_pylist() == ["images/a", "images/b"]


def test_a_listing_ends_where_links_lead_to_each_other_in_every_way(tmp_path: Path) -> None:
    """12 links, each to the directory of all: their names number 12 to the power of the depth."""
    image(tmp_path / "images/a.png")
    for number in range(12):
        (tmp_path / f"images/{number}").symlink_to("../images")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one/two").symlink_to("../two")
    (tmp_path / "two/one").symlink_to("../one")
    image(tmp_path / "two/b.png")
    assert listed(tmp_path) == ["images/a.png", "two/b.png"]
    assert listed(tmp_path, "*/3/a.png") == ["images/3/a.png"]  # of all names the one that has this end


@pytest.mark.parametrize("how", ["link", "hard link", "link outside", "directory", "directory outside"])
def test_one_file_is_one_image_and_its_other_names_are_said(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, far = tmp_path / "root", tmp_path / "far"
    (root / "images").mkdir(parents=True)
    match how:
        case "link":
            image(root / "images/z.png")
            (root / "images/a.png").symlink_to("z.png")
            kept, left_out = "images/z.png", "images/a.png"
        case "hard link":
            image(root / "images/z.png")
            (root / "images/a.png").hardlink_to(root / "images/z.png")
            kept, left_out = "images/a.png", "images/z.png"
        case "link outside":
            image(far / "x.png")
            for name in ("z", "a"):
                (root / f"images/{name}.png").symlink_to(far / "x.png")
            kept, left_out = "images/a.png", "images/z.png"
        case "directory":
            image(root / "images/z/x.png")
            (root / "images/a").symlink_to("z")
            kept, left_out = "images/z/x.png", "images/a"
        case _:
            image(far / "x.png")
            for name in ("z", "a"):
                (root / f"images/{name}").symlink_to(far)
            kept, left_out = "images/a/x.png", "images/z"
    assert listed(root, "images/*.png") == [kept]
    (line,) = capsys.readouterr().out.splitlines()
    assert re.search(rf"{left_out}(?![\w/.])", line)
    assert "(1)" in line


def test_what_is_said_of_many_names_is_one_line_with_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tmp_path / "a.png")
    for number in range(30):
        (tmp_path / f"b{number:02}.png").hardlink_to(tmp_path / "a.png")
    assert listed(tmp_path) == ["a.png"]
    (line,) = capsys.readouterr().out.splitlines()
    assert "(30)" in line
    assert "b00.png" in line
    assert "b29.png" not in line


def test_one_file_of_two_suffixes_is_one_image_and_two_files_are_an_error(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    (tmp_path / "images/a.jpg").symlink_to("a.png")
    assert listed(tmp_path, "images/*") == ["images/a.png"]
    assert find_images(str(tmp_path / "images"))["image_id"].to_pylist() == ["a"]
    image(tmp_path / "images/a.bmp")
    with pytest.raises(InputError, match=r"a\.bmp and .*a\.png.*'a'"):
        listed(tmp_path, "images/*")


def test_a_list_may_name_an_image_by_any_of_its_names(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    (tmp_path / "images/b.png").symlink_to("a.png")
    (tmp_path / "list.txt").write_text("b\n")
    assert listed(tmp_path, "images/*.png", list_file="list.txt") == ["images/b.png"]
    (tmp_path / "list.txt").write_text("b\na\n")
    assert listed(tmp_path, "images/*.png", list_file="list.txt") == ["images/a.png"]


def test_a_name_with_a_label_goes_before_one_without(tmp_path: Path) -> None:
    image(tmp_path / "images/raw/1.png")
    (tmp_path / "images/zurich").mkdir()
    (tmp_path / "images/zurich/1.png").symlink_to("../raw/1.png")
    image(tmp_path / "labels/zurich/1.png")
    assert listed(tmp_path, "images/*.png", labels="labels/*.png") == ["images/zurich/1.png"]


def test_labels_are_found_by_every_name_of_theirs(tmp_path: Path) -> None:
    """Two cameras with images of their own and the same labels."""
    for camera in ("left", "right"):
        image(tmp_path / f"images/{camera}/1.png")
    image(tmp_path / "labels/left/1.png")
    (tmp_path / "labels/right").symlink_to("left")
    config = SplitConfig(reader="folder", images="images/*.png", labels="labels/*.png")
    table = list_split(config, str(tmp_path), key="data.pool")
    assert table["label_uri"].to_pylist() == [str(tmp_path / f"labels/{c}/1.png") for c in ("left", "right")]
    known = known_labels(DataConfig(pool=config, known_labels="labels/*.png"), str(tmp_path), table)
    assert known["label_uri"].to_pylist() == table["label_uri"].to_pylist()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))  # absolute ones may be too long


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "dangling link": (dangling, "nowhere"), "link to itself": (loop, "itself"), "pipe": (os.mkfifo, "a pipe"),
    "socket": (unix_socket, "a socket"), "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "directory": (Path.mkdir, "a directory"), "link into a file": (lambda path: path.symlink_to("a.png/x"), "a.png/x"),
}  # fmt: skip


@pytest.mark.parametrize("pattern", ["images/*.png", "images/*"])
@pytest.mark.parametrize("what", NO_FILES)
def test_a_name_that_matches_and_is_no_file_is_named(tmp_path: Path, what: str, pattern: str) -> None:
    make, said = NO_FILES[what]
    image(tmp_path / "images/a.png")
    bad = tmp_path / "images/bad.png"
    make(bad)
    for number in range(2):  # links to what is no file are named too, each by itself
        (tmp_path / f"images/link{number}.png").symlink_to("bad.png")
    names = ["a", "bad", "link0", "link1"] if what != "directory" else ["a", "bad"]
    table = list_split(SplitConfig(reader="folder", images=pattern), str(tmp_path), key="data.pool")
    predicted = find_images(str(tmp_path / "images"))
    for found, read in ((table, InspectRecords(class_set("synthetic"))), (predicted, ReadImages((32, 32)))):
        problems = dict(zip(found["image_id"].to_pylist(), read(found)["problem"].to_pylist(), strict=True))
        assert [name for name in problems if not name.startswith("link")] == ["a", "bad"]
        assert problems["a"] is None
        for name in set(names) - {"a"}:
            assert f"image {tmp_path}/images/{name}.png is " in problems[name]
        assert said in problems["bad"]


def test_a_directory_of_images_is_no_image(tmp_path: Path) -> None:
    image(tmp_path / "images/town/a.png")
    image(tmp_path / "images/v1.0/a.png")
    assert listed(tmp_path, "images/*") == ["images/town/a.png", "images/v1.0/a.png"]


def test_a_link_to_a_directory_that_is_away_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / "images/a.png")
    (tmp_path / "images/night").symlink_to("/not/mounted")
    assert listed(tmp_path, "images/*.png") == ["images/a.png"]
    assert "images/night" in capsys.readouterr().out


def test_a_directory_that_cannot_be_read_is_an_error_unless_it_is_that_of_a_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "lost+found/b.png")
    scandir = os.scandir

    def closed(path: str) -> object:
        if path.endswith(("lost+found", "secret")):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert listed(tmp_path) == ["a.png"]
    image(tmp_path / "secret/c.png")
    with pytest.raises(InputError, match="secret"):
        listed(tmp_path)


def three_splits(root: Path) -> DataConfig:
    for split in SPLITS:
        for kind in ("images", "labels"):
            image(root / split / kind / f"{split}.png")
    return DataConfig(
        **{s: SplitConfig(reader="folder", images=f"{s}/images/*", labels=f"{s}/labels/*") for s in SPLITS}
    )


@pytest.mark.parametrize("how", ["link", "hard link", "other root", "link to the directory"])
@pytest.mark.parametrize("split", ["pool", "source"])
def test_an_image_of_the_validation_is_refused_elsewhere_whatever_it_is_called(
    tmp_path: Path, split: str, how: str
) -> None:
    root = tmp_path / "root"
    config = three_splits(root)
    list_splits(config, str(root), 0)
    name, held = root / split / "images/other.png", root / "validation/images/validation.png"
    if how == "link":
        name.symlink_to(held)
    elif how == "hard link":
        name.hardlink_to(held)
    elif how == "link to the directory":
        (root / split / "images/below").symlink_to(held.parent)
    else:
        (tmp_path / "alias").symlink_to(root)
        shared = replace(config.validation, root=str(tmp_path / "alias"))
        config = replace(config, **{split: shared})
    if how != "other root":
        image(root / split / "labels/other.png")
    with pytest.raises(InputError, match=rf"{held}.*data\.{split}|data\.{split}.*{held}"):
        list_splits(config, str(root), 0)


def test_a_scene_of_another_size_is_the_same_scene() -> None:
    pool, validation = SplitConfig(split="target", scenes=8), SplitConfig(split="target", scenes=1, first=7, height=64)
    with pytest.raises(InputError, match=r"target/0/7\?"):
        list_splits(DataConfig(pool=pool, validation=validation), "", 0)


def test_a_bucket_is_the_same_whoever_reads_it() -> None:
    same = ["s3://b/a%20b/1.png", "s3://key:secret%40x@b/a%20b/1.png?region=eu", "s3://b/a%20b/1.png?region=us"]
    assert len({identity(uri) for uri in same}) == 1
    others = ["s3://b/a/1.png", "s3://c/a%20b/1.png", "gs://b/a%20b/1.png", "/b/a%20b/1.png"]
    assert identity(same[0]) not in {identity(uri) for uri in others}
    assert identity("gcs://b/1.png") == identity("gs://anonymous@b/1.png")


# Random trees, against a walk that takes every name up to a depth and knows nothing of what it has seen.


KINDS = ["directory", "file", "file", "hard", "to file", "to directory", "to directory", "no file"]


def grow(root: Path, chance: random.Random) -> None:
    directories, files, loops = [root], [], 0
    for _ in range(chance.randrange(2, 16)):
        path = chance.choice(directories) / chance.choice(["a", "b", "c", "x.png", "y.png", "a.jpg", "b.png"])
        if len(path.relative_to(root).parts) > 3 or os.path.lexists(path):
            continue
        match chance.choice(
            ["directory", "file", "file", "hard", "to file", "to directory", "to directory", "no file"]
        ):
            case "directory":
                path.mkdir()
                directories.append(path)
            case "file":
                path.write_bytes(b"x")
                files.append(path)
            case "hard" if files:
                path.hardlink_to(chance.choice(files))
            case "to file" if files:
                path.symlink_to(os.path.relpath(chance.choice(files), path.parent))
            case "to directory" if loops < 3:  # or the brute-force walk does not end today
                path.symlink_to(chance.choice(directories))
                loops += 1
            case "no file":
                chance.choice([os.mkfifo, dangling, loop])(path)


def every_name(directory: Path, depth: int = DEPTH) -> Iterator[Path]:
    for name in sorted(os.listdir(directory)):
        path = directory / name
        yield path
        if path.is_dir() and depth:
            yield from every_name(path, depth - 1)


def links(root: Path, path: str) -> int:
    parts = path.split("/")
    return sum((root / "/".join(parts[: count + 1])).is_symlink() for count in range(len(parts)))


PATTERNS = ["*.png", "a*.png", "a/*.png", "b*", "*/b.png", "*b/x.png", "a*/b/x.png", "c/a*g"]


@pytest.mark.parametrize("seed", range(40))
def test_every_file_that_has_a_matching_name_is_listed_once(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    grow(root, random.Random(seed))
    names = [str(path.relative_to(root)) for path in every_name(root)]
    for pattern in PATTERNS:
        matching = [n for n in names if re.fullmatch(re.escape(pattern).replace(r"\*", ".+"), n)]
        if not pattern.endswith("*"):
            expected = matching
        else:  # directories match, and are no images
            expected = [n for n in matching if not (root / n).is_dir() or n.endswith((".png", ".jpg"))]
        try:
            found = listed(root, pattern)
        except InputError as error:
            said, found = str(error), []
            if "same image id" in said:  # two files of one name and different suffixes
                assert pattern.endswith("*"), said
                continue
            assert "no images" in said or "symbolic links" in said, said  # where the pattern begins with a loop
        regular = [n for n in expected if (root / n).is_file()]
        files = [identify(root / n) for n in found if (root / n).is_file()]
        assert len(files) == len(set(files)), (pattern, found)
        assert set(files) == {identify(root / n) for n in regular}, (pattern, found, regular)
        assert set(found) <= set(expected)
        for name in found:
            if (root / name).is_file():
                others = [n for n in regular if identify(root / n) == identify(root / name)]
                assert links(root, name) == min(links(root, other) for other in others)
        unusable = {(identify((root / n).parent), (root / n).name) for n in expected if not (root / n).is_file()}
        assert {(identify((root / n).parent), (root / n).name) for n in found if not (root / n).is_file()} == unusable


def identify(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    assert stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)
    return status.st_dev, status.st_ino


def test_the_choice_does_not_depend_on_the_order_in_which_names_were_made(tmp_path: Path) -> None:
    made = {"b": "link", "c": "link", "a": "hard", "x/1": "directory link", "x/0": "directory link"}
    for number, order in enumerate(itertools.permutations(made)):
        root = tmp_path / f"{number}"
        image(root / "z/z.png")
        (root / "x").mkdir()
        for name in order:
            if made[name] == "link":
                (root / f"{name}.png").symlink_to("z/z.png")
            elif made[name] == "hard":
                (root / f"{name}.png").hardlink_to(root / "z/z.png")
            else:
                (root / name).symlink_to("../z")
        assert listed(root) == ["a.png"]
        (root / "a.png").unlink()
        assert listed(root) == ["z/z.png"]
