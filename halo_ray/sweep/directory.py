"""The directory of a sweep or study: what binds it to one, and what says that it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

from halo_ray.config import Config, config_to_yaml, identity
from halo_ray.errors import InputError
from halo_ray.opening import open_directory
from halo_ray.root import Kind, begin_root
from halo_ray.storage import Storage, digest_of, sealed, sha256
from halo_ray.stored_config import signed_config
from halo_ray.sweep.space import TRIALS, Space, as_texts

SWEEP, BASE, ENDED = "sweep.json", "base.yaml", "ended.json"
"""What is swept; the configuration around which, of the last run, for people; how each trial ended."""

RESULTS = "results.json"

BEFOREHAND = (RESULTS,)
"""What may lie in the directory of a study before it begins: runs from which it goes on."""


@dataclass(frozen=True)
class Ended:
    """How a sweep has ended; nothing of it is under way."""

    trials: Mapping[str, str]
    """FINISHED or STOPPED by name."""
    files: Mapping[str, str]
    """SHA-256 of files that the next run reads, by name."""


def open_sweep(base: Config, kind: Kind) -> AbstractContextManager[Storage]:
    """The directory of a sweep or study, held by this run alone while the body runs; see open_directory.

    Its trials are experiments in directories below, with locks of their own.
    """
    beforehand = BEFOREHAND if kind == "study" else ()
    return open_directory(base.output_dir, kind, base.execution, beforehand=beforehand)


def begin_sweep(storage: Storage, base: Config, space: Space, kind: Kind) -> None:
    """Begins a sweep or study in its directory, where that was not done before.

    Raises:
        InputError: the directory holds another sweep or is damaged, or execution.shared_stages cannot be written to.
    """
    if base.execution.shared_stages is not None:
        Storage(base.execution.shared_stages).check_writable("execution.shared_stages")
    begin_root(storage, kind)
    fixed = as_texts({key: value for key, value in identity(base).items() if key not in space.swept})
    now: dict[str, Any] = {"kind": kind, "space": space.told(), "fixed": fixed}
    if not storage.exists(SWEEP):
        if storage.directories(TRIALS):
            raise storage.gone(SWEEP)
        with suppress(FileExistsError):  # by a run that was taken for dead: it decides
            storage.create(SWEEP, sealed(now))
    _check_same(storage, now)
    signed = signed_config(config_to_yaml(base), sweep_id(storage))
    if not storage.exists(BASE) or storage.read(BASE) != signed:
        storage.write(BASE, signed)


def _check_same(storage: Storage, now: Mapping[str, Any]) -> None:
    """Raises InputError where the directory was begun with something else."""
    before = read_sweep(storage)
    if before["kind"] != now["kind"]:
        raise storage.damaged(SWEEP, f"it is that of a {before['kind']}")
    told = [
        f"--{key} (there {', '.join(map(str, values)) if isinstance(values, list) else values})"
        for key, values in before["space"].items()
        if values != now["space"].get(key)
    ]
    told += [f"{key} (there {value})" for key, value in before["fixed"].items() if now["fixed"].get(key) != value]
    if told:
        raise InputError(
            f"{storage.uri} holds another sweep, with other {', '.join(told)}: name another output_dir or change them "
            "back"
        )


def read_sweep(storage: Storage) -> dict[str, Any]:
    """What sweep.json holds: ``kind``, ``space`` as Space.told, and ``fixed``, the settings that trials share.

    Raises:
        InputError: it is gone or damaged.
    """
    try:
        found = storage.read_sealed(SWEEP)
    except FileNotFoundError as error:
        raise storage.gone(SWEEP) from error
    if set(found) != {"kind", "space", "fixed"} or not all(isinstance(found[key], dict) for key in ("space", "fixed")):
        raise storage.damaged(SWEEP, "it describes no sweep")
    return found


def sweep_id(storage: Storage) -> str:
    """Names what is swept in a directory."""
    return digest_of(read_sweep(storage))[:32]


def read_ended(storage: Storage) -> Ended | None:
    """How a sweep has ended; None where it has not.

    Raises:
        InputError: what says so is damaged, or of another sweep.
    """
    if not storage.exists(ENDED):
        return None
    found = storage.read_sealed(ENDED)
    if set(found) != {"sweep", "trials", "files"} or not all(
        isinstance(found[key], dict) for key in ("trials", "files")
    ):
        raise storage.damaged(ENDED, "it does not say how a sweep has ended")
    if found["sweep"] != sweep_id(storage):
        raise storage.damaged(ENDED, "it is of another sweep")
    return Ended(found["trials"], found["files"])


def write_ended(storage: Storage, kind: Kind, trials: Mapping[str, str]) -> None:
    """Says how a sweep has ended, when its results stand."""
    files = {name: sha256(storage.read(name)) for name in (RESULTS,) if kind == "study"}
    storage.write_sealed(ENDED, {"sweep": sweep_id(storage), "trials": dict(sorted(trials.items())), "files": files})
