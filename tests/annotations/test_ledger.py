"""The ledger reads back as what training and scoring need."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from halo_ray.annotations.ledger import LEDGER, Ledger
from halo_ray.storage import Storage

# image, pixel, region, label, by round; images interleave and regions share their centre's row.
ROWS = {
    1: [("b", (1, 2), (1, 2), 3), ("a", (5, 5), (5, 6), 0), ("a", (5, 6), (5, 6), 255), ("b", (9, 9), (9, 8), 1)],
    2: [("a", (0, 7), (0, 7), 2), ("c", (1, 1), (1, 1), 4)],
}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    for number, rows in ROWS.items():
        table = pa.Table.from_pylist(
            [
                {
                    **dict.fromkeys(LEDGER.names),
                    "image_id": image, "round": number, "y": y, "x": x, "region_y": ry, "region_x": rx, "label": label,
                }
                for image, (y, x), (ry, rx), label in rows
            ],
            schema=LEDGER,
        )  # fmt: skip
        path = tmp_path / Ledger.file(number)
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)
    return Ledger(Storage(str(tmp_path)))


@pytest.mark.parametrize("before", [1, 2, 3])
def test_only_earlier_rounds_are_read(ledger: Ledger, before: int) -> None:
    table = ledger.read(before)
    assert table.schema == LEDGER
    expected = [(number, row[0]) for number in range(1, before) for row in ROWS[number]]
    assert list(zip(table["round"].to_pylist(), table["image_id"].to_pylist(), strict=True)) == expected


def test_each_region_was_asked_once(ledger: Ledger) -> None:
    assert ledger.asked_regions(1) == {}
    assert ledger.asked_regions(2) == {"b": ([1, 9], [2, 8]), "a": ([5], [6])}
    asked = ledger.asked_regions(3)
    assert {image: sorted(zip(*places, strict=True)) for image, places in asked.items()} == {
        "a": [(0, 7), (5, 6)],
        "b": [(1, 2), (9, 8)],
        "c": [(1, 1)],
    }


def test_sparse_labels_hold_every_pixel_of_every_image(ledger: Ledger) -> None:
    assert ledger.sparse_labels(1).num_rows == 0
    found = {row["image_id"]: row for row in ledger.sparse_labels(3).to_pylist()}
    assert list(found) == ["a", "b", "c"]
    for image, row in found.items():
        pixels = sorted((y, x, label) for rows in ROWS.values() for i, (y, x), _, label in rows if i == image)
        assert sorted(zip(row["y"], row["x"], row["label"], strict=True)) == pixels
