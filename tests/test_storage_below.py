"""Directories of a storage as storages of their own, and what they take from each other."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from halo_ray.benchmarks.object_store import ObjectStore
from halo_ray.errors import InputError
from halo_ray.storage import Storage

Place = Callable[[str], Storage]
FILES = {"model": b"weights", "deep/er/x.bin": b"\x00\xff" * 100_000, "empty": b""}


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Storages in a fresh place, by name."""
    if request.param == "local":
        return lambda name: Storage(str(tmp_path / name))
    store = request.getfixturevalue("s3")
    return lambda name: Storage(store.uri(f"below/{tmp_path.name}/{name}"))


def fill(storage: Storage, directory: str) -> None:
    for name, data in FILES.items():
        storage.write(f"{directory}/{name}", data)


def objects(store: ObjectStore, prefix: str) -> list[str]:
    """Keys, without those that stand for directories."""
    return [key for key in store.keys(prefix) if not key.endswith("/")]


def holds(storage: Storage, directory: str) -> bool:
    return all(storage.read(f"{directory}/{name}") == data for name, data in FILES.items())


@pytest.mark.parametrize("name", ["a", "a/b/c", "a b/ö", "c0.5-b1e-05-own_scores.half-s0"])
def test_a_directory_of_a_storage_is_one(place: Place, name: str) -> None:
    whole = place("whole")
    whole.below(name).write("deep/x", b"below")
    assert whole.read(f"{name}/deep/x") == b"below"
    whole.write(f"{name}/y", b"above")
    assert whole.below(name).read("y") == b"above"
    assert whole.below(name).files("") == ["y"]
    assert Storage(whole.below(name).uri).read("y") == b"above"  # as in another process


@pytest.mark.parametrize(("link", "below"), [("a", "a"), ("a", "a/b/c"), ("a/b", "a/b/c"), ("a/b/c/d", "a/b/c")])
def test_no_link_between_the_topmost_directory_and_a_file_is_followed(tmp_path: Path, link: str, below: str) -> None:
    theirs = tmp_path / "theirs"
    for directory in (".", "b/c/d", "c/d", "d"):
        (theirs / directory).mkdir(parents=True, exist_ok=True)
        (theirs / directory / "x").write_bytes(b"theirs")
    (tmp_path / "top" / link).parent.mkdir(parents=True)
    (tmp_path / "top" / link).symlink_to(theirs)
    (tmp_path / "named").symlink_to("top")  # the directory itself may be a link
    whole = Storage(str(tmp_path / "named"))
    storage, before = whole.below(below), sorted(theirs.rglob("*"))
    changes: list[Callable[[Storage], object]] = [
        lambda own: own.write("d/x", b"ours"),
        lambda own: own.create("d/new", b"ours"),
        lambda own: own.commit("d/x", b"ours"),
        lambda own: own.delete("d/x"),
        lambda own: own.clear("d"),
        lambda own: own.make("d/new"),
    ]
    if link.endswith("d"):
        changes.remove(changes[4])  # which deletes the link itself
    for change in changes:
        for own in (storage, pickle.loads(pickle.dumps(storage)), storage.below("."), Storage(whole.uri).below(below)):
            with pytest.raises(InputError, match=f"{link} is a link"):
                change(own)
    assert sorted(theirs.rglob("*")) == before
    assert {file.read_bytes() for file in before if file.is_file()} == {b"theirs"}
    whole.write("beside", b"ours")


def test_no_directory_lies_outside_of_the_one_above(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside"):
        Storage(str(tmp_path / "a")).below("../b")


@pytest.mark.parametrize("directory", ["what?", "a?b=c&d", "100%", "a%20b", "#1", "a b", "köln", "s3:", "a\\b"])
def test_any_local_path_may_have_directories(tmp_path: Path, directory: str) -> None:
    storage = Storage(str(tmp_path / directory)).below("sub/dir")
    storage.write("x", b"1")
    assert (tmp_path / directory / "sub/dir/x").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == [directory]
    assert storage.uri == str(tmp_path / directory / "sub/dir")


def test_a_question_mark_in_a_local_name_is_a_letter(tmp_path: Path) -> None:
    Storage(str(tmp_path)).below("who?").below("what?x=1").write("y", b"1")
    assert (tmp_path / "who?/what?x=1/y").read_bytes() == b"1"


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    storage = Storage("runs/one").below("sub")
    monkeypatch.chdir(tmp_path / "elsewhere")
    storage.write("x", b"1")
    Storage(storage.uri).write("y", b"2")
    assert sorted(path.name for path in (tmp_path / "runs/one/sub").iterdir()) == ["x", "y"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_slash_at_the_end_makes_no_difference(tmp_path: Path, s3: ObjectStore, slash: str) -> None:
    for uri in (f"{tmp_path}{slash}", f"file://{tmp_path}{slash}"):
        Storage(uri).below("sub").write("x", uri.encode())
        assert (tmp_path / "sub/x").read_bytes() == uri.encode()
    path = f"below/{tmp_path.name}/slash"
    Storage(s3.uri(path + slash)).below("sub").write("x", b"1")
    assert objects(s3, path) == [f"{path}/sub/x"]


def test_options_of_a_uri_stay_behind_its_path(s3: ObjectStore, tmp_path: Path) -> None:
    name = f"below-{tmp_path.name}"
    for root in (Storage(s3.uri("")), Storage(f"s3://{s3.bucket}?{s3.uri('').partition('?')[2]}")):
        below = root.below(name).below("b")
        assert below.uri == s3.uri(f"{name}/b")
        below.write("x", b"1")
        assert objects(s3, name) == [f"{name}/b/x"]
        root.clear(name)


@pytest.mark.parametrize("name", ["files", "some/where deep/ö"])
def test_a_directory_is_taken_whole(place: Place, name: str) -> None:
    one, other = place("one"), place("other")
    fill(one, name)
    one.write("beside", b"not this one")
    other.take(one, name)
    assert holds(other, name)
    assert holds(one, name)
    assert not other.exists("beside")
    assert other.directories(name) == ["deep"]
    assert [path.rpartition("/")[2] for path in other.files(name)] == ["empty", "model"]


def test_what_lay_there_before_is_gone(place: Place) -> None:
    one, other = place("one"), place("other")
    fill(one, "files")
    other.write("files/deep/old", b"old")
    other.write("files/model", b"old")
    other.write("kept", b"kept")
    other.take(one, "files")
    assert holds(other, "files")
    assert not other.exists("files/deep/old")
    assert other.read("kept") == b"kept"


def test_a_store_and_a_disk_take_from_each_other(tmp_path: Path, s3: ObjectStore) -> None:
    disk, store = Storage(str(tmp_path / "disk?")), Storage(s3.uri(f"below/{tmp_path.name}/both"))
    fill(disk, "files")
    store.take(disk, "files")
    assert holds(store, "files")
    back = Storage(str(tmp_path / "back"))
    back.below("a/b").take(store, "files")
    assert holds(back, "a/b/files")


def test_a_directory_that_is_not_there_is_not_taken_silently(place: Place) -> None:
    with pytest.raises(OSError, match="missing"):
        place("other").take(place("one"), "missing")
