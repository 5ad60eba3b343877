"""What the Ray cluster has and may grow to: devices, training processes, places of light actors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import ray
from ray import ActorID, PlacementGroupID
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state
from ray.autoscaler._private.util import format_readonly_node_type
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from halo_ray.errors import InputError
from halo_ray.execution import ExecutionConfig

ANYWHERE = "DEFAULT"
"""Scheduling strategy of tasks that must not be caught in the placement group of the trial that starts them. Ray's
default strategy takes nodes without a GPU first."""


def most(kind: str) -> float:
    """How much of a resource the cluster has, or may have once its autoscaler has added all that it says it can."""
    later = (state.get_max_resources_from_cluster_config() or {}).get(kind) or 0
    return max(float(ray.cluster_resources().get(kind, 0)), float(later))


def autoscales() -> bool:
    """Whether an autoscaler may add nodes."""
    if state.get_max_resources_from_cluster_config():
        return True
    # The first autoscaler does not say what it can add. Without one, nodes have types that are made from their ids.
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}")
    report = status.get("autoscaler_report") or {}
    types = {*(report.get("active_nodes") or {}), *(report.get("node_type_mapping") or {}).values()}
    return bool(types - {format_readonly_node_type(node["NodeID"]) for node in ray.nodes()})


def device_of(config: ExecutionConfig) -> Literal["cpu", "cuda"]:
    """Where training and inference run."""
    if config.device != "auto":
        return config.device
    return "cuda" if most("GPU") > 0 else "cpu"


def uses_gpu(config: ExecutionConfig) -> bool:
    """Whether training and inference run on GPUs."""
    return device_of(config) == "cuda"


def training_workers(config: ExecutionConfig, batches: Sequence[int], limit: int) -> int | tuple[int, int]:
    """Training processes, or the fewest and most of them; 0 for the driver's own.

    Where none are asked for, as many GPUs as divide all ``batches``, and no more than ``limit``.
    """
    if config.num_workers is not None:
        return config.num_workers
    gpu = uses_gpu(config)
    numbers = range(1, int(min(most("GPU"), limit)) + 1) if gpu else ()
    # A head without work has no CPUs to give, and seldom a GPU.
    least = 1 if gpu or not _resources_here().get("CPU") else 0
    return max((n for n in numbers if all(batch % n == 0 for batch in batches)), default=least)


def here() -> NodeAffinitySchedulingStrategy:
    """The place for actors that compute nothing: beside the driver, where they neither need nor keep another node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def has_unlike_nodes() -> bool:
    """Whether some of the nodes that compute have a GPU and some have none."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    return len({bool(resources.get("GPU")) for resources in nodes}) > 1


def keep_stream_actors_here() -> None:
    """Starts the actors that Ray Data keeps for as long as the cluster lives beside the driver.

    They stay on the node of whoever streams first. That was a training process, whose node was never given back.
    """
    # Not for the actors that show progress: it takes seconds to import.
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )
    from ray.data._internal.execution.node_trackers.actor_location import get_or_create_actor_location_tracker
    from ray.data._internal.stats import get_or_create_stats_actor

    get_or_create_stats_actor()
    get_or_create_actor_location_tracker()
    get_or_create_autoscaling_coordinator()


def remove_orphaned_groups() -> None:
    """Gives back what controllers of Ray Train that died had reserved for their workers in this job.

    Ray keeps a placement group as long as the job of its creator lives, and what cleans up after a controller does not
    know of one that was made a moment before.
    """
    own = ray.get_runtime_context().get_job_id()
    for data in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(data)
        of_this_job, creator = group.creator_job_id.hex() == own, ActorID(group.creator_actor_id)
        orphaned = group.creator_actor_dead and not creator.is_nil()  # else it is the driver's
        if of_this_job and orphaned and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def wait_for_node(config: ExecutionConfig) -> None:
    """Waits until the cluster has a node that can compute; an autoscaler adds the first one when it is asked for.

    Raises:
        InputError: there is none, and none can be added, or was within execution.node_seconds.
    """
    kind, amount = ("GPU", 1.0) if uses_gpu(config) else ("CPU", min(1.0, config.cpus_per_actor))
    if ray.cluster_resources().get(kind, 0) >= amount:
        return
    advice = "use auto or cpu, or add one" if kind == "GPU" else "add a node with some"
    what = "execution.device is cuda, but" if kind == "GPU" else "nothing can be computed, since"
    if not autoscales():
        raise InputError(f"{what} the Ray cluster has no {kind}: {advice}")
    print(f"waiting for a node with a {kind}, which the cluster's autoscaler is asked for", flush=True)
    probe = ray.remote(scheduling_strategy=ANYWHERE, **{f"num_{kind.lower()}s": amount})(lambda: None)
    asked = probe.remote()
    done, _ = ray.wait([asked], timeout=config.node_seconds)
    if not done:
        ray.cancel(asked, force=True)
        raise InputError(
            f"{what} the autoscaler of the Ray cluster added no {kind} in {config.node_seconds:g} s "
            f"(execution.node_seconds): {advice}, or wait longer"
        )


def _resources_here() -> dict[str, Any]:
    own = ray.get_runtime_context().get_node_id()
    return next((dict(node["Resources"]) for node in ray.nodes() if node["NodeID"] == own), {})
