"""TensorBoard's event files, read back frame by frame."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from events import crc32c, scalars

from halo_ray.errors import InputError
from halo_ray.event_files import EventFiles
from halo_ray.storage import Storage

VALUES = [(0, {"loss": 0.5, "loss/source": 1e-7}), (3, {"loss": -2.25}), (2, {"iou/road": 1.0, "loss": 3e38})]


def expected(values: list) -> list[tuple[int, str, float]]:
    return [
        (step, name, struct.unpack("f", struct.pack("f", value))[0])
        for step, said in values
        for name, value in said.items()
    ]


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4


@pytest.fixture(params=["local", "remote"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "a run"))
    store = request.getfixturevalue("s3")
    return Storage(store.uri(f"events/{tmp_path.name}"))


def contents(storage: Storage, run: str) -> list[bytes]:
    return [storage.read(name) for name in storage.files(f"tensorboard/{run}")]


def test_what_is_written_is_read(storage: Storage) -> None:
    files = EventFiles(storage, "rounds")
    for step, values in VALUES:
        files.scalars(step, values)
    files.close()
    (data,) = contents(storage, "rounds")
    assert scalars(data) == expected(VALUES)


def test_what_was_flushed_is_there_before_the_end(storage: Storage) -> None:
    files = EventFiles(storage, "rounds")
    files.scalars(*VALUES[0])
    files.flush()
    assert [scalars(data) for data in contents(storage, "rounds")] == [expected(VALUES[:1])]
    files.scalars(*VALUES[1])
    files.close()
    assert [scalars(data) for data in contents(storage, "rounds")] == [expected(VALUES[:2])]


def test_a_run_that_goes_on_keeps_what_was_written_before(storage: Storage) -> None:
    for values in VALUES:
        files = EventFiles(storage, "rounds")
        files.scalars(*values)
        files.close()
    other = EventFiles(storage, "control")
    other.scalars(7, {"loss": 1.0})
    other.close()
    found = [entry for data in contents(storage, "rounds") for entry in scalars(data)]
    assert sorted(found) == sorted(expected(VALUES))
    assert [scalars(data) for data in contents(storage, "control")] == [[(7, "loss", 1.0)]]


@pytest.mark.parametrize("link", ["tensorboard", "tensorboard/rounds"])
def test_no_link_is_followed(tmp_path: Path, link: str) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "run" / link).parent.mkdir(parents=True)
    (tmp_path / "run" / link).symlink_to(tmp_path / "theirs")
    with pytest.raises(InputError, match=f"{link} is a link"):
        EventFiles(Storage(str(tmp_path / "run")), "rounds")
    assert not any((tmp_path / "theirs").iterdir())
