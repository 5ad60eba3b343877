"""One run at a time works on an experiment: a lock in its storage, which outlives neither its holder nor its host.

Locks are numbered. The last one counts, a new one is made by creating the next number, which one process alone can do,
and numbers are never used twice. So whoever holds a number sees before every change whether it is still the last; what
a run that was taken for dead left behind (a training process on another node, a driver that was only stopped) writes
nothing more.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from halo_ray.atomic import UNFINISHED
from halo_ray.errors import InputError
from halo_ray.patience import FIRST_WAIT, StorageError
from halo_ray.secret import redacted
from halo_ray.storage import WRITE_TEST, Storage, sealed

DIRECTORY = "lock"

BEATS = 6
"""Signs of life in the time after which their absence means death."""

POLL_SECONDS = 0.5

_held: set[str] = set()
"""The runs of this process that hold a lock. One that could not give it back, since its storage was away, is over."""


@dataclass(frozen=True)
class Process:
    """A process of some machine, told apart from all others that there are or were."""

    host: str
    boot: str
    """Of the machine, and the namespace of process ids on it."""
    pid: int
    started: float
    """Seconds after the boot."""

    @classmethod
    def own(cls) -> Process:
        return cls(socket.gethostname(), _boot(), os.getpid(), _started(psutil.Process()))

    def lives(self) -> bool | None:
        """Whether it does; None: it is of another machine."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return None
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.pid)
            return found.status() != psutil.STATUS_ZOMBIE and abs(_started(found) - self.started) < 1
        return False


@dataclass(frozen=True)
class Holding:
    """The guard of a storage whose lock of that number this run holds; for all its processes."""

    storage: Storage
    number: int

    def __call__(self) -> None:
        """Raises InputError where another run has taken the lock over."""
        if _last(self.storage) != self.number:
            raise InputError(
                f"another run has taken {self.storage.uri} over, since this one gave no sign of life: let that one go "
                "on, or end it and run the same command again"
            )


@contextmanager
def locked(storage: Storage, seconds: float) -> Iterator[Storage]:
    """The same storage with a guard, held by this run alone while the body runs.

    A lock whose process died on this machine is taken over at once. Any other is waited for: until its holder gives it
    back, or has given no sign of life for ``seconds``.

    Raises:
        InputError: its holder is alive after that time.
    """
    lock = _Lock(storage, seconds)
    lock.take()
    over = threading.Event()
    beating = threading.Thread(target=lock.beat_until, args=(over,), daemon=True)
    beating.start()
    try:
        guarded = storage.guarded(lock.holding)
        _delete_unfinished(guarded)
        yield guarded
    finally:
        over.set()
        beating.join(timeout=seconds)
        lock.give_back()


def is_deleted(name: str) -> bool:
    """Whether whoever takes the lock deletes this file, since only a killed holder can have left it.

    Those who wait for the lock write too: to its directory, and to see whether they can; annotators write where they
    are asked.
    """
    return name.endswith(UNFINISHED) and not name.startswith((f"{DIRECTORY}/", "requests/", WRITE_TEST))


def _delete_unfinished(storage: Storage) -> None:
    # Object stores show no file before it is whole.
    for name in filter(is_deleted, storage.tree("") if storage.local else []):
        storage.delete(name)


