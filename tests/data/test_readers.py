"""Folder layouts in miniature: what a reader lists, under which id, and what it says of a layout that is not there."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from halo_ray.data.classes import class_set
from halo_ray.data.images import read_image, read_label
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS, DataConfig
from halo_ray.data.readers import SplitConfig, list_split
from halo_ray.data.synthetic import STYLES
from halo_ray.errors import InputError

CAMVID = Path(__file__).parents[2] / "../shared/data/camvid"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(data_root: Path | str, **config: object) -> pa.Table:
    return list_split(SplitConfig(**{"reader": "folder", **config}), str(data_root), key="data.pool")


def ids(table: pa.Table) -> list[str]:
    return table["image_id"].to_pylist()


def test_an_id_is_what_the_star_stands_for_slashes_included(tmp_path: Path) -> None:
    towns = ("b/ulm_000001", "a/deep/köln 2", "a/v1.5_x")
    touch(tmp_path, *(f"left/{t}_left.png" for t in towns), *(f"gt/{t}_ids.png" for t in towns))
    touch(tmp_path, "left/a/other_right.png", "left/readme.txt", "elsewhere/a_left.png")
    table = listed(tmp_path, images="left/*_left.png", labels="gt/*_ids.png")
    assert table.schema == MANIFEST
    assert ids(table) == sorted(towns)
    assert table["image_uri"].to_pylist() == [str(tmp_path / f"left/{t}_left.png") for t in sorted(towns)]
    assert table["label_uri"].to_pylist() == [str(tmp_path / f"gt/{t}_ids.png") for t in sorted(towns)]
    assert table["height"].null_count == table["width"].null_count == 3


def test_by_default_all_images_are_listed_without_labels_by_their_stem(tmp_path: Path) -> None:
    touch(tmp_path, "images/b.png", "images/a.v2.jpg", "images/sub/c.tif", "labels/b.png")
    table = listed(tmp_path)
    assert ids(table) == ["a.v2", "b", "sub/c"]
    assert table["label_uri"].null_count == 3


def test_images_right_under_the_root(tmp_path: Path) -> None:
    assert ids(listed(touch(tmp_path, "x.png", "y z.png"), images="*.png")) == ["x", "y z"]


def test_a_label_that_is_missing_is_listed_by_the_name_that_it_should_have(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b.png", "labels/b.png")
    table = listed(tmp_path, images="images/*.png", labels="labels/*.png")
    assert table["label_uri"].to_pylist() == [str(tmp_path / f"labels/{c}.png") for c in "ab"]


def test_a_pattern_may_be_spelled_with_dots_and_its_star_stands_for_something(tmp_path: Path) -> None:
    touch(tmp_path, "images/frame.png", "images/frame1.png", "images/frame_frame.png")
    for pattern in ("images/frame*.png", "./images/frame*.png", "/images//frame*.png", "x/../images/frame*.png"):
        assert ids(listed(tmp_path, images=pattern)) == ["1", "_frame"]
    assert ids(listed(tmp_path, images="images/frame*frame.png")) == ["_"]
    (tmp_path / "images/frame.png").rename(tmp_path / "images/frame")
    assert ids(listed(tmp_path, images="images/frame*")) == ["1", "_frame"]


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png", "images/b.png")
    (tmp_path / "list.txt").write_text("b\n", encoding="utf-8-sig")
    assert ids(listed(tmp_path, list_file="list.txt")) == ["b"]


def test_no_reader_means_no_images() -> None:
    assert listed("", reader="none") == MANIFEST.empty_table()


def test_two_images_of_one_id_are_an_error_not_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "images/twin.jpg", "images/twin.png")
    with pytest.raises(InputError, match="twin"):
        listed(tmp_path)


def test_list_file_chooses_and_count_takes_the_first(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{c}.png" for c in "abcd"))
    (tmp_path / "some.txt").write_text("d\n\n  b  \r\na\n")
    assert ids(listed(tmp_path, list_file="some.txt")) == ["a", "b", "d"]
    assert ids(listed(tmp_path, list_file="some.txt", count=2)) == ["a", "b"]
    assert ids(listed(tmp_path, count=9)) == ["a", "b", "c", "d"]


def test_a_root_of_its_own_goes_before_data_root(tmp_path: Path) -> None:
    touch(tmp_path, "one/images/a.png", "two/images/b.png")
    assert ids(listed(tmp_path / "one", root=str(tmp_path / "two"))) == ["b"]


@pytest.mark.parametrize("way", ["path", "slash", "dots", "uri", "uri/"])
@pytest.mark.parametrize("name", ["plain", "two words", "köln", "a%20b", "c#d?e"])
def test_listed_files_can_be_read_whatever_the_root_and_the_name(tmp_path: Path, way: str, name: str) -> None:
    touch(tmp_path, f"root/images/{name}.png")
    root = tmp_path / "root"
    Image.new("L", (5, 3), 1).save(root / f"images/{name}.png")
    spelled = {"path": str(root), "slash": f"{root}/", "dots": f"{root}/images/.."}
    table = listed({**spelled, "uri": root.as_uri(), "uri/": root.as_uri() + "/"}[way], labels="images/*.png")
    assert ids(table) == [name]
    (image,), (label,) = table["image_uri"].to_pylist(), table["label_uri"].to_pylist()
    assert read_image(image).shape == (3, 5, 3)
    assert read_label(label, class_set("synthetic")).tolist() == [[1] * 5] * 3


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({"list_file": "bad.txt"}, r"data\.pool.*bad\.txt.*'gone'"),
        ({"list_file": "none.txt"}, r"data\.pool.*none\.txt"),
        ({"labels": "nowhere/*.png"}, r"data\.pool: labels.*nowhere/\*\.png"),
        ({"images": "images/a.png"}, r"data\.pool: images.*images/a\.png"),
        ({"images": "*/*.png"}, r"data\.pool: images"),
        ({"labels": "labels/x.png"}, r"data\.pool: labels"),
        ({"images": "pictures/*"}, r"data\.pool.*no images"),
        ({"images": "images/*.jpg"}, r"data\.pool.*no images"),
        ({"root": "ROOT/images/a.png"}, r"data\.pool.*images/a\.png"),
        ({"root": "ROOT/missing"}, r"data\.pool.*missing"),
        ({"reader": "camvid", "split": "night"}, r"data\.pool.*splits/night\.txt"),
        ({"reader": "camvid"}, r"data\.pool\.split.*day"),
        ({"reader": "gtav", "split": "train"}, r"data\.pool.*'train'.*list_file"),
        ({"reader": "foldr"}, r"data\.pool\.reader.*'foldr'.*'folder'"),
        ({"reader": "synthetic", "split": "tagret", "scenes": 1}, r"data\.pool.*tagret"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, config: dict, part: str) -> None:
    touch(tmp_path, "images/a.png", "images/b.png", "labels/b.png")
    (tmp_path / "bad.txt").write_text("a\ngone\n")
    config = {key: value.replace("ROOT", str(tmp_path)) if key == "root" else value for key, value in config.items()}
    with pytest.raises(InputError, match=part):
        listed(tmp_path, **config)


def test_no_root_at_all_names_both_ways_to_give_one() -> None:
    with pytest.raises(InputError, match=r"--data_root or --data\.pool\.root"):
        listed("")


def test_camvid_layout(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/{c}.jpg" for c in "abc"), *(f"labels/{c}.png" for c in "abc"), "splits/day.txt")
    (tmp_path / "splits/day.txt").write_text("c\na\n")
    table = listed(tmp_path, reader="camvid", split="day")
    assert ids(table) == ["a", "c"]
    assert table["label_uri"].to_pylist() == [str(tmp_path / f"labels/{c}.png") for c in "ac"]


@pytest.mark.parametrize(("split", "frames"), [("day", 577), ("dusk_pool", 62), ("dusk_val", 62)])
def test_the_camvid_edition_at_hand(split: str, frames: int) -> None:
    if not CAMVID.exists():
        pytest.skip(f"no CamVid at {CAMVID}")
    assert listed(CAMVID, reader="camvid", split=split).num_rows == frames


@pytest.mark.parametrize("reader", [{"reader": "folder"}, {"reader": "gtav"}])
@pytest.mark.parametrize("split", SPLITS)
def test_a_reader_alone_lists_all_its_images_whatever_the_default_of_the_split_is(
    tmp_path: Path, reader: dict, split: str
) -> None:
    """The defaults are rendered scenes, and a preset that names another reader keeps their other fields."""
    touch(tmp_path, *(f"images/{i:04}.png" for i in range(300)))
    config = replace(getattr(DataConfig(), split), **reader)
    assert list_split(config, str(tmp_path), key=f"data.{split}").num_rows == 300


def test_scenes_are_of_the_split_s_own_domain() -> None:
    for split, style in {"source": "source", "pool": "target", "validation": "target"}.items():
        table = list_split(getattr(DataConfig(), split), "", key=f"data.{split}")
        assert {uri.split("/")[2] for uri in table["image_uri"].to_pylist()} == {style}


@pytest.mark.parametrize("style", STYLES)
def test_synthetic_rows_render_at_their_stated_size(style: str) -> None:
    config = SplitConfig(split=style, scenes=2, first=7, height=40, width=72)
    table = list_split(config, "", key="data.source", seed=3)
    assert table.num_rows == 2
    images = [read_image(row["image_uri"]) for row in table.to_pylist()]
    assert [image.shape for image in images] == [(row["height"], row["width"], 3) for row in table.to_pylist()]
    assert (images[0] != images[1]).any()
    later = list_split(SplitConfig(split=style, scenes=1, first=8, height=40, width=72), "", key="data.source", seed=3)
    assert later.to_pylist() == table.to_pylist()[1:]
