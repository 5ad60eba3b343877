"""Whether all nodes see the files of an experiment: asked before any work."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from halo_ray.errors import InputError, one_line
from halo_ray.execution import ExecutionConfig
from halo_ray.storage import WRITE_TEST, Storage


def check_shared(storage: Storage, config: ExecutionConfig, files: Collection[str] = ()) -> None:
    """Raises InputError where a node that computes does not see ``storage`` or one of the local ``files``."""
    nodes = _nodes_that_compute()
    others = nodes - {ray.get_runtime_context().get_node_id()}
    name = storage.path(f"{WRITE_TEST}{uuid.uuid4().hex}")
    looked = [*files, *([name] if storage.local else [])]
    if not others or not looked:
        return
    if storage.local:
        storage.write(name.removeprefix(storage.path("")), b"")
    try:
        missing = _missing_on(others, looked, config.node_seconds)
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


def _missing_on(nodes: Collection[str], files: list[str], seconds: float) -> list[list[str]]:
    """Those of the files that each node does not see; nodes that are gone meanwhile are left out.

    Raises:
        InputError: a node does not answer, as where a mount hangs, or cannot run what a job asks of it.
    """
    task = ray.remote(num_cpus=0)(_missing)
    asked: dict[Any, str] = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node, soft=False)
        asked[task.options(scheduling_strategy=place).remote(files)] = node
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
    for reference in late:
        ray.cancel(reference, force=True)
    silent = {asked[reference] for reference in late} & _nodes_that_compute()
    if silent:
        raise InputError(
            f"{len(silent)} of {len(nodes)} other nodes did not say in {seconds:g} s (execution.node_seconds) whether "
            f"they see {files[0]}: check the mounts and the environment of node {min(silent)}, or wait longer"
        )
    return [found for reference in done if (found := _answer(reference, asked[reference])) is not None]


def _answer(reference: Any, node: str) -> list[str] | None:
    """What a node said; None where it is gone."""
    try:
        found: list[str] = ray.get(reference)
    except RayError as error:
        if node not in _nodes_that_compute():
            return None
        raise InputError(
            f"node {node} of the Ray cluster cannot run what a job asks of it ({one_line(error)[-300:]}): check its "
            "environment, or end it"
        ) from error
    return found


def _missing(files: list[str]) -> list[str]:
    """Those that do not exist on this node."""
    return [file for file in files if not os.path.exists(file)]