class _Lock:
    """How a run takes, keeps and gives back the lock of a storage."""

    def __init__(self, storage: Storage, seconds: float) -> None:
        self._storage, self._seconds, self._beat = storage, seconds, 0
        self._content: dict[str, Any] = {"run": uuid.uuid4().hex, "process": asdict(Process.own()), "seconds": seconds}

    def take(self) -> None:
        """Returns when this run holds the lock."""
        start = silent_since = time.monotonic()
        seen, alive = None, False
        while True:
            number = _last(self._storage)
            held = None if number is None else _read(self._storage, number)
            if held is None or _is_free(held):
                if self._create((number or 0) + 1):
                    return
                if time.monotonic() - start > 2 * self._seconds:  # nobody holds it, and yet it cannot be had
                    raise InputError(
                        f"{self._storage.uri}/{_file((number or 0) + 1)} is in the way of the lock: delete it"
                    )
                time.sleep(FIRST_WAIT)
                continue
            now = time.monotonic()
            if seen is None:
                _say(self._storage, f"is held by {_named(held)}: waiting until that ends or gives no sign of life")
            if (number, held["beat"]) != seen:
                alive, seen, silent_since = seen is not None, (number, held["beat"]), now
            if now - silent_since >= max(self._seconds, held["seconds"]):
                _say(self._storage, f"{_named(held)} gave no sign of life for {now - silent_since:.0f} s: taken over")
                if self._create((number or 0) + 1):
                    return
            elif alive and now - start >= self._seconds:
                raise InputError(
                    f"{self._storage.uri} is being worked on by {_named(held)}: wait until that ends, or end it, and "
                    "run the same command again"
                )
            time.sleep(min(POLL_SECONDS, self._seconds / BEATS))

    def _create(self, number: int) -> bool:
        """Whether this run made the lock of that number; then it holds it, and older ones are deleted."""
        try:
            self._storage.create(_file(number), self._file())
        except FileExistsError:
            return False
        self.holding = Holding(self._storage, number)
        _held.add(self._content["run"])
        for name in self._storage.files(DIRECTORY):
            if _number(name) < number:
                self._storage.delete(name)
        return True

    def beat_until(self, over: threading.Event) -> None:
        """Gives signs of life."""
        interval = self._seconds / BEATS
        own = Storage(self._storage.uri, patience=interval)
        while not over.wait(interval):
            self._beat += 1
            try:
                self.holding()  # whoever lost it must not write its old one again
                own.write(_file(self.holding.number), self._file())
            except StorageError:
                continue  # perhaps the next time
            except InputError:
                return

    def give_back(self) -> None:
        """Lets others take the lock at once."""
        _held.discard(self._content["run"])
        name = _file(self.holding.number)
        with suppress(InputError):  # it is another's by now, or the storage is away: that will be seen from outside
            self.holding()
            if self._storage.exists("stages") or self.holding.number > 1:
                self._storage.write(name, self._file(released=True))
                return
            # Nothing was begun, and nobody else has held it, so nothing of it can still be under way.
            self._storage.delete(name)
            if self._storage.local:
                with suppress(OSError):
                    os.rmdir(self._storage.path(DIRECTORY))

    def _file(self, *, released: bool = False) -> bytes:
        return sealed({**self._content, "beat": self._beat, "released": released})


def _is_free(held: dict[str, Any]) -> bool:
    """Whether its holder gave it back, or died on this machine, or is a run of this process that is over."""
    if held["released"] or held["process"] is None:
        return bool(held["released"])
    process = Process(**held["process"])
    return process.lives() is False or (process == Process.own() and held["run"] not in _held)


def _named(held: dict[str, Any]) -> str:
    process = held["process"]
    return "an unknown run" if process is None else f"process {process['pid']} on {process['host']}"


def _say(storage: Storage, what: str) -> None:
    print(redacted(f"{storage.uri}: {what}"), flush=True)


def _read(storage: Storage, number: int) -> dict[str, Any] | None:
    """What a lock says; None where it is gone meanwhile."""
    try:
        return storage.read_sealed(_file(number), older=False)
    except FileNotFoundError:
        return None
    except StorageError:
        raise
    except InputError:  # damaged: all that is known is that it is there
        return {"process": None, "seconds": 0.0, "beat": None, "released": False}


def _last(storage: Storage) -> int | None:
    """The number of the lock that counts."""
    return max(map(_number, storage.files(DIRECTORY)), default=None)


def _file(number: int) -> str:
    return f"{DIRECTORY}/{number:08d}.json"


def _number(name: str) -> int:
    stem = name.rpartition("/")[2].partition(".")[0]
    return int(stem) if stem.isdecimal() else 0


def _started(process: psutil.Process) -> float:
    """Seconds after the boot, which no correction of the clock changes."""
    return float(process.create_time() - psutil.boot_time())


def _boot() -> str:
    """Names this boot of this machine and, in containers, the namespace of its process ids; empty if nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
