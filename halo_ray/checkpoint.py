"""Checkpoints: a directory with the architecture (JSON), the weights (safetensors) and the optimizer's state.

Nothing in them is code: they are read without unpickling anything but tensors.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from halo_ray.models.build import rebuild_model
from halo_ray.models.segmenter import Segmenter
from halo_ray.storage import Storage

_MODEL, _WEIGHTS, _OPTIMIZER = "model.json", "model.safetensors", "optimizer.pt"


def write_checkpoint(
    directory: Path, description: dict[str, Any], model: Segmenter, optimizer: torch.optim.Optimizer
) -> None:
    """Writes a checkpoint to a local directory; ``description`` as given by describe_model."""
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    (directory / _MODEL).write_text(json.dumps(description))
    (directory / _WEIGHTS).write_bytes(save(weights))
    torch.save(optimizer.state_dict(), directory / _OPTIMIZER)


def load_model(storage: Storage, name: str) -> Segmenter:
    """The model of the checkpoint directory ``name``, in evaluation mode on the CPU."""
    model = rebuild_model(json.loads(storage.read(f"{name}/{_MODEL}")))
    model.load_state_dict(load(storage.read(f"{name}/{_WEIGHTS}")))
    return model.eval()


def load_optimizer_state(storage: Storage, name: str) -> dict[str, Any]:
    data = io.BytesIO(storage.read(f"{name}/{_OPTIMIZER}"))
    state: dict[str, Any] = torch.load(data, weights_only=True, map_location="cpu")
    return state


def weights_checksum(storage: Storage, name: str) -> str:
    """Names the model in the ledger: the first half of the SHA-256 of its weights file."""
    return hashlib.sha256(storage.read(f"{name}/{_WEIGHTS}")).hexdigest()[:32]
