"""The root file of a directory of ours: what it is, its format, and what software began it.

It is the first file that is written after the lock. Only a directory that has it, or nothing but what may lie there
beforehand, is written to.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from halo_ray.errors import InputError
from halo_ray.png_mark import foreign
from halo_ray.storage import Storage, sealed
from halo_ray.versions import versions

ROOT = "halo_ray.json"

FORMAT = 1
"""Number of the format of all that is stored. There is one so far, so any other is refused."""

Kind = Literal["experiment", "sweep", "study"]

TOLD = ("halo_ray", "torch", "ray", "python")
"""Software whose change is said when something is resumed."""

INSPECTION = "inspection"
"""Directory of the pictures of an inspection, which may be made before the experiment begins."""

INSPECTOR = "inspect_data"
"""The command that makes them, as their mark names it."""

_LOCKS, _LOCK = "lock", re.compile(r"\d{8}\.json")


def check_root(storage: Storage, kind: Kind, *, key: str = "output_dir", beforehand: Collection[str] = ()) -> bool:
    """Whether the directory is one of ours; else it is empty, or all but.

    Hidden files, ``lost+found`` of a volume, and the locks of a run that died before it began may lie in an empty one;
    in that of an experiment the pictures of an inspection too.

    Args:
        kind: what it must be if it is ours.
        key: names it in errors.
        beforehand: names of what else may lie there before the beginning.

    Raises:
        InputError: it holds something else, or what another format describes; nothing was changed then.
    """
    if storage.exists(ROOT):
        found = read_root(storage)
        if found != kind:
            raise InputError(f"{key} {storage.uri} holds {_a(found)}, not {_a(kind)}: name another directory")
        return True
    for name in foreign_entries(storage, beforehand):
        if name == _LOCKS and _holds_locks_alone(storage):
            continue
        inspected = kind == "experiment" and name == INSPECTION and name in storage.directories("")
        if (other := _foreign_picture(storage) if inspected else name) is not None:
            raise InputError(
                f"{key} {storage.uri} is neither empty nor {_a(kind)} (it holds {other!r}, but no {ROOT}): name "
                "another directory"
            )
    return False


def foreign_entries(storage: Storage, ours: Collection[str]) -> list[str]:
    """What lies right in a directory beside hidden files, ``lost+found`` of a volume, and the names of ``ours``."""
    return [name for name in storage.entries() if not name.startswith(".") and name not in {*ours, "lost+found"}]


def begin_root(storage: Storage, kind: Kind) -> None:
    """Makes an empty directory ours; one that is of that kind already stays as it is.

    Raises:
        InputError: it is of another kind.
    """
    try:
        storage.create(ROOT, sealed({"format": FORMAT, "kind": kind, "versions": versions()}))
    except FileExistsError:
        check_root(storage, kind)


def read_root(storage: Storage) -> Kind:
    """What a directory of ours holds.

    Raises:
        InputError: the root file is damaged, or of another format.
    """
    found = storage.read_sealed(ROOT)
    if found.get("format") != FORMAT:
        raise InputError(
            f"{storage.uri}/{ROOT} says format {found.get('format')}, and this version of halo_ray knows {FORMAT} "
            "alone: use the version that wrote it, or name another directory"
        )
    if found.get("kind") not in ("experiment", "sweep", "study"):
        raise storage.damaged(ROOT, "it names no kind")
    kind: Kind = found["kind"]
    return kind


def changed_versions(storage: Storage) -> str:
    """What software differs from that which began the directory, for the log; empty if nothing does."""
    before, now = storage.read_sealed(ROOT)["versions"], versions()
    different = [name for name in TOLD if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {now.get(name)} (begun with {before.get(name)})" for name in different)


def _holds_locks_alone(storage: Storage) -> bool:
    return all(_LOCK.fullmatch(name) or name.startswith(".halo_ray-") for name in storage.below(_LOCKS).entries())


def _foreign_picture(storage: Storage) -> str | None:
    """What lies among the pictures of an inspection and is none of them."""
    names = (f"{INSPECTION}/{name}" for name in foreign_entries(storage.below(INSPECTION), ()))
    return next((name for name in names if foreign(storage, name, INSPECTOR) is not None), None)


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "experiment" else f"a {kind}"
