"""The store: each result is published once, and whole."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from halo_ray.shared_stages import SharedStore
from halo_ray.storage import Storage

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path))
    return Storage(request.getfixturevalue("s3").uri(f"shared/{tmp_path.name}"))


def made(storage: Storage, name: str) -> Storage:
    """An experiment with a checkpoint that says whose it is."""
    own = storage.below(name)
    for file in ("checkpoint/a", "checkpoint/deep/b"):
        own.write(file, f"{name} {file}".encode() * 1000)
    return own


def whole(store: SharedStore, entry: str, names: tuple[str, ...]) -> str:
    """Whose result is published, all of it being that one's."""
    found = store.find(entry)
    assert found is not None
    name = found.result["of"]
    assert name in names
    for file in ("checkpoint/a", "checkpoint/deep/b"):
        assert found.storage.read(file) == f"{name} {file}".encode() * 1000
    return str(name)


def test_there_is_nothing_before_it_is_published(storage: Storage) -> None:
    assert SharedStore(storage.below("store")).find("entry") is None


def test_what_is_published_first_stays(storage: Storage) -> None:
    store = SharedStore(storage.below("store"))
    for name in ("one", "two"):
        store.publish("entry", made(storage, name), ["checkpoint"], {"of": name}, {"regions": 1, "share": "1"})
    assert whole(store, "entry", ("one",)) == "one"
    assert len(storage.directories("store/entry")) == 1
    found = store.find("entry")
    assert found is not None
    assert found.plan == {"regions": 1, "share": "1"}


def test_of_two_at_the_same_time_one_stays_and_nothing_of_the_other(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, together = Storage.take, threading.Barrier(2, timeout=60)

    def take_together(self: Storage, other: Storage, name: str) -> None:
        take(self, other, name)
        together.wait()  # both have copied before either says so

    monkeypatch.setattr(Storage, "take", take_together)
    names, failed = ("one", "two"), []
    sources = [made(storage, name) for name in names]

    def publish(source: Storage, name: str) -> None:
        try:
            SharedStore(storage.below("store")).publish("entry", source, ["checkpoint"], {"of": name})
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=publish, args=each) for each in zip(sources, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert not together.broken
    whole(SharedStore(storage.below("store")), "entry", names)
    assert len(storage.directories("store/entry")) == 1


def test_a_copy_that_was_killed_is_no_result(storage: Storage) -> None:
    store, source = SharedStore(storage.below("store")), made(storage, "one")
    storage.below("store/entry/killed").take(source, "checkpoint/deep")
    assert store.find("entry") is None
    store.publish("entry", source, ["checkpoint"], {"of": "one"})
    assert whole(store, "entry", ("one",)) == "one"
