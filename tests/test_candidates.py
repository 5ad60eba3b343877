"""Files of candidates are read as they were when all were written, or not at all."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from halo_ray.candidates import (
    CANDIDATES,
    ReadCandidates,
    candidate_files,
    clear_attempts,
    complete,
    new_attempt,
    read_candidates,
)
from halo_ray.errors import InputError
from halo_ray.selection import drop_maps, map_name
from halo_ray.storage import Storage


def table(first: int) -> pa.Table:
    rows = [
        {"image_id": f"{first + place}", "row": first + place, "score": 0.5 + place / 7, "y": place, "x": 3}
        for place in range(50)
    ]
    return pa.Table.from_pylist(rows, schema=CANDIDATES)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path), patience=0.1)
    for number in range(3):
        storage.write_table(f"all/{number}.parquet", table(100 * number))
    complete(storage, "all")
    return storage


def test_what_was_complete_is_read(storage: Storage) -> None:
    storage.write_table("all/later.parquet", table(7000))  # of an attempt that was killed, and whose tasks were not
    files = candidate_files(storage, "all")
    assert [file.name for file in files] == ["all/0.parquet", "all/1.parquet", "all/2.parquet"]
    for number, file in enumerate(files):
        assert read_candidates(storage, file).equals(table(100 * number))
        found = ReadCandidates(storage)(file)
        assert found.scores.tolist() == table(100 * number)["score"].to_pylist()
        assert found.rows.tolist() == list(range(100 * number, 100 * number + 50))


@pytest.mark.parametrize("place", [4, 200, -200, -30])
def test_a_bit_that_changed_is_told(storage: Storage, place: int) -> None:
    data = bytearray(storage.read("all/1.parquet"))
    data[place] ^= 4
    storage.write("all/1.parquet", bytes(data))
    with pytest.raises(InputError, match=r"all/1\.parquet is damaged"):
        ReadCandidates(storage)(candidate_files(storage, "all")[1])


def test_another_file_in_its_place_is_told(storage: Storage) -> None:
    storage.write("all/1.parquet", storage.read("all/2.parquet"))
    with pytest.raises(InputError, match=r"all/1\.parquet is damaged"):
        ReadCandidates(storage)(candidate_files(storage, "all")[1])


def test_a_file_that_is_gone_is_told(storage: Storage) -> None:
    storage.delete("all/1.parquet")
    with pytest.raises(InputError, match=r"all/1\.parquet is gone"):
        ReadCandidates(storage)(candidate_files(storage, "all")[1])


def test_only_directories_of_attempts_are_cleared(storage: Storage) -> None:
    theirs = ["mine", "0123456", "012345678", "0123ABCD", "0123abcd.old"]
    for kind in ("candidates", "problems"):
        for name in (*theirs, new_attempt(), new_attempt()):
            storage.write(f"rounds/001/{kind}/{name}/x", b"x")
        storage.write(f"rounds/001/{kind}/0123abcd", b"a file")
    clear_attempts(storage, "rounds/001")
    for kind in ("candidates", "problems"):
        assert storage.directories(f"rounds/001/{kind}") == sorted(theirs)
        assert storage.files(f"rounds/001/{kind}") == [f"rounds/001/{kind}/0123abcd"]


def test_only_maps_of_the_pool_are_dropped(storage: Storage) -> None:
    ids, theirs = ["a/b", "c", "d"], ["notes.txt", "other.npz", "c.npz.old"]
    for name in (*map(map_name, ids), *theirs):
        storage.write(f"maps/{name}", b"x")
    drop_maps(storage, "maps", ids, keep=["c"])
    assert storage.files("maps") == sorted(f"maps/{name}" for name in (map_name("c"), *theirs))
