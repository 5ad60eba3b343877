"""When a run reads the answers of a round: what is given then waits until it is known whether they were bought.

A run leaves a marker before it lists the answers, and takes it away unless it commits them. An annotators' page stores
an answer, and looks for the marker and then for the ledger afterwards. Where it finds neither, every run that reads the
round lists the answers later, and so sees this one; an answer taken back is as certainly not seen. The marker lies
beside the page's answers: on network filesystems, writing into a directory is what shows its current content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from halo_ray.annotations.folder import MARKER, folder
from halo_ray.annotations.ledger import Ledger
from halo_ray.errors import InputError
from halo_ray.lock import DIRECTORY, Process, is_lock
from halo_ray.patience import StorageError
from halo_ray.storage import Storage


@dataclass(frozen=True)
class Seen:
    """How far the answers of a round are."""

    bought: bool
    """They are in the ledger, and no others will be."""
    reader: str | None
    """The run that is reading them, in words; None: none is."""


@contextmanager
def reading(storage: Storage, number: int) -> Iterator[None]:
    """The time in which a run reads the answers of round ``number`` and commits them, or raises."""
    place = folder(storage, number)
    run = None if storage.guard is None else storage.guard.run
    place.write_sealed(MARKER, {"run": run, "process": asdict(Process.own())})
    try:
        yield
    except BaseException:
        with suppress(InputError, OSError):  # then the marker goes unheeded as soon as this run is over
            place.delete(MARKER)
        raise


def look(storage: Storage, number: int) -> Seen:
    """How far the answers of round ``number`` are.

    Raises:
        InputError: the marker is damaged.
    """
    # In this order: a run that has taken its marker away, or is over, will commit nothing.
    reader = _reader(storage, number)
    if Ledger(storage).committed(number):
        return Seen(True, None)
    if isinstance(reader, InputError):
        raise reader
    return Seen(False, reader)


def _reader(storage: Storage, number: int) -> str | InputError | None:
    place = folder(storage, number)
    try:
        marker = place.read_sealed(MARKER)
        process = Process(**marker["process"])
        if process.lives() is False or _lost_lock(storage, marker["run"]):
            return None
        return f"process {process.pid} on {process.host}"
    except FileNotFoundError:
        return None
    except StorageError:
        raise
    except (InputError, KeyError, TypeError):
        return InputError(
            f"{place.uri}/{MARKER} is damaged: delete it, unless a run is reading the answers of round {number}"
        )


def _lost_lock(storage: Storage, run: str | None) -> bool:
    """Whether that run holds the experiment no longer; False where that cannot be seen."""
    locks = [name for name in storage.files(DIRECTORY) if is_lock(name)]
    if run is None or not locks:
        return False
    try:
        held: dict[str, Any] = storage.read_sealed(locks[-1])
    except FileNotFoundError:  # another one takes the lock at this moment
        return False
    except StorageError:
        raise
    except InputError:
        return False
    return bool(held.get("run") != run or held.get("released"))
