"""One run at a time holds an experiment: real processes that are killed, stopped, and that want it together."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from halo_ray import lock
from halo_ray.atomic import unfinished_owner
from halo_ray.errors import InputError
from halo_ray.lock import Process, locked
from halo_ray.root import begin_root
from halo_ray.storage import Storage, sealed

LONG = 300.0
"""Seconds that no test waits."""

HOLD = """
import sys
from halo_ray.lock import locked
from halo_ray.storage import Storage
with locked(Storage(sys.argv[1]), float(sys.argv[2])) as storage:
    print("held", flush=True)
    sys.stdin.readline()
    storage.write("late", b"")
"""
"""Holds a storage until a line comes, and then writes to it."""

TURN = """
import os, sys, time
from halo_ray.lock import locked
from halo_ray.storage import Storage
with locked(Storage(sys.argv[1]), 60) as storage:
    storage.create("inside", b"x")
    time.sleep(0.2)
    storage.delete("inside")
    storage.write(f"turns/{os.getpid()}", b"")
"""
"""Is inside for a while, where nobody else may be."""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"), patience=1)


@pytest.fixture
def begun(storage: Storage) -> Storage:
    """One that is an experiment, so that its locks are kept."""
    begin_root(storage, "experiment")
    return storage


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def holder(storage: Storage, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the storage."""
    process = start(HOLD, storage.uri, seconds)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def elsewhere(storage: Storage, number: int = 1, beat: int = 0, *, released: bool = False, seconds: float = 0) -> None:
    """Writes the lock of a process of another machine."""
    process = asdict(replace(Process.own(), host="elsewhere"))
    content = {"run": "x", "unclean": [], "process": process, "seconds": seconds, "beat": beat, "released": released}
    storage.write(f"lock/{number:08d}.json", sealed(content))


def taken(storage: Storage, seconds: float = LONG) -> tuple[float, str]:
    """How long it took to take the lock, and the last of those that there were then."""
    start = time.monotonic()
    with locked(storage, seconds):
        return time.monotonic() - start, storage.files("lock")[-1]


def taken_from_a_killed_holder(storage: Storage) -> tuple[float, str]:
    """As taken, where a process that was killed held the lock."""
    with holder(storage, LONG) as process:
        process.kill()
        process.wait()
        return taken(storage)


def test_a_process_lives_until_it_is_killed() -> None:
    assert Process.own().lives()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    process = replace(Process.own(), pid=child.pid, started=lock._started(lock.psutil.Process(child.pid)))
    assert process.lives()
    child.kill()
    while lock.psutil.Process(child.pid).status() != "zombie":  # which nobody has waited for yet
        time.sleep(0.01)
    assert process.lives() is False
    child.wait()
    assert process.lives() is False


def test_another_process_with_the_same_number_is_not_taken_for_it() -> None:
    assert replace(Process.own(), started=Process.own().started - 100).lives() is False


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"boot": "before"}])
def test_nobody_knows_of_processes_elsewhere(change: dict[str, str]) -> None:
    assert replace(Process.own(), **change).lives() is None


def test_a_lock_whose_holder_was_killed_is_taken_over_at_once(begun: Storage) -> None:
    waited, last = taken_from_a_killed_holder(begun)
    assert waited < 5
    assert last == "lock/00000002.json"


def test_a_lock_that_was_given_back_is_free_and_numbers_go_on(begun: Storage) -> None:
    for number in (1, 2, 3):
        assert taken(begun)[1] == f"lock/{number:08d}.json"


def test_who_takes_the_lock_deletes_what_killed_holders_were_writing_and_nothing_else(begun: Storage) -> None:
    unfinished, runs = ".halo_ray-{}-0123456789ab.tmp", []
    for _ in range(2):  # the second dies before it has cleaned up after the first
        with holder(begun, LONG) as process:
            runs.append(begun.read_sealed(begun.files("lock")[-1])["run"])
            process.kill()
            process.wait()
        content = begun.read_sealed(begun.files("lock")[-1])
        begun.write(begun.files("lock")[-1], sealed({**content, "unclean": runs[:-1]}))
    outside = Path(begun.root).parent / "outside"
    outside.mkdir()
    (Path(begun.root) / "link").symlink_to(outside)
    left = [unfinished.format(runs[0]), f"rounds/001/{unfinished.format(runs[1])}"]
    others = [unfinished.format("f" * 16), "notes.tmp", "rounds/001/picks.parquet.0123.tmp", "rounds/001/picks.parquet"]
    for name in left + others:
        begun.write(name, b"ha")
    (outside / unfinished.format(runs[0])).write_bytes(b"ha")
    with locked(begun, LONG):
        assert not [name for name in left if begun.exists(name)]
        assert all(begun.read(name) == b"ha" for name in others)
    assert [path.read_bytes() for path in outside.iterdir()] == [b"ha"]


