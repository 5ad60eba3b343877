"""Batches with the pixels beside them, and the inspection that says what is in a record or wrong with it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.decoding import DecodeImages, pixels
from halo_ray.data.inspection import INSPECTED, InspectRecords
from halo_ray.data.listing import MANIFEST
from halo_ray.errors import BadRecordError, InputError

CLASSES = ClassSet("mine", ("a", "b"), ids=(3, 4))


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def record(folder: Path, name: str, label: np.ndarray | None = None, size: tuple[int, int] = (6, 8)) -> dict:
    Image.fromarray(noise(sum(name.encode()), *size, 3)).save(folder / f"{name}.png")
    row = {"image_id": name, "image_uri": str(folder / f"{name}.png"), "height": size[0], "width": size[1]}
    if label is not None:
        Image.fromarray(label).save(folder / f"{name}-label.png")
        row["label_uri"] = str(folder / f"{name}-label.png")
    return row


def table(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=MANIFEST)


def ids(*size: int) -> np.ndarray:
    return np.array([3, 4, 255], np.uint8)[noise(1, *size) % 3]


def test_images_are_resized_and_labels_keep_their_own_size(tmp_path: Path) -> None:
    labels = {"x": ids(6, 8), "y": ids(5, 4)}
    batch = table(record(tmp_path, "y", labels["y"], (5, 4)), record(tmp_path, "x", labels["x"]))
    decoded = DecodeImages((6, 8), CLASSES)(batch)
    assert decoded.select(MANIFEST.names) == batch
    shown = {row["image_id"]: row for row in decoded.to_pylist()}
    np.testing.assert_array_equal(pixels(shown["x"]["image"], 6, 8, 3), noise(ord("x"), 6, 8, 3))
    assert len(shown["y"]["image"]) == 6 * 8 * 3
    for name, label in labels.items():
        expected = np.where(label == 255, IGNORE, label - 3)
        np.testing.assert_array_equal(pixels(shown[name]["label"], *label.shape), expected)


def test_without_classes_no_label_is_opened(tmp_path: Path) -> None:
    row = {**record(tmp_path, "x"), "label_uri": str(tmp_path / "gone.png")}
    assert DecodeImages((3, 4))(table(row)).column_names == [*MANIFEST.names, "image"]
    with pytest.raises(BadRecordError, match=r"gone\.png"):
        DecodeImages((3, 4), CLASSES)(table(row))


def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    row = record(tmp_path, "cut")
    file = Path(row["image_uri"])
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BadRecordError, match=r"cut\.png"):
        DecodeImages((3, 4))(table(row))


def test_pixels_are_a_writable_copy_in_row_order() -> None:
    data = bytes(range(24))
    array = pixels(data, 2, 4, 3)
    assert array.tolist() == [[[12 * y + 3 * x + c for c in range(3)] for x in range(4)] for y in range(2)]
    array[:] = 0
    assert data == bytes(range(24))


def test_a_bad_image_is_null_with_its_reason_where_bad_ones_are_kept(tmp_path: Path) -> None:
    rows = [record(tmp_path, name) for name in ("good", "cut")]
    file = Path(rows[1]["image_uri"])
    file.write_bytes(file.read_bytes()[:-40])
    good, cut = DecodeImages((3, 4), keep_bad=True)(table(*rows)).to_pylist()
    assert good["problem"] is None
    assert len(good["image"]) == 3 * 4 * 3
    assert cut["image"] is None
    assert "cut.png" in cut["problem"]


def test_inspection_fills_in_sizes_and_counts_classes(tmp_path: Path) -> None:
    label = ids(6, 8)
    rows = [record(tmp_path, "x", label), record(tmp_path, "y", size=(7, 5))]
    without = [{key: value for key, value in row.items() if key not in ("height", "width")} for row in rows]
    inspected = InspectRecords(CLASSES)(table(*without))
    fine = {"label_format": None, "problem": None, "changes": []}
    counts = [[(label == 3).sum(), (label == 4).sum(), (label == 255).sum()], None]
    assert inspected.to_pylist() == [
        {"label_uri": None, **row, **fine, "class_pixels": count} for row, count in zip(rows, counts, strict=True)
    ]
    assert inspected.schema == INSPECTED


def test_each_problem_is_told_of_its_own_record_and_the_others_go_on(tmp_path: Path) -> None:
    good = record(tmp_path, "good", ids(6, 8))
    turned = record(tmp_path, "turned", ids(8, 6))
    unknown = record(tmp_path, "unknown", np.full((6, 8), 9, np.uint8))
    colour = record(tmp_path, "colour", noise(0, 6, 8, 3))
    missing = {"image_id": "missing", "image_uri": str(tmp_path / "missing.png")}
    unlabelled = {**record(tmp_path, "unlabelled"), "label_uri": str(tmp_path / "none-label.png")}
    rows = InspectRecords(CLASSES)(table(turned, good, unknown, missing, colour, unlabelled)).to_pylist()
    problems = {row["image_id"]: row["problem"] for row in rows}
    assert list(problems) == ["turned", "good", "unknown", "missing", "colour", "unlabelled"]
    assert problems.pop("good") is None
    parts = {
        "turned": ("turned-label.png", "6x8", "8x6"),
        "unknown": ("unknown-label.png", " 9,"),
        "missing": ("missing.png",),
        "colour": ("colour-label.png", "RGB"),
        "unlabelled": ("none-label.png",),
    }
    for name, problem in problems.items():
        assert all(part in problem for part in parts[name]), problem


def test_a_problem_is_an_input_error_s_text(tmp_path: Path) -> None:
    unknown = record(tmp_path, "unknown", np.full((6, 8), 9, np.uint8))
    (row,) = InspectRecords(CLASSES)(table(unknown)).to_pylist()
    with pytest.raises(InputError) as error:
        DecodeImages((6, 8), CLASSES)(table(unknown))
    assert row["problem"] == str(error.value)
