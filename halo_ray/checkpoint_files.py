"""The files of a checkpoint directory, which its state seals."""

from __future__ import annotations

from typing import Any

from halo_ray.storage import Storage, sha256

STATE = "training.json"

DIGESTS = "files"
"""Key of the state: the SHA-256 of the other files. Without its state, as where it was handed on, a checkpoint is read
as it is."""


def read_checkpoint_file(storage: Storage, name: str, file: str) -> bytes:
    """A file of the checkpoint directory ``name``, as it was written.

    Raises:
        InputError: it is damaged.
    """
    data, state = storage.read(file_of(name, file)), sealed_state(storage, name) or {}
    if state.get(DIGESTS, {}).get(file) not in (sha256(data), None):
        raise storage.damaged(file_of(name, file), f"its SHA-256 is not that in {STATE}")
    return data


def sealed_state(storage: Storage, name: str) -> dict[str, Any] | None:
    """What the state of a checkpoint holds; None: it has none."""
    return storage.read_sealed(file_of(name, STATE)) if storage.exists(file_of(name, STATE)) else None


def file_of(name: str, file: str) -> str:
    """A file of a checkpoint, which may be the storage's own directory."""
    return f"{name}/{file}" if name else file
