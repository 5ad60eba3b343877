"""The coordinator's logic, without Ray; that it is a named actor is shown by the end-to-end tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from halo_ray.acquisition.threshold import histogram
from halo_ray.coordinator import Coordinator


def write_candidates(directory: Path, seed: int = 0, files: int = 4) -> list[tuple[float, str, int, int]]:
    """Random candidates of 12 images over some files, and the same as (−score, id, y, x)."""
    random = np.random.default_rng(seed)
    rows = []
    directory.mkdir()
    for number in range(files):
        count = 40
        table = {
            "image_id": np.array([f"i{v:02d}" for v in random.integers(0, 3, count) + 3 * number]),
            "score": (random.integers(0, 12, count) / 4).astype(np.float32),
            "y": random.permutation(count).astype(np.uint16),
            "x": random.integers(0, 5, count).astype(np.uint16),
        }
        pq.write_table(pa.table(table), directory / f"{number}.parquet")
        rows += [(-float(s), str(i), int(y), int(x)) for i, s, y, x in zip(*table.values(), strict=True)]
    return sorted(rows)


def tell(coordinator: Coordinator, rows: list[tuple[float, str, int, int]]) -> None:
    for image in {row[1] for row in rows}:
        coordinator.add({image: histogram(np.array([-row[0] for row in rows if row[1] == image], np.float32))})


@pytest.mark.parametrize("told", [True, False], ids=["all images reported", "restarted: no image reported"])
@pytest.mark.parametrize("regions", [1, 37, 160, 1000])
def test_selection_is_the_head_of_the_sorted_pool(tmp_path: Path, regions: int, told: bool) -> None:
    rows = write_candidates(tmp_path / "candidates")
    coordinator = Coordinator(regions)
    if told:
        tell(coordinator, rows)
    selection = coordinator.select(str(tmp_path), "candidates")
    head = rows[:regions]
    assert selection["regions"] == len(head)
    assert selection["candidates"] == len(rows)
    assert selection["counts"] == {i: sum(row[1] == i for row in head) for i in sorted({row[1] for row in head})}
    last = head[-1]
    assert selection["cut"] == {"score": -last[0], "image_id": last[1], "y": last[2], "x": last[3]}


def test_scope_image_takes_every_candidate(tmp_path: Path) -> None:
    rows = write_candidates(tmp_path / "candidates")
    coordinator = Coordinator(None)
    tell(coordinator, rows)
    assert coordinator.bound() == float("-inf")
    assert coordinator.select(str(tmp_path), "candidates")["regions"] == len(rows)


def test_a_repeated_message_counts_once() -> None:
    coordinator = Coordinator(3)
    message = {"a": histogram(np.array([1.0, 2.0], np.float32))}
    for _ in range(3):
        assert coordinator.add(message) == float("-inf")  # two candidates cannot prove a bound for three
    assert coordinator.images() == 1
    assert coordinator.add({"b": histogram(np.array([0.5], np.float32))}) == 0.5


def test_nothing_to_choose_from(tmp_path: Path) -> None:
    directory = tmp_path / "candidates"
    directory.mkdir()
    schema = pa.schema([("image_id", pa.string()), ("y", pa.uint16()), ("x", pa.uint16()), ("score", pa.float32())])
    pq.write_table(schema.empty_table(), directory / "0.parquet")
    selection = Coordinator(5).select(str(tmp_path), "candidates")
    assert (selection["regions"], selection["cut"], selection["counts"]) == (0, None, {})


def test_a_pool_without_any_candidate_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "candidates").mkdir()
    assert Coordinator(5).select(str(tmp_path), "candidates") == {
        "regions": 0,
        "candidates": 0,
        "cut": None,
        "counts": {},
    }