def test_a_killed_writer_leaves_its_name_on_what_it_was_writing(begun: Storage) -> None:
    with locked(begun, LONG) as mine:
        seen: list[str] = []

        class Guard:
            run = mine.guard.run

            def __call__(self) -> None:
                seen.extend(name for name in begun.tree("") if unfinished_owner(name))

        begun.guarded(Guard()).write("a/b", b"1")
        assert [unfinished_owner(name) for name in seen] == [mine.guard.run]


def test_where_nothing_was_begun_nothing_is_left(storage: Storage) -> None:
    taken(storage)
    assert list(Path(storage.root).iterdir()) == []


def test_a_number_that_another_run_may_hold_is_not_used_again(storage: Storage) -> None:
    with locked(storage, 0.3) as first:
        # Another run takes it for dead, and ends.
        content = storage.read_sealed("lock/00000001.json")
        storage.write("lock/00000002.json", sealed({**content, "released": True}))
        with locked(storage, 0.3):
            pass
        with locked(storage, 0.3), pytest.raises(InputError, match="another run has taken"):
            first.write("a", b"")


def test_a_lock_from_elsewhere_is_waited_for_and_then_taken_over(
    begun: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere(begun, 7)
    waited, last = taken(begun, 1.5)
    assert 1.5 <= waited < 10
    assert last == "lock/00000008.json"
    said = capsys.readouterr().out
    assert f"{begun.uri}: is held by process {os.getpid()} on elsewhere" in said
    assert "gave no sign of life" in said


def test_its_holder_may_ask_for_a_longer_wait(begun: Storage) -> None:
    elsewhere(begun, seconds=2)
    assert taken(begun, 0.5)[0] >= 2


def test_a_lock_from_elsewhere_that_is_given_back_is_taken_at_once(begun: Storage) -> None:
    elsewhere(begun)
    giver = threading.Timer(1, elsewhere, (begun,), {"released": True})
    giver.start()
    waited, _ = taken(begun)
    giver.join()
    assert 1 <= waited < 10


def test_a_living_holder_keeps_it(begun: Storage) -> None:
    over = threading.Event()

    def beat() -> None:
        for number in range(1000):
            elsewhere(begun, 1, number)
            if over.wait(0.1):
                return

    elsewhere(begun)
    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(InputError, match=rf"{begun.uri} is being worked on by process \d+ on elsewhere: wait"):
            taken(begun, 1.0)
    finally:
        over.set()
        beating.join()
    assert begun.files("lock") == ["lock/00000001.json"]


def test_a_living_holder_of_this_machine_gives_signs_of_life(begun: Storage) -> None:
    with holder(begun, 1.0), pytest.raises(InputError, match="is being worked on"):
        taken(begun, 3.0)
    assert json.loads(begun.read("lock/00000001.json"))["beat"] >= 2


def test_who_was_taken_for_dead_writes_nothing_more(begun: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped for a while, seen from another machine."""
    with holder(begun, 1.0) as process:
        process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(lock, "_boot", lambda: "another machine")
        with locked(begun, 1.0) as mine:
            process.send_signal(signal.SIGCONT)
            _, said = process.communicate("\n", timeout=30)
            mine.write("mine", b"")
            assert begun.files("lock")[-1] == "lock/00000002.json"
    assert "InputError: another run has taken" in said
    assert not begun.exists("late")
    assert begun.exists("mine")


def test_the_guard_goes_with_the_storage_to_other_processes(begun: Storage) -> None:
    with locked(begun, LONG) as mine:
        sent = pickle.loads(pickle.dumps(mine.below("rounds")))
        sent.write("x", b"1")
        elsewhere(begun, 2)  # who took it over
        for change in (
            lambda: sent.write("x", b"2"),
            lambda: sent.create("y", b""),
            lambda: sent.delete("x"),
            lambda: sent.clear(""),
            lambda: sent.take(begun, "lock"),
            lambda: sent.commit("w", b""),
            lambda: sent.commit("x", b"2"),
            lambda: mine.make("z"),
        ):
            with pytest.raises(InputError, match="another run has taken"):
                change()
    assert begun.read("rounds/x") == b"1"


def test_a_damaged_lock_is_waited_for_too(begun: Storage) -> None:
    begun.write("lock/00000004.json", b"{")
    waited, last = taken(begun, 1.0)
    assert waited >= 1
    assert last == "lock/00000005.json"


def test_a_run_of_this_process_that_could_not_give_it_back_is_over(begun: Storage) -> None:
    with locked(begun, LONG):
        content = begun.read("lock/00000001.json")
    begun.write("lock/00000001.json", content)  # as if it had not been given back
    waited, last = taken(begun)
    assert waited < 5
    assert last == "lock/00000002.json"


def test_what_is_in_its_way_is_named(begun: Storage) -> None:
    begun.make("lock/00000001.json")
    with pytest.raises(InputError, match=r"run/lock/00000001\.json is in the way of the lock: delete it"):
        taken(begun, 0.5)


def test_of_many_that_want_it_one_at_a_time_has_it(begun: Storage) -> None:
    processes = [start(TURN, begun.uri) for _ in range(5)]
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert sorted(begun.files("turns")) == sorted(f"turns/{process.pid}" for process in processes)


def test_it_works_on_object_stores(s3) -> None:
    storage = Storage(s3.uri("locked/run"))
    begin_root(storage, "experiment")
    waited, last = taken_from_a_killed_holder(storage)
    assert waited < 10
    assert last == "lock/00000002.json"
    assert storage.read_sealed("lock/00000002.json")["released"] is True


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_guard_asks_by_one_request_and_lists_nothing(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "run") if place == "local" else request.getfixturevalue("s3").uri("asked/run")
    storage = Storage(uri)
    begin_root(storage, "experiment")
    with locked(storage, LONG) as mine:
        asked = []
        for way in ("exists", "files", "tree", "directories", "_info", "read"):
            monkeypatch.setattr(Storage, way, lambda self, *_, way=way: asked.append(way))
        there = Storage.is_there
        monkeypatch.setattr(Storage, "is_there", lambda self, name: asked.append(name) or there(self, name))
        mine.guard()
    assert asked[0] == "lock/00000002.json"
    assert asked[1:2] == [] or asked[1] != "lock/00000002.json"


def test_every_attempt_at_a_write_asks_for_the_lock(begun: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails for a while, as on a full disk, and by then somebody else holds the lock."""
    tries = []

    def full(*_: object) -> None:
        tries.append(time.monotonic())
        if len(tries) == 3:
            elsewhere(begun, 2)
        if len(tries) < 4:
            raise OSError(28, "No space left on device")

    with locked(Storage(begun.uri, patience=60), LONG) as mine:
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="another run has taken"):
            mine.write("late", b"")
        monkeypatch.undo()
    assert len(tries) >= 4
    assert not begun.exists("late")


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN], ids=["foreground", "background"])
def test_a_heartbeat_that_fails_ends_the_run(begun: Storage, monkeypatch: pytest.MonkeyPatch, handler: Any) -> None:
    whole, before = lock._Lock._file, signal.signal(signal.SIGINT, handler)

    def broken(self: lock._Lock, **how: bool) -> bytes:
        if threading.current_thread() is threading.main_thread():
            return whole(self, **how)
        raise RuntimeError("cannot start")

    def work() -> None:
        with locked(begun, 0.6) as mine:
            monkeypatch.setattr(lock._Lock, "_file", broken)
            while time.monotonic() - start < 30:
                time.sleep(0.05)
            mine.write("late", b"")

    start = time.monotonic()
    try:
        with pytest.raises(InputError, match=r"no sign of life can be given.*cannot start"):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 20
    assert not begun.exists("late")
