"""The simulated annotator: what is asked is answered from the file, and charged once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from halo_ray.annotations.oracles import GroundTruth
from halo_ray.data.classes import IGNORE, ClassSet

CLASSES = ClassSet("test", ("a", "b", "c"), ids=(10, 20, 30), ignore_ids=(0,))
PICK = {"score": 0.5, "radius": 1.0, "entropy": 0.25, "guess": 2, "probability": 0.75}


@pytest.fixture
def label(tmp_path: Path) -> Path:
    """A label file whose class can be told from the place: columns 10, 20, 30, 10, ...; its first row is void."""
    raw = np.tile(np.array([10, 20, 30], np.uint8), (8, 4))
    raw[0] = 0
    path = tmp_path / "label.png"
    Image.fromarray(raw).save(path)
    return path


def ask(label: Path, places: list[tuple[int, int]], before: list[tuple[int, int]] = (), r: int = 1) -> list[dict]:
    request = {
        "image_id": "one",
        "label_uri": str(label),
        "label_format": None,
        "height": 8,
        "width": 12,
        "known_y": [y for y, _ in before],
        "known_x": [x for _, x in before],
        "picks": [{"y": y, "x": x, **PICK} for y, x in places],
    }
    return GroundTruth(CLASSES, r, round=3, model="m")(pa.Table.from_pylist([request])).to_pylist()


def test_every_pixel_of_a_region_is_answered_from_the_file(label: Path) -> None:
    rows = ask(label, [(4, 6)])
    assert {(row["y"], row["x"]) for row in rows} == {(y, x) for y in (3, 4, 5) for x in (5, 6, 7)}
    for row in rows:
        assert row["label"] == row["x"] % 3
        assert (row["region_y"], row["region_x"], row["round"], row["model"]) == (4, 6, 3, "m")
        assert {key: row[key] for key in PICK} == PICK


def test_void_is_paid_for_and_ignored(label: Path) -> None:
    rows = ask(label, [(0, 1)])
    assert len(rows) == 6  # clipped at the upper edge
    assert all((row["label"] == IGNORE) == (row["y"] == 0) for row in rows)


@pytest.mark.parametrize("r", [0, 1, 2])
def test_a_region_is_a_square_clipped_at_the_edges(label: Path, r: int) -> None:
    rows = ask(label, [(7, 11)], r=r)
    assert len(rows) == (r + 1) ** 2


def test_no_pixel_is_bought_twice_in_or_across_rounds(label: Path) -> None:
    old = {(y, x) for y in (5, 6, 7) for x in (3, 4, 5)}
    rows = ask(label, [(4, 4), (4, 5)], before=sorted(old))
    places = [(row["y"], row["x"]) for row in rows]
    assert len(places) == len(set(places))
    new = {(y, x) for y in (3, 4, 5) for x in (3, 4, 5, 6)}
    assert set(places) == new - old
    assert {place for place in places if place[1] <= 5} == {
        (row["y"], row["x"]) for row in rows if row["region_x"] == 4
    }  # the earlier pick has what both cover
