"""Whether all nodes see the files of an experiment: asked before any work."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from halo_ray.errors import InputError
from halo_ray.storage import Storage

ANSWER_SECONDS = 120
"""Longest wait for a node to say what it sees."""


def check_shared(storage: Storage, files: Collection[str] = ()) -> None:
    """Raises InputError where a node that computes does not see ``storage`` or one of the local ``files``."""
    nodes = _nodes_that_compute()
    others = nodes - {ray.get_runtime_context().get_node_id()}
    name = storage.path(f"seen-{uuid.uuid4().hex}")
    looked = [*files, *([name] if storage.local else [])]
    if not others or not looked:
        return
    if storage.local:
        storage.write(name.removeprefix(storage.path("")), b"")
    try:
        missing = _missing_on(others, looked)
    finally:
        if storage.local:
            storage.filesystem.delete_file(name)
    for file in looked:
        blind = sum(file in found for found in missing)
        what = f"output_dir {storage.uri}" if file == name else file
        if blind:
            raise InputError(
                f"{what} is not seen by {blind} of {len(nodes)} nodes: name a shared filesystem or an object store"
            )


def _nodes_that_compute() -> set[str]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return {node["NodeID"] for node in nodes if node["Resources"].get("CPU") or node["Resources"].get("GPU")}


def _missing_on(nodes: Collection[str], files: list[str]) -> list[list[str]]:
    """Those of the files that each node does not see; nodes that are gone meanwhile are left out.

    Raises:
        InputError: a node does not answer, as where a mount hangs.
    """
    task = ray.remote(num_cpus=0)(_missing)
    asked: dict[Any, str] = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[task.options(scheduling_strategy=place).remote(files)] = node
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    for reference in late:
        ray.cancel(reference, force=True)
    silent = {asked[reference] for reference in late} & _nodes_that_compute()
    if silent:
        raise InputError(
            f"{len(silent)} of {len(nodes)} other nodes did not say in {ANSWER_SECONDS} s whether they see {files[0]}: "
            f"check the mounts of node {min(silent)}, or end it"
        )
    return [found for found in map(_answer, done) if found is not None]


def _answer(reference: Any) -> list[str] | None:
    """What a node said; None where it is gone."""
    try:
        found: list[str] = ray.get(reference)
    except RayError:
        return None
    return found


def _missing(files: list[str]) -> list[str]:
    """Those that do not exist on this node."""
    return [file for file in files if not os.path.exists(file)]
