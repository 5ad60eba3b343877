"""The states of damage in which a file may be found, and which files of ours must be known by their digests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

Damage = Callable[[bytes, bytes | None], bytes | None]


def flipped(data: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :] if data else data


DAMAGES: dict[str, Damage] = {
    "deleted": lambda data, other: None,
    "emptied": lambda data, other: b"",
    "cut": lambda data, other: data[: len(data) * 2 // 3],
    "flipped": lambda data, other: flipped(data),
    "half zeroed": lambda data, other: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "namesake": lambda data, other: data if other is None else other,
}
"""What becomes of a file's content, given that of its namesake of another round, trial or seed; None: it is gone."""

EXEMPT = re.compile(
    r"""(^|/)(
        tensorboard/.*              # event files
        | lock/\d{8}\.json          # locks
        | \.reading\.json           # a lock of the answers
        | requests/[^/]*/page\.json # who had which region on the page
        | requests/[^/]*/(crops|frames)/.*  # pictures for people
        | (sweep|study)\.png        # pictures
    )$""",
    re.VERBOSE,
)
"""Files from which nothing is computed once their round is over."""


def files(whole: Path) -> Iterator[str]:
    """The names of all files that are not exempt, sorted."""
    for path in sorted(whole.rglob("*")):
        name = str(path.relative_to(whole))
        if path.is_file() and not EXEMPT.search(name):
            yield name


def namesake(name: str, whole: Path, *twins: Path) -> bytes | None:
    """The content of the file of the same name of another round, trial or seed; None: there is none."""
    trials = sorted(path.name for path in whole.glob("trials/*"))
    pairs = [("/001", "/002"), ("-001", "-002"), *pairwise(trials)]
    places = [whole / name.replace(*swap) for one, other in pairs for swap in ((one, other), (other, one))]
    for path in (*places, *(twin / name for twin in twins)):
        if path != whole / name and path.is_file():
            return path.read_bytes()
    return None


def damaged(damage: str, name: str, whole: Path, *twins: Path) -> bytes | None:
    """What the file holds then; None: it is gone."""
    other = namesake(name, whole, *twins) if damage == "namesake" else None
    return DAMAGES[damage]((whole / name).read_bytes(), other)


def put(data: bytes | None, path: Path) -> None:
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


def is_named(name: str, places: set[str]) -> bool:
    """Whether findings name a file, or the directory that holds it."""
    return any(name == place or name.startswith(f"{place}/") for place in places)
