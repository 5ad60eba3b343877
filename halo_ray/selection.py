"""The global selection of a round: which of the stored candidates are bought."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
from ray.actor import ActorProxy

from halo_ray.acquisition.budget import region_pixels
from halo_ray.acquisition.threshold import Selection
from halo_ray.candidates import ReadCandidates, candidate_files, compared_directory, complete
from halo_ray.cluster import here
from halo_ray.context import Context
from halo_ray.coordinator import Coordinator
from halo_ray.runtime import NAMESPACE
from halo_ray.secret import shown
from halo_ray.storage import Storage, round_directory, safe_name, sealed

TIE_RULE = "score falling, then image_id, y, x rising"


@contextmanager
def coordinator(context: Context, number: int, functions: Sequence[str] = ()) -> Iterator[ActorProxy[Coordinator]]:
    """A coordinator for one attempt at a stage of a round; it outlives the failure of its process, not the stage.

    Every attempt has a name of its own: what another one left must not prune this one's candidates.

    Args:
        functions: acquisition functions whose scores it will hear of.
    """
    wanted = context.plan[number - 1].regions if context.config.acquisition.scope == "pool" else None
    options = {
        "name": f"coordinator/{shown(context.storage.uri)}/{number}/{uuid.uuid4().hex[:8]}",
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "scheduling_strategy": here(),
        "max_restarts": -1,
        "max_task_retries": -1,
    }
    images, sequences = context.splits.pool.num_rows, context.sequences(number)
    actor = ray.remote(Coordinator).options(**options).remote(images, wanted, sequences, functions)
    try:
        yield actor
    finally:
        ray.kill(actor)


def map_name(image_id: str) -> str:
    """File name of an image's maps; an id may hold slashes."""
    return f"{safe_name(image_id)}.npz"


def select_regions(
    context: Context, number: int, candidates: dict[str, str], audit: dict[str, Any], problems: list[dict[str, Any]]
) -> dict[str, Any]:
    """The regions that round ``number`` buys, from the stored candidates; committed as selection.json.

    What other acquisition functions would have bought is written beside it, as compared/FUNCTION.json.

    Args:
        candidates, audit, problems: as score_pool gives them.

    Returns:
        JSON-able: ``selection``, the file; ``candidates``, the directory it chose from; ``regions`` chosen; ``audit``:
        candidates found, pruned and stored, threshold, share of the pool bought. The audit depends on how early the
        bound was known, the selection does not.
    """
    storage, at = context.storage, round_directory(number)
    own = context.config.acquisition.function
    files = {name: f"{at}/selection.json" if name == own else compared_file(number, name) for name in candidates}
    read = ReadCandidates(storage)
    with coordinator(context, number) as actor:
        cuts = {
            name: actor.select.remote(read, candidate_files(storage, directory))
            for name, directory in candidates.items()
        }
        found: dict[str, Selection] = {name: ray.get(cut) for name, cut in cuts.items()}
    for name, selection in found.items():
        storage.commit(files[name], sealed(_description(context, number, name, selection, problems)))
    chosen, planned = found[own], context.plan[number - 1].regions
    regions = int(chosen.counts.sum())
    if chosen.cut is not None:
        context.gauges.set("threshold", chosen.cut[0], stage=f"{at}/select")
    if regions < planned:
        print(f"round {number}: only {regions} of {planned} regions could still be picked: all were bought", flush=True)
    if context.config.execution.save_maps == "picked":
        ids = context.splits.pool["image_id"]
        drop_maps(storage, f"{at}/maps", ids.to_pylist(), keep=ids.take(chosen.rows).to_pylist())
    if context.config.execution.save_maps != "none":
        complete(storage, f"{at}/maps")
    return {
        "selection": files[own],
        "candidates": candidates[own],
        "regions": regions,
        "audit": {
            **audit[own],
            "stored": chosen.candidates,
            "threshold": None if chosen.cut is None else chosen.cut[0],
            "budget_used": regions * region_pixels(context.config.acquisition) / context.splits.pool_pixels,
        },
    }


def compared_file(number: int, function: str) -> str:
    """Where the selection of a function that is only compared is stored."""
    return f"{compared_directory(round_directory(number))}/{safe_name(function)}.json"


def _description(
    context: Context, number: int, function: str, selection: Selection, problems: list[dict[str, Any]]
) -> dict[str, Any]:
    pool = context.splits.pool["image_id"]
    cut = None if selection.cut is None else {"score": selection.cut[0], "image_id": pool[selection.cut[1]].as_py()}
    return {
        "round": number,
        "function": function,
        "planned": asdict(context.plan[number - 1]),
        "regions": int(selection.counts.sum()),
        "cut": cut,
        "order": TIE_RULE,
        "counts": dict(zip(pool.take(selection.rows).to_pylist(), selection.counts.tolist(), strict=True)),
        "problems": sorted(problems, key=lambda problem: problem["image_id"]),
    }


def drop_maps(storage: Storage, directory: str, ids: Iterable[str], keep: Iterable[str]) -> None:
    """Deletes the maps of all images but those to keep; a file that is none of theirs stays."""
    dropped = {map_name(image_id) for image_id in ids} - {map_name(image_id) for image_id in keep}
    for name in storage.files(directory):
        if name.rpartition("/")[2] in dropped:
            storage.delete(name)
