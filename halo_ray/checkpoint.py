"""Checkpoints: a directory with the architecture (JSON), the weights (safetensors) and the optimizers' state.

Nothing in them is code: they are read without unpickling anything but tensors. Loading a model needs no Ray.
"""

from __future__ import annotations

import io
import json
from typing import Any

import torch
from safetensors.torch import load, save

from halo_ray.checkpoint_files import DIGESTS, STATE, file_of, read_checkpoint_file, sealed_state
from halo_ray.errors import InputError, one_line
from halo_ray.models.build import MODEL_FILE, WEIGHTS_FILE, rebuild_model
from halo_ray.models.pretrained import why_unreadable
from halo_ray.models.segmenter import Segmenter
from halo_ray.storage import Storage, round_directory, sealed, sha256

_OPTIMIZER = "optimizer.pt"

CHECKPOINT_FILES = (MODEL_FILE, WEIGHTS_FILE, _OPTIMIZER, STATE)
"""All that one has."""


def scoring_checkpoint(number: int) -> str:
    """The checkpoint whose model scores the pool for a round, whatever the round's training begins with."""
    return "pretrain/checkpoint" if number == 1 else f"{round_directory(number - 1)}/checkpoint"


def checkpoint_stage(name: str) -> str:
    """The stage that trained the model of a checkpoint."""
    at = name.rpartition("/")[0]
    return at if at == "pretrain" else f"{at}/train"


def write_checkpoint(
    storage: Storage,
    name: str,
    description: dict[str, Any],
    model: Segmenter,
    optimizer: dict[str, Any],
    state: dict[str, Any],
) -> None:
    """Commits a checkpoint in the directory ``name``.

    Args:
        description: as given by describe_model; what else it holds (class names, input size) is kept too.
        optimizer: state of the optimizers.
        state: JSON-able, where training stands; written last, so that a checkpoint that has one is whole.
    """
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    files = {
        MODEL_FILE: (json.dumps(description, indent=1, allow_nan=False) + "\n").encode(),
        WEIGHTS_FILE: save(weights),
        _OPTIMIZER: buffer.getvalue(),
    }
    digests = {file: sha256(data) for file, data in files.items()}
    whole = sealed({**state, DIGESTS: digests})
    if storage.exists(file_of(name, STATE)) and storage.read(file_of(name, STATE)) != whole:
        storage.delete(file_of(name, STATE))  # until all files are those of the new one
    for file, data in files.items():
        storage.commit(file_of(name, file), data)
    storage.commit(file_of(name, STATE), whole)


def load_model(storage: Storage, name: str) -> Segmenter:
    """The model of the checkpoint directory ``name``, in evaluation mode on the CPU, in the dtype of its weights.

    Raises:
        InputError: there is no whole checkpoint.
    """
    try:
        description, data = load_description(storage, name), read_checkpoint_file(storage, name, WEIGHTS_FILE)
    except OSError as error:
        raise _unloadable(storage, name, error) from error
    try:
        weights = load(data)
        model = rebuild_model(description, weights)
        model.to(weights["head.classifier.weight" if model.curvature == 0 else "head.classifier.normals"].dtype)
        model.load_state_dict(weights)
    except Exception as error:  # a damaged description makes transformers raise anything
        raise _unloadable(storage, name, error) from error
    return model.eval()


def load_description(storage: Storage, name: str) -> dict[str, Any]:
    """What describes the model of a checkpoint."""
    try:
        description = json.loads(read_checkpoint_file(storage, name, MODEL_FILE))
    except ValueError as error:
        raise storage.damaged(file_of(name, MODEL_FILE), error) from error
    if not isinstance(description, dict):
        raise storage.damaged(file_of(name, MODEL_FILE), "it describes no model")
    return description


def load_optimizer_state(storage: Storage, name: str) -> dict[str, Any]:
    """The state of the optimizers that the checkpoint ``name`` was written with.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        data = io.BytesIO(read_checkpoint_file(storage, name, _OPTIMIZER))
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
    state = sealed_state(storage, name)
    return state and {key: value for key, value in state.items() if key != DIGESTS}


def weights_checksum(storage: Storage, name: str) -> str:
    """Names the model in the ledger: the first half of the SHA-256 of its weights file."""
    return sha256(read_checkpoint_file(storage, name, WEIGHTS_FILE))[:32]


def _unloadable(storage: Storage, name: str, error: Exception) -> InputError:
    return InputError(
        f"checkpoint {storage.uri}/{name} cannot be loaded ({one_line(error)}): name a directory with {MODEL_FILE} and "
        f"{WEIGHTS_FILE} that belong together"
    )
