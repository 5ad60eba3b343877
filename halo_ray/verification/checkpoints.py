"""The checkpoints that stages left: their digests, and whether a model comes out of them."""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from halo_ray.checkpoint import load_model
from halo_ray.errors import one_line
from halo_ray.models.build import MODEL_FILE, WEIGHTS_FILE
from halo_ray.stages import marker_file
from halo_ray.storage import DIGEST
from halo_ray.verification.reader import RESTORE
from halo_ray.verification.subject import Subject

STATE, OPTIMIZER = "training.json", "optimizer.pt"

SHOWN = 200
"""Characters of an error of torch that are shown."""

_TRAINING = re.compile(r"pretrain|rounds/\d{3}/(train|control)")

Shapes = dict[str, torch.Size]


def check_checkpoints(subject: Subject) -> None:
    """Checks the checkpoint of every stage that trained, one at a time, and gives the subject their checksums."""
    networks: dict[bytes, Shapes] = {}
    for stage in sorted(filter(_TRAINING.fullmatch, subject.done)):
        result = subject.result(stage)
        if result is None:
            continue
        with subject.reader.understanding(marker_file(stage)):
            at = stage.rpartition("/")[0]
            expected = {"pretrain": "pretrain/checkpoint", f"{at}/train": f"{at}/checkpoint"}.get(stage, stage)
            if result["checkpoint"] != expected:
                subject.findings.add(
                    marker_file(stage), f"names checkpoint {result['checkpoint']!r}, not {expected!r}: {RESTORE}"
                )
                continue
            _check(subject, stage, expected, result, networks)


def _check(subject: Subject, stage: str, directory: str, result: dict[str, Any], networks: dict[bytes, Shapes]) -> None:
    subject.findings.checked["checkpoints"] += 1
    files = _files(subject, stage, directory, result)
    if WEIGHTS_FILE in files:
        subject.checksums[directory] = hashlib.sha256(files[WEIGHTS_FILE]).hexdigest()[:32]
    if OPTIMIZER in files:
        try:
            torch.load(io.BytesIO(files.pop(OPTIMIZER)), weights_only=True, map_location="cpu")
        except Exception as error:  # damaged files make the unpickler raise anything
            why = one_line(error)[:SHOWN]
            subject.findings.add(f"{directory}/{OPTIMIZER}", f"cannot be loaded ({why}): {RESTORE}")
    if WEIGHTS_FILE in files and MODEL_FILE in files:
        _check_weights(subject, stage, directory, files, networks)


def _files(subject: Subject, stage: str, directory: str, result: dict[str, Any]) -> dict[str, bytes]:
    """The files of a checkpoint that are what was written, by name."""
    reader, state, found = subject.reader, subject.reader.sealed(f"{directory}/{STATE}"), {}
    digests: dict[str, str] = {}
    with reader.understanding(f"{directory}/{STATE}"):
        if state is not None:
            digests = dict(state.get("files", {}))
            if state["bad_steps"] != result["bad_steps"]:
                subject.findings.add(
                    f"{directory}/{STATE}",
                    f"left out steps {state['bad_steps']}, {marker_file(stage)} says {result['bad_steps']}: {RESTORE}",
                )
    for file in (MODEL_FILE, WEIGHTS_FILE, OPTIMIZER):
        name = f"{directory}/{file}"
        data = reader.read(name)
        if data is None:
            continue
        # Where the state is damaged, that was said.
        if state is not None and digests.get(file) != hashlib.sha256(data).hexdigest():
            subject.findings.add(name, f"is damaged (its {DIGEST} is not that in {STATE}): {RESTORE}")
        else:
            found[file] = data
    return found


def _check_weights(
    subject: Subject, stage: str, directory: str, files: dict[str, bytes], networks: dict[bytes, Shapes]
) -> None:
    """Checks that weights are finite and fit their network; those of one network are built once.

    Args:
        networks: the shapes of the weights of those that were built, by the content of their model.json.
    """
    name, described = f"{directory}/{WEIGHTS_FILE}", files[MODEL_FILE]
    try:
        weights = load(files[WEIGHTS_FILE])
    except (SafetensorError, ValueError) as error:
        subject.findings.add(name, f"cannot be loaded ({one_line(error)}): {RESTORE}")
        return
    if described not in networks:
        model = subject.reader.tried(directory, lambda: load_model(subject.reader.storage, directory))
        if model is None:
            return
        networks[described] = {key: value.shape for key, value in model.state_dict().items()}
    if {key: value.shape for key, value in weights.items()} != networks[described]:
        subject.findings.add(name, f"are not the weights of the network in {MODEL_FILE}: {RESTORE}")
    broken = [key for key, value in weights.items() if not _is_finite(value)]
    if broken:
        subject.findings.add(
            name,
            f"has NaN or infinite weights, first in {broken[0]}: delete {marker_file(stage)} and the markers of all "
            "that came after it",
        )


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())
