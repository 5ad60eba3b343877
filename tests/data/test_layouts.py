"""Official layouts in miniature: drawn under their documented names, listed, and read back pixel by pixel."""

from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from halo_ray.data.classes import IGNORE, class_set
from halo_ray.data.images import read_image, read_label
from halo_ray.data.inspection import InspectRecords
from halo_ray.data.readers import SplitConfig, list_split
from halo_ray.errors import InputError

CAMVID = Path(__file__).parents[2] / "../shared/data/camvid"
HEIGHT, WIDTH = 12, 20
V = IGNORE
TRAIN_IDS = [*[V] * 7, 0, 1, V, V, 2, 3, 4, V, V, V, 5, V, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, V, V, 16, 17, 18]
"""By Cityscapes id 0..33, as published."""
SYNTHIA = {
    "synthia16": [V, 9, 2, 0, 1, 4, 8, 5, 12, 7, 10, 15, 14, V, V, 6, V, 11, V, 13, V, 3, V],
    "cityscapes19": [V, 10, 2, 0, 1, 4, 8, 5, 13, 7, 11, 18, 17, V, V, 6, 9, 12, 14, 15, 16, 3, V],
}
"""By SYNTHIA id 0..22, as published with the adaptation benchmarks."""


class Dataset:
    """Files below a root, and what was drawn in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.random = np.random.default_rng(0)

    def rgb(self, name: str) -> np.ndarray:
        pixels = self.random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        self.save(name, pixels)
        return pixels

    def ids(
        self, name: str, numbers: int, *, size: tuple[int, int] = (HEIGHT, WIDTH), palette: bool = False
    ) -> np.ndarray:
        """Every id below ``numbers`` stands at least once."""
        pixels = self.random.permutation(np.arange(size[0] * size[1]) % numbers).reshape(size).astype(np.uint8)
        self.save(name, pixels, palette=palette)
        return pixels

    def save(self, name: str, pixels: np.ndarray, *, palette: bool = False) -> None:
        image = Image.fromarray(pixels)
        if palette:
            image.putpalette(self.random.integers(0, 256, 768, np.uint8).tobytes())
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(self.root / name)

    def touch(self, *names: str) -> None:
        for name in names:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text("{}")

    def listed(self, reader: str, split: str = "", **config: object) -> pa.Table:
        return list_split(SplitConfig(reader=reader, split=split, **config), str(self.root), key="data.pool")

    def label_names(self, table: pa.Table) -> list[str | None]:
        uris = table["label_uri"].to_pylist()
        return [None if uri is None else str(Path(uri).relative_to(self.root)) for uri in uris]


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path / "my dätä")


def inspected(table: pa.Table, classes: str) -> list[dict]:
    return InspectRecords(class_set(classes))(table).to_pylist()


def assert_as_drawn(table: pa.Table, classes: str, drawn: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    assert table["image_id"].to_pylist() == sorted(drawn)
    for row, record in zip(table.to_pylist(), inspected(table, classes), strict=True):
        image, label = drawn[row["image_id"]]
        np.testing.assert_array_equal(read_image(row["image_uri"]), image)
        read = read_label(row["label_uri"], class_set(classes), row["label_format"], image.shape[:2])
        np.testing.assert_array_equal(read, label)
        assert (record["problem"], record["height"], record["width"]) == (None, *image.shape[:2])


def cityscapes_frame(
    data: Dataset, split: str, city: str, kinds: tuple[str, ...] = ("labelIds",), name: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and classes; where there are two kinds of label, those of the first."""
    name, classes = name or f"{city}_000000_000019", []
    image = data.rgb(f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
    for kind in kinds:
        ids = data.ids(f"gtFine/{split}/{city}/{name}_gtFine_{kind}.png", 34 if kind == "labelIds" else 19)
        classes.append(np.array(TRAIN_IDS)[ids] if kind == "labelIds" else ids)
    beside = f"gtFine/{split}/{city}/{name}_gtFine"
    data.touch(f"{beside}_color.png", f"{beside}_instanceIds.png", f"{beside}_polygons.json")
    return image, classes[0] if classes else None


def test_cityscapes_splits_are_read_as_drawn_and_apart_from_each_other(data: Dataset) -> None:
    drawn = {
        split: {f"{city}_000000_000019": cityscapes_frame(data, split, city) for city in cities}
        for split, cities in {"train": ("aachen", "köln", "bad honnef"), "val": ("lindau", "ulm")}.items()
    }
    cityscapes_frame(data, "test", "berlin", kinds=())
    cityscapes_frame(data, "train_extra", "augsburg")
    data.touch("README", "license.txt", "leftImg8bit/train/aachen/thumbs.db")
    for split, frames in drawn.items():
        table = data.listed("cityscapes", split)
        assert_as_drawn(table, "cityscapes19", frames)
        assert data.label_names(table) == [
            f"gtFine/{split}/{frame.split('_')[0]}/{frame}_gtFine_labelIds.png" for frame in sorted(frames)
        ]
        assert set(table["label_format"].to_pylist()) == {"cityscapes"}
    test = data.listed("cityscapes", "test").to_pylist()
    assert [row["image_id"] for row in test] == ["berlin_000000_000019"]
    assert (test[0]["label_uri"], test[0]["label_format"]) == (None, None)
    assert inspected(data.listed("cityscapes", "test"), "cityscapes19")[0]["class_pixels"] is None


def test_cityscapes_labels_are_label_ids_where_there_are_and_else_train_ids(data: Dataset) -> None:
    kinds = {"aachen": ("labelIds",), "bochum": ("labelTrainIds",), "ulm": ("labelIds", "labelTrainIds")}
    drawn = {f"{city}_000000_000019": cityscapes_frame(data, "train", city, kind) for city, kind in kinds.items()}
    table = data.listed("cityscapes", "train")
    assert table["label_format"].to_pylist() == ["cityscapes", "cityscapes_train_ids", "cityscapes"]
    assert_as_drawn(table, "cityscapes19", drawn)


def test_void_in_cityscapes_train_ids_is_255_and_any_other_number_is_a_problem(data: Dataset) -> None:
    void, odd = (f"gtFine/val/ulm/ulm_00000{i}_000019_gtFine_labelTrainIds.png" for i in range(2))
    for index, (name, number) in enumerate({void: 255, odd: 19}.items()):
        data.rgb(f"leftImg8bit/val/ulm/ulm_00000{index}_000019_leftImg8bit.png")
        data.save(name, np.full((HEIGHT, WIDTH), number, np.uint8))
    one, other = inspected(data.listed("cityscapes", "val"), "cityscapes19")
    assert (one["problem"], one["class_pixels"]) == (None, [0] * 19 + [HEIGHT * WIDTH])
    assert odd in other["problem"]
    assert "19" in other["problem"]


def test_a_cityscapes_frame_without_its_label_or_with_one_of_another_size_is_a_problem(data: Dataset) -> None:
    for city, kinds in {"aachen": ("labelIds",), "bochum": (), "ulm": ()}.items():
        cityscapes_frame(data, "train", city, kinds)
    missing, other_size = (f"gtFine/train/{c}/{c}_000000_000019_gtFine_labelIds.png" for c in ("bochum", "ulm"))
    data.ids(other_size, 34, size=(HEIGHT, WIDTH - 1))
    table = data.listed("cityscapes", "train")
    assert data.label_names(table)[1] == missing
    good, absent, odd = (record["problem"] for record in inspected(table, "cityscapes19"))
    assert good is None
    assert str(data.root / missing) in absent
    assert str(data.root / other_size) in odd
    assert f"{WIDTH - 1}x{HEIGHT}" in odd
    assert f"{WIDTH}x{HEIGHT}" in odd


def test_a_frame_name_in_two_cities_is_an_error_that_names_both_files(data: Dataset) -> None:
    for city in ("aachen", "ulm"):
        cityscapes_frame(data, "train", city, name="frame_1")
    with pytest.raises(InputError, match=r"aachen/frame_1_left.*ulm/frame_1_left.*'frame_1'"):
        data.listed("cityscapes", "train")


def test_gtav_indices_are_cityscapes_ids_whatever_the_palette(data: Dataset) -> None:
    license_plate_too, drawn = [*TRAIN_IDS, IGNORE], {}
    for name in ("00001", "00002"):
        image, ids = data.rgb(f"images/{name}.png"), data.ids(f"labels/{name}.png", 35, palette=True)
        drawn[name] = image, np.array(license_plate_too)[ids]
    data.touch("labels/readme.txt", "train.txt")
    image, ids = data.rgb("images/00003.png"), np.array([[255, 34], [7, 33]], np.uint8).repeat(HEIGHT // 2, 0)
    data.save("labels/00003.png", ids.repeat(WIDTH // 2, 1), palette=True)
    drawn["00003"] = image, np.array([[IGNORE, IGNORE], [0, 18]]).repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)
    with Image.open(data.root / "labels/00001.png") as stored:
        assert stored.mode == "P"
    assert_as_drawn(data.listed("gtav"), "cityscapes19", drawn)


@pytest.mark.parametrize("size", [(HEIGHT - 1, WIDTH), (HEIGHT * 2, WIDTH * 2), (HEIGHT + 5, WIDTH - 3)])
@pytest.mark.parametrize("palette", [True, False])  # Pillow would interpolate grey
def test_a_gtav_label_of_another_size_is_resized_and_said_to_be(
    data: Dataset, size: tuple[int, int], palette: bool
) -> None:
    image, ids = data.rgb("images/1.png"), data.ids("labels/1.png", 34, size=size, palette=palette)
    rows, columns = (  # the stored pixel below each pixel's centre
        (2 * np.arange(side) + 1) * stored // (2 * side) for side, stored in zip((HEIGHT, WIDTH), size, strict=True)
    )
    expected = np.array(TRAIN_IDS)[ids[rows][:, columns]]
    table = data.listed("gtav")
    assert_as_drawn(table, "cityscapes19", {"1": (image, expected)})
    assert inspected(table, "cityscapes19")[0]["changes"] == ["label resized to its image"]


def test_a_gtav_index_that_is_no_class_is_a_problem(data: Dataset) -> None:
    data.rgb("images/1.png")
    data.save("labels/1.png", np.full((HEIGHT, WIDTH), 77, np.uint8), palette=True)
    (record,) = inspected(data.listed("gtav"), "cityscapes19")
    assert str(data.root / "labels/1.png") in record["problem"]
    assert "77" in record["problem"]


@pytest.mark.parametrize("above", ["", "RAND_CITYSCAPES/"])
@pytest.mark.parametrize("classes", SYNTHIA)
def test_synthia_classes_are_the_first_of_16_bit_channels(data: Dataset, above: str, classes: str) -> None:
    drawn = {}
    for name in ("0000000", "0000001"):
        ids = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 23
        label = np.dstack([ids, ids * 40 + 300, 0 * ids]).astype(np.uint16)  # the second says which object
        file = data.root / f"{above}GT/LABELS/{name}.png"
        drawn[name] = data.rgb(f"{above}RGB/{name}.png"), np.array(SYNTHIA[classes])[ids]
        data.touch(str(file))
        file.write_bytes(imagecodecs.png_encode(label))
        with Image.open(file) as read:  # why such labels are read another way
            assert not np.asarray(read)[..., 0].any()
    data.touch(f"{above}GT/COLOR/0000000.png", f"{above}Depth/Depth/0000000.png")
    table = data.listed("synthia")
    assert_as_drawn(table, classes, drawn)
    file.write_bytes(file.read_bytes()[:-40])
    good, cut = inspected(table, classes)
    assert good["problem"] is None
    assert str(file) in cut["problem"]


def test_acdc_conditions_and_splits_are_read_as_drawn(data: Dataset) -> None:
    drawn: dict[str, dict] = {"train": {}, "val": {}}
    for condition in ("fog", "night", "rain", "snow"):
        for split, sequence in {"train": "GOPR0475", "val": "GP010476", "test": "GOPR0478"}.items():
            frame = f"{sequence}_frame_000247"
            image = data.rgb(f"rgb_anon/{condition}/{split}/{sequence}/{frame}_rgb_anon.png")
            data.touch(f"rgb_anon/{condition}/{split}_ref/{sequence}/{frame}_rgb_ref_anon.png")
            if split == "test":
                continue
            label = f"gt/{condition}/{split}/{sequence}/{frame}_gt"
            drawn[split][f"{condition}/{frame}"] = image, np.array(TRAIN_IDS)[data.ids(f"{label}_labelIds.png", 34)]
            data.touch(f"{label}_labelTrainIds.png", f"{label}_labelColor.png", f"{label}_invIds.png")
    for split, frames in drawn.items():
        assert_as_drawn(data.listed("acdc", split), "cityscapes19", frames)
        night = {name: frame for name, frame in frames.items() if name.startswith("night/")}
        assert_as_drawn(data.listed("acdc", f"night/{split}"), "cityscapes19", night)
    test = data.listed("acdc", "test")
    assert (test.num_rows, test["label_uri"].null_count) == (4, 4)
    with pytest.raises(InputError, match=r"data\.pool.*'nihgt'.*'night'"):
        data.listed("acdc", "nihgt/train")


def test_a_list_file_and_a_count_choose_from_an_official_layout(data: Dataset) -> None:
    names = ("00001", "00002", "straße 3", "夜 4")
    drawn = {n: (data.rgb(f"images/{n}.png"), np.array(TRAIN_IDS)[data.ids(f"labels/{n}.png", 34)]) for n in names}
    (data.root / "train.txt").write_text("夜 4\n00002\nstraße 3\n", encoding="utf-8")
    chosen = {name: drawn[name] for name in names[1:]}
    assert_as_drawn(data.listed("gtav", list_file="train.txt"), "cityscapes19", chosen)
    assert data.listed("gtav", list_file="train.txt", count=2)["image_id"].to_pylist() == ["00002", "straße 3"]
    (data.root / "train.txt").write_text("00002\n00009\n")
    with pytest.raises(InputError, match=r"train\.txt.*'00009'"):
        data.listed("gtav", list_file="train.txt")


@pytest.mark.parametrize(
    ("reader", "split"), [("cityscapes", "val"), ("gtav", ""), ("synthia", ""), ("acdc", "val"), ("camvid", "day")]
)
def test_a_root_that_is_a_file_or_holds_another_layout_is_named(data: Dataset, reader: str, split: str) -> None:
    data.touch("archive.zip")
    with pytest.raises(InputError, match=r"data\.pool.*archive\.zip is a file"):
        data.listed(reader, split, root=str(data.root / "archive.zip"))
    with pytest.raises(InputError, match=r"data\.pool.*my dätä"):
        data.listed(reader, split)


@pytest.mark.parametrize(("split", "frames"), [("day", 577), ("dusk_pool", 62), ("dusk_val", 62)])
def test_camvid_has_the_class_shares_of_its_own_statistics(split: str, frames: int) -> None:
    if not CAMVID.exists():
        pytest.skip(f"no CamVid at {CAMVID}")
    lines = [line.strip("| ").split(" | ") for line in (CAMVID / "README.md").read_text().splitlines() if "| " in line]
    (header,), (shares,) = ([line for line in lines if line[0] == first] for first in ("split", split))
    assert header[1:] == [*class_set("camvid11").classes, "void"]
    table = list_split(SplitConfig(reader="camvid", split=split), str(CAMVID), key="data.pool")
    records = inspected(table, "camvid11")
    assert [record["problem"] for record in records] == [None] * frames
    pixels = np.sum([record["class_pixels"] for record in records], 0)
    assert pixels.sum() == frames * 480 * 360
    np.testing.assert_allclose(100 * pixels / pixels.sum(), [float(share) for share in shares[1:]], atol=0.01)
