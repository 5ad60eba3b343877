"""Open the directory of an experiment, sweep or study for one run alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from halo_ray.execution import ExecutionConfig
from halo_ray.lock import locked
from halo_ray.root import Kind, changed_versions, check_root
from halo_ray.secret import shown
from halo_ray.storage import Storage


@contextmanager
def open_directory(
    uri: str, kind: Kind, execution: ExecutionConfig, *, beforehand: Collection[str] = ()
) -> Iterator[Storage]:
    """The storage of a directory that is of that kind or empty, held by this run alone while the body runs.

    Args:
        beforehand: as check_root.

    Raises:
        InputError: the directory holds something else, cannot be written to, or another run is working on it.
    """
    storage = Storage(uri, execution.storage_seconds)
    check_root(storage, kind, beforehand=beforehand)  # before the lock: what is not ours stays untouched
    storage.check_writable()
    with locked(storage, execution.lock_seconds) as held:
        # Again, since another command may have begun something here before this one held the lock.
        if check_root(held, kind, beforehand=beforehand) and (changed := changed_versions(held)):
            print(f"{shown(storage.uri)} goes on with other software: {changed}", flush=True)
        yield held
