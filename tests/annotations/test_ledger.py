"""The ledger reads back as what training and scoring need, is committed once, and says so when it was damaged."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from halo_ray.annotations.ledger import LEDGER, PLACES, Ledger, places_of, region_count
from halo_ray.data.classes import IGNORE
from halo_ray.errors import InputError
from halo_ray.storage import Storage

# image, pixel, region, label, by round; images interleave and regions share their centre's row.
ROWS = {
    0: [("c", (3, 3), (3, 3), 1)],
    1: [("b", (1, 2), (1, 2), 3), ("a", (5, 5), (5, 6), 0), ("a", (5, 6), (5, 6), 255), ("b", (9, 9), (9, 8), 1)],
    2: [("a", (0, 7), (0, 7), 2), ("c", (1, 1), (1, 1), 4)],
}
SIZE = (12, 10)

# Commits a file of its own bytes, all at the same moment; says who won.
COMMIT = """
import sys, time
from halo_ray.annotations.ledger import Ledger
from halo_ray.errors import InputError
from halo_ray.storage import Storage
ledger = Ledger(Storage(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    ledger.commit(1, sys.argv[2].encode() * 200_000)
    print("won")
except InputError as error:
    print("lost", error)
"""


def file(number: int, rows: list[tuple]) -> bytes:
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
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(Storage(str(tmp_path)))
    for number, rows in ROWS.items():
        ledger.commit(number, file(number, rows))
        assert ledger.seal(number) == len(rows)
    return ledger


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("before", [1, 2, 3])
def test_only_earlier_rounds_are_read(ledger: Ledger, before: int, first: int) -> None:
    table = ledger.read(before, first=first)
    assert table.schema == LEDGER
    expected = [(number, row[0]) for number in range(first, before) for row in ROWS[number]]
    assert list(zip(table["round"].to_pylist(), table["image_id"].to_pylist(), strict=True)) == expected


def test_each_region_was_asked_once(ledger: Ledger) -> None:
    none, one, every = (ledger.asked_regions(before, first) for before, first in ((1, 1), (2, 1), (3, 0)))
    assert [table.schema for table in (none, one, every)] == [PLACES] * 3
    assert none.num_rows == 0
    assert one.to_pylist() == [{"image_id": "b", "y": [1, 9], "x": [2, 8]}, {"image_id": "a", "y": [5], "x": [6]}]
    assert {row["image_id"]: sorted(zip(row["y"], row["x"], strict=True)) for row in every.to_pylist()} == {
        "a": [(0, 7), (5, 6)],
        "b": [(1, 2), (9, 8)],
        "c": [(1, 1), (3, 3)],
    }
    assert [region_count(table) for table in (none, one, every)] == [0, 3, 6]


def test_places_stand_beside_their_images(ledger: Ledger) -> None:
    images = pa.chunked_array([["x", "a"], ["b", "", "c"]])
    rows = places_of(ledger.asked_regions(2, first=1), images).to_pylist()
    assert [(row["y"], row["x"]) for row in rows] == [([], []), ([5], [6]), ([1, 9], [2, 8]), ([], []), ([], [])]
    assert places_of(ledger.asked_regions(1, first=1), images)["y"].to_pylist() == [[]] * 5


def test_sparse_labels_hold_every_pixel_of_every_image(ledger: Ledger) -> None:
    assert ledger.sparse_labels(1)["image_id"].to_pylist() == ["c"]
    found = {row["image_id"]: row for row in ledger.sparse_labels(3).to_pylist()}
    assert list(found) == ["a", "b", "c"]
    for image, row in found.items():
        pixels = sorted((y, x, label) for rows in ROWS.values() for i, (y, x), _, label in rows if i == image)
        assert sorted(zip(row["y"], row["x"], row["label"], strict=True)) == pixels


@pytest.mark.parametrize("image", ["a", "b", "c", "never asked"])
def test_an_image_reads_back_as_dense_label_known_pixels_and_exclusion_mask(ledger: Ledger, image: str) -> None:
    label, known, mask = np.full(SIZE, IGNORE, np.uint8), set(), np.zeros(SIZE, bool)
    for i, (y, x), (ry, rx), value in (row for rows in ROWS.values() for row in rows):
        if i == image:
            label[y, x] = value
            known.add((y, x))
            rows, cols = np.indices(SIZE)
            mask |= (abs(rows - ry) <= 2) & (abs(cols - rx) <= 2)
    np.testing.assert_array_equal(ledger.dense_label(3, image, SIZE), label)
    np.testing.assert_array_equal(ledger.exclusion_mask(3, image, SIZE, 2), mask)
    found = ledger.labelled_pixels(3, pa.chunked_array([[image]])).to_pylist()
    assert {place for row in found for place in zip(row["y"], row["x"], strict=True)} == known
    assert ledger.dense_label(0, image, SIZE).min() == IGNORE


def test_classes_are_counted_by_round(ledger: Ledger) -> None:
    counted = [tuple(row.values()) for row in ledger.class_counts(3).to_pylist()]
    pairs = [(number, row[3]) for number, rows in ROWS.items() for row in rows]
    assert counted == [(*pair, pairs.count(pair)) for pair in sorted(set(pairs))]


def test_the_same_rows_may_be_committed_again_and_others_not(ledger: Ledger) -> None:
    ledger.commit(2, file(2, ROWS[2]))
    with pytest.raises(InputError, match="another run has committed round 2"):
        ledger.commit(2, file(2, ROWS[1]))
    assert ledger.read(3, ["image_id"], first=2)["image_id"].to_pylist() == ["a", "c"]


def race(uri: str) -> tuple[list[str], bytes]:
    """What four processes say that commit the same round at once, and the file that is there afterwards."""
    command = [sys.executable, "-c", COMMIT, uri]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, letter], **pipes) for letter in "abcd"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    return [writer.communicate(timeout=60)[0] for writer in writers], Storage(uri).read(Ledger.file(1))


@pytest.mark.parametrize("where", ["local", "s3"])
def test_of_several_writers_one_commits_and_the_others_are_told(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    uri = str(tmp_path) if where == "local" else request.getfixturevalue("s3").uri("race/two words/ö")
    said, data = race(uri)
    won = [line.startswith("won") for line in said]
    assert sum(won) == 1, said
    assert sum("another run has committed round 1" in line for line in said) == 3
    assert data == "abcd"[won.index(True)].encode() * 200_000  # the winner's, and whole


def test_a_commit_leaves_nothing_but_its_file_and_the_checksum(tmp_path: Path) -> None:
    Ledger(Storage(str(tmp_path))).commit(1, b"x")
    names = {path.name for path in (tmp_path / "rounds/001/annotations").iterdir()}
    assert names == {"ledger.parquet", "ledger.parquet.sha256"}


def test_a_file_that_was_damaged_before_it_could_be_sealed_is_not_sealed(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / Ledger.checksum_file(1)).unlink()
    path = tmp_path / Ledger.file(1)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"rounds/001/annotations/ledger\.parquet is damaged"):
        ledger.seal(1)
    assert not (tmp_path / Ledger.checksum_file(1)).exists()


@pytest.mark.parametrize("place", [0, 5, 100, -300, -1])
def test_a_damaged_file_is_named(ledger: Ledger, tmp_path: Path, place: int) -> None:
    path = tmp_path / Ledger.file(1)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    for read in (lambda: ledger.read(3), lambda: ledger.asked_regions(2), lambda: ledger.sparse_labels(3)):
        with pytest.raises(InputError, match=r"rounds/001/annotations/ledger\.parquet is damaged"):
            read()
    assert ledger.read(1).num_rows == 1


@pytest.mark.parametrize("name", [Ledger.file(1), Ledger.checksum_file(1)])
def test_a_file_that_is_gone_is_named(ledger: Ledger, tmp_path: Path, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"rounds/001/annotations/ledger\.parquet or its checksum file is gone"):
        ledger.read(2)


def test_the_checksum_is_one_that_sha256sum_reads(ledger: Ledger, tmp_path: Path) -> None:
    folder = (tmp_path / Ledger.file(2)).parent
    checked = subprocess.run(["sha256sum", "-c", "ledger.parquet.sha256"], cwd=folder, capture_output=True, check=False)
    assert checked.returncode == 0, checked


def test_a_run_that_died_between_commit_and_checksum_is_sealed_by_the_next(ledger: Ledger, tmp_path: Path) -> None:
    before = (tmp_path / Ledger.checksum_file(1)).read_bytes()
    (tmp_path / Ledger.checksum_file(1)).unlink()
    assert ledger.committed(1)
    assert ledger.seal(1) == len(ROWS[1])
    assert (tmp_path / Ledger.checksum_file(1)).read_bytes() == before
