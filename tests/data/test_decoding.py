"""Batches with the pixels beside them, and the inspection that says what is wrong with a record."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.decoding import DecodeImages, InspectRecords, pixels
from halo_ray.data.readers import MANIFEST
from halo_ray.errors import BadRecordError, InputError

CLASSES = ClassSet("mine", ("a", "b"), ids=(3, 4))


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def record(folder: Path, name: str, label: np.ndarray | None = None, size: tuple[int, int] = (6, 8)) -> dict:
    Image.fromarray(noise(sum(name.encode()), *size, 3)).save(folder / f"{name}.png")
    row = {"image_id": name, "image_uri": str(folder / f"{name}.png")}
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


def test_inspection_fills_in_sizes_and_finds_no_problem(tmp_path: Path) -> None:
    rows = [record(tmp_path, "x", ids(6, 8)), record(tmp_path, "y", size=(7, 5))]
    inspected = InspectRecords(CLASSES)(table(*rows))
    sizes = [{"height": 6, "width": 8}, {"height": 7, "width": 5}]
    expected = [{"label_uri": None, **row, **size, "problem": None} for row, size in zip(rows, sizes, strict=True)]
    assert inspected.to_pylist() == expected
    assert inspected.schema == MANIFEST.append(pa.field("problem", pa.string()))


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
    assert {row["image_id"]: (row["height"], row["width"]) for row in rows} == dict.fromkeys(problems, (6, 8)) | {
        "good": (6, 8),
        "missing": (0, 0),
    }


def test_a_problem_is_an_input_error_s_text(tmp_path: Path) -> None:
    unknown = record(tmp_path, "unknown", np.full((6, 8), 9, np.uint8))
    (row,) = InspectRecords(CLASSES)(table(unknown)).to_pylist()
    with pytest.raises(InputError) as error:
        DecodeImages((6, 8), CLASSES)(table(unknown))
    assert row["problem"] == str(error.value)
