"""Read many small files at once: on an object store each takes a while by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from halo_ray.storage import Storage

READERS = 32

GROUP = 1024
"""So many files are in memory at the most."""


def read_all(storage: Storage, names: Sequence[str], *, gone: bool = False) -> Iterator[tuple[str, bytes]]:
    """Each file and what it holds, in the order of the names.

    Args:
        gone: those that are gone meanwhile are left out.

    Raises:
        FileNotFoundError: one is gone.
    """

    def read(name: str) -> bytes | None:
        try:
            return storage.read(name)
        except FileNotFoundError:
            if not gone:
                raise
            return None

    with ThreadPoolExecutor(min(READERS, max(len(names), 1))) as readers:
        for start in range(0, len(names), GROUP):
            group = names[start : start + GROUP]
            for name, data in zip(group, readers.map(read, group), strict=True):
                if data is not None:
                    yield name, data
