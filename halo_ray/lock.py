"""One run at a time works on an experiment: a lock in its storage, which outlives neither its holder nor its host.

Locks are numbered and stay. The last one counts, and a new one is made by creating the next number, which one process
alone can do. So whoever holds a number asks in every change whether the next one is there, by one request; what a run
that was taken for dead left behind (a training process on another node, a driver that was only stopped) writes nothing
more.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from halo_ray.atomic import unfinished_owner
from halo_ray.errors import InputError, one_line
from halo_ray.patience import FIRST_WAIT, StorageError
from halo_ray.root import ROOT
from halo_ray.secret import redacted
from halo_ray.storage import Storage, sealed

DIRECTORY = "lock"

BEATS = 6
"""Signs of life in the time after which their absence means death."""

POLL_SECONDS = 0.5

_held: set[str] = set()
"""The runs of this process that hold a lock. One that could not give it back, since its storage was away, is over."""

_failed: dict[str, str] = {}
"""Why runs of this process give no sign of life any more."""


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
    """The guard of a storage whose lock of that number a run holds; for all its processes."""

    storage: Storage
    number: int
    run: str
    """16 hexadecimal digits that name the run; files that it has begun to write hold them in their names."""

    def __call__(self) -> None:
        """Raises InputError where another run has taken the lock over."""
        if self.run in _failed:
            raise InputError(_failed[self.run])
        if self.storage.is_there(_file(self.number + 1)):
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
        InputError: its holder is alive after that time; or no sign of life can be given any more.
    """
    lock = _Lock(storage, seconds)
    lock.take()
    over = threading.Event()
    beating = threading.Thread(target=lock.beat_until, args=(over,), daemon=True)
    beating.start()
    try:
        guarded = storage.guarded(lock.holding)
        lock.clean(guarded)
        yield guarded
    except KeyboardInterrupt:
        lock.holding()  # says why, if it was not the user
        raise
    finally:
        over.set()
        beating.join(timeout=seconds)
        lock.give_back()


def is_lock(name: str) -> bool:
    """Whether a file right under DIRECTORY can be a lock."""
    return _number(name) > 0 and name.endswith(".json")


def _delete_unfinished(storage: Storage, runs: Iterable[str]) -> None:
    """Deletes what killed processes of these runs had begun to write; it bears their names."""
    # Object stores show no file before it is whole.
    wanted = set(runs)
    for at, directories, files in os.walk(storage.root) if storage.local and wanted else []:  # which follows no link
        for name in (*directories, *files):
            if unfinished_owner(name) in wanted:
                storage.delete(os.path.join(at, name)[len(storage.root) + 1 :])


def _interrupt_main() -> None:
    """Raises KeyboardInterrupt in the main thread, also where SIGINT is ignored, as by what a shell runs with ``&``."""
    if callable(signal.getsignal(signal.SIGINT)):
        _thread.interrupt_main()
    else:
        ident = ctypes.c_ulong(threading.main_thread().ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(KeyboardInterrupt))


class _Lock:
    """How a run takes, keeps and gives back the lock of a storage."""

    def __init__(self, storage: Storage, seconds: float) -> None:
        self._storage, self._seconds, self._beat = storage, seconds, 0
        self._run = uuid.uuid4().hex[:16]
        self._content: dict[str, Any] = {"run": self._run, "process": asdict(Process.own()), "seconds": seconds}
        self._main = threading.current_thread() is threading.main_thread()

    def take(self) -> None:
        """Returns when this run holds the lock."""
        start = silent_since = time.monotonic()
        seen, alive = None, False
        while True:
            number = _last(self._storage)
            held = None if number is None else _read(self._storage, number)
            if held is None or _is_free(held):
                if self._create((number or 0) + 1, held):
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
                if self._create((number or 0) + 1, held):
                    return
            elif alive and now - start >= self._seconds:
                raise InputError(
                    f"{self._storage.uri} is being worked on by {_named(held)}: wait until that ends, or end it, and "
                    "run the same command again"
                )
            time.sleep(min(POLL_SECONDS, self._seconds / BEATS))

    def _create(self, number: int, before: dict[str, Any] | None) -> bool:
        """Whether this run made the lock of that number; then it holds it.

        Args:
            before: the lock of the run before; this one cleans up after that.
        """
        left = {} if before is None else {before["run"]: None, **dict.fromkeys(before["unclean"])}
        self._content["unclean"] = [run for run in left if run]
        try:
            self._storage.create(_file(number), self._file())
        except FileExistsError:
            return False
        self.holding = Holding(self._storage, number, self._run)
        _held.add(self._run)
        return True

    def clean(self, guarded: Storage) -> None:
        """Deletes what the runs before had begun to write when they died."""
        _delete_unfinished(guarded, self._content["unclean"])
        self._content["unclean"] = []

    def beat_until(self, over: threading.Event) -> None:
        """Gives signs of life; whatever else goes wrong with that than a storage that is away ends the run."""
        try:
            interval = self._seconds / BEATS
            own = replace(self.holding, storage=self._storage.with_patience(interval))
            mine = own.storage.guarded(own)  # whoever lost it must not write its old one again
            while not over.wait(interval):
                self._beat += 1
                try:
                    mine.write(_file(own.number), self._file())
                except StorageError:
                    continue  # perhaps the next time
                except InputError:
                    return
        except BaseException as error:
            _failed[self._run] = (
                f"{self._storage.uri}: no sign of life can be given ({type(error).__name__}: {one_line(error)}), so "
                "that another run could take it for dead: run the same command again"
            )
            if self._main and not over.is_set():
                _interrupt_main()

    def give_back(self) -> None:
        """Lets others take the lock at once."""
        _held.discard(self._run)
        name = _file(self.holding.number)
        mine = self._storage.guarded(self.holding)
        with suppress(InputError):  # it is another's by now, or the storage is away: that will be seen from outside
            if self.holding.number > 1 or self._storage.exists(ROOT):
                mine.write(name, self._file(released=True))
                return
            # Nothing was begun, and nobody else has held it, so nothing of it can still be under way.
            mine.delete(name)
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
        return storage.read_sealed(_file(number))
    except FileNotFoundError:
        return None
    except StorageError:
        raise
    except InputError:  # damaged: all that is known is that it is there
        return {"run": None, "process": None, "seconds": 0.0, "beat": None, "released": False, "unclean": []}


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
