"""Checkpoints: a directory with the architecture (JSON), the weights (safetensors) and the optimizers' state.

Nothing in them is code: they are read without unpickling anything but tensors. Loading a model needs no Ray.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import torch
from safetensors.torch import load, save

from halo_ray.errors import InputError, one_line
from halo_ray.models.build import MODEL_FILE, WEIGHTS_FILE, rebuild_model
from halo_ray.models.pretrained import why_unreadable
from halo_ray.models.segmenter import Segmenter
from halo_ray.storage import Storage, round_directory

_OPTIMIZER, _STATE = "optimizer.pt", "training.json"

_FILES = "files"
"""Key of the state: the SHA-256 of the other files. Without its state, as where it was handed on, a checkpoint is read
as it is."""


def scoring_checkpoint(number: int) -> str:
    """The checkpoint whose model scores the pool for a round, whatever the round's training begins with."""
    return "pretrain/checkpoint" if number == 1 else f"{round_directory(number - 1)}/checkpoint"


def write_checkpoint(
    storage: Storage,
    name: str,
    description: dict[str, Any],
    model: Segmenter,
    optimizer: dict[str, Any],
    state: dict[str, Any],
) -> None:
    """Writes a checkpoint to the directory ``name``.

    Args:
        description: as given by describe_model; what else it holds (class names, input size) is kept too.
        optimizer: state of the optimizers.
        state: JSON-able, where training stands; written last, so that a checkpoint that has one is whole.
    """
    storage.clear(name)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    files = {
        MODEL_FILE: (json.dumps(description, indent=1, allow_nan=False) + "\n").encode(),
        WEIGHTS_FILE: save(weights),
        _OPTIMIZER: buffer.getvalue(),
    }
    for file, data in files.items():
        storage.write(_file(name, file), data)
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    storage.write_sealed(_file(name, _STATE), {**state, _FILES: digests})


def load_model(storage: Storage, name: str) -> Segmenter:
    """The model of the checkpoint directory ``name``, in evaluation mode on the CPU, in the dtype of its weights.

    Raises:
        InputError: there is no whole checkpoint.
    """
    try:
        description, data = load_description(storage, name), _read(storage, name, WEIGHTS_FILE)
    except OSError as error:
        raise _unloadable(storage, name, error) from error
    try:
        model, weights = rebuild_model(description), load(data)
        model.to(weights["head.classifier.weight" if model.curvature == 0 else "head.classifier.normals"].dtype)
        model.load_state_dict(weights)
    except Exception as error:  # a damaged description makes transformers raise anything
        raise _unloadable(storage, name, error) from error
    return model.eval()


def load_description(storage: Storage, name: str) -> dict[str, Any]:
    """What describes the model of a checkpoint."""
    try:
        description = json.loads(_read(storage, name, MODEL_FILE))
    except ValueError as error:
        raise storage.damaged(_file(name, MODEL_FILE), error) from error
    if not isinstance(description, dict):
        raise storage.damaged(_file(name, MODEL_FILE), "it describes no model")
    return description


def load_optimizer_state(storage: Storage, name: str) -> dict[str, Any]:
    """The state of the optimizers that the checkpoint ``name`` was written with.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        data = io.BytesIO(_read(storage, name, _OPTIMIZER))
        state: dict[str, Any] = torch.load(data, weights_only=True, map_location="cpu")
    except InputError:
        raise
    except Exception as error:  # damaged files make the unpickler raise anything
        raise InputError(
            f"checkpoint {storage.uri}/{name}: {_OPTIMIZER} cannot be read ({why_unreadable(error)}): restore it from "
            "a copy"
        ) from error
    return state


def load_state(storage: Storage, name: str) -> dict[str, Any] | None:
    """Where training stood; None where there is no whole checkpoint."""
    state = _sealed_state(storage, name)
    return state and {key: value for key, value in state.items() if key != _FILES}


def weights_checksum(storage: Storage, name: str) -> str:
    """Names the model in the ledger: the first half of the SHA-256 of its weights file."""
    return hashlib.sha256(_read(storage, name, WEIGHTS_FILE)).hexdigest()[:32]


def _unloadable(storage: Storage, name: str, error: Exception) -> InputError:
    return InputError(
        f"checkpoint {storage.uri}/{name} cannot be loaded ({one_line(error)}): name a directory with {MODEL_FILE} and "
        f"{WEIGHTS_FILE} that belong together"
    )


def _read(storage: Storage, name: str, file: str) -> bytes:
    """A file of a checkpoint, as it was written.

    Raises:
        InputError: it is damaged.
    """
    data, state = storage.read(_file(name, file)), _sealed_state(storage, name) or {}
    if state.get(_FILES, {}).get(file) not in (hashlib.sha256(data).hexdigest(), None):
        raise storage.damaged(_file(name, file), f"its SHA-256 is not that in {_STATE}")
    return data


def _sealed_state(storage: Storage, name: str) -> dict[str, Any] | None:
    return storage.read_sealed(_file(name, _STATE)) if storage.exists(_file(name, _STATE)) else None


def _file(name: str, file: str) -> str:
    """A file of a checkpoint, which may be the storage's own directory."""
    return f"{name}/{file}" if name else file
