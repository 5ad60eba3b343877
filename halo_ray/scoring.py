"""The pool through the network: the best candidate regions of every image, to Parquet; and their global selection."""

from __future__ import annotations

import io
import uuid
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.actor import ActorProxy

from halo_ray.acquisition.budget import AcquisitionConfig, RoundPlan, image_limit
from halo_ray.acquisition.regions import exclusion_mask, pick_regions
from halo_ray.acquisition.scores import acquisition_map, describe_pixels, entropy_map, radius_map
from halo_ray.acquisition.stochastic import stochastic_keys
from halo_ray.acquisition.threshold import histogram
from halo_ray.annotations.ledger import Ledger
from halo_ray.checkpoint import load_model
from halo_ray.context import Context
from halo_ray.coordinator import Coordinator, coordinator
from halo_ray.data.decoding import DecodeImages, pixels
from halo_ray.models.segmenter import Segmentation
from halo_ray.pipeline import compute_on_actors
from halo_ray.progress import progress
from halo_ray.storage import Storage, round_directory

CANDIDATES = pa.schema(
    [
        ("image_id", pa.string()),
        ("score", pa.float32()),
        ("y", pa.uint16()),
        ("x", pa.uint16()),
        ("radius", pa.float32()),
        ("entropy", pa.float32()),
        ("guess", pa.uint8()),
        ("probability", pa.float32()),
    ]
)
"""One row per candidate region; y and x are pixels of its centre at label resolution."""

SCORING_THREADS = 1
"""Torch threads of a scoring actor: fixed, because their number changes the last bits of a score."""


@dataclass(frozen=True)
class ScoringJob:
    """What a scoring actor must know."""

    storage_uri: str
    checkpoint: str
    input_size: tuple[int, int]
    acquisition: AcquisitionConfig
    plan: RoundPlan
    pool_pixels: int
    seed: int
    maps: str | None
    """Directory of the storage for the maps of every image; None: they are not kept."""


class Scorer:
    """Scores images one by one; the class that the actors of the pool run."""

    def __init__(self, job: ScoringJob, coordinator: ActorProxy[Coordinator], device: str) -> None:
        torch.set_num_threads(SCORING_THREADS)
        self._job, self._coordinator, self._device = job, coordinator, device
        self._storage = Storage(job.storage_uri)
        self._model = load_model(self._storage, job.checkpoint).to(device)
        self._bound = float("-inf")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Candidates (CANDIDATES) of decoded pool images with the regions asked before (asked_y, asked_x)."""
        tables = [self._candidates(row) for row in batch.to_pylist()]
        found = {
            image_id: histogram(table["score"].to_numpy())
            for image_id, table in zip(batch["image_id"].to_pylist(), tables, strict=True)
        }
        self._bound = ray.get(self._coordinator.add.remote(found))
        return pa.concat_tables(tables)

    def _candidates(self, row: dict[str, Any]) -> pa.Table:
        job, size = self._job, (row["height"], row["width"])
        with torch.inference_mode():
            image = torch.from_numpy(pixels(row["image"], *job.input_size, 3))
            said = self._model(image[None].to(self._device))
            score = acquisition_map(
                job.acquisition.function,
                said.logits,
                said.embedding,
                size,
                curvature=self._model.curvature,
                region_radius=job.acquisition.region_radius,
                normalize=job.acquisition.normalize,
                uncertainty=job.acquisition.uncertainty,
                image_ids=[row["image_id"]],
                seed=job.seed,
            )[0].cpu()
            score = stochastic_keys(score, beta=job.acquisition.selection_beta, seed=job.seed, image_id=row["image_id"])
            asked = exclusion_mask(
                size, torch.tensor(row["asked_y"]), torch.tensor(row["asked_x"]), job.acquisition.window_radius
            )
            picks = pick_regions(
                score,
                image_limit(job.acquisition, size, job.plan, job.pool_pixels),
                region_radius=job.acquisition.region_radius,
                exclusion_radius=job.acquisition.exclusion_radius,
                taken=asked,
                bound=self._bound,
            )
            described = describe_pixels(
                said.logits,
                said.embedding,
                picks.y.to(self._device),
                picks.x.to(self._device),
                size,
                curvature=self._model.curvature,
            )
            if job.maps is not None:
                self._save_maps(f"{job.maps}/{map_name(row['image_id'])}", said, score)
        columns = {"image_id": [row["image_id"]] * len(picks.y), **picks._asdict(), **described._asdict()}
        arrays = [
            pa.array(values.cpu().numpy() if isinstance(values, torch.Tensor) else values, CANDIDATES.field(name).type)
            for name, values in ((name, columns[name]) for name in CANDIDATES.names)
        ]
        return pa.Table.from_arrays(arrays, schema=CANDIDATES)

    def _save_maps(self, name: str, said: Segmentation, score: torch.Tensor) -> None:
        size = (score.shape[0], score.shape[1])
        maps = {
            "radius": radius_map(said.embedding, size, self._model.curvature)[0],
            "entropy": entropy_map(said.logits, size)[0],
            "score": score,
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **{key: m.cpu().half().numpy() for key, m in maps.items()})
        self._storage.write(name, buffer.getvalue())


def score_pool(context: Context, number: int, checkpoint: str) -> dict[str, Any]:
    """Scores every pool image for round ``number`` with the model of ``checkpoint``.

    Returns:
        JSON-able: ``candidates``, the directory of the storage that holds them as Parquet (CANDIDATES).
    """
    config, storage = context.config, context.storage
    plan, pool = context.plan[number - 1], context.splits.pool
    # A fresh directory for every attempt: nothing that a killed one left, or still writes, is ever read.
    directory = f"{round_directory(number)}/candidates/{uuid.uuid4().hex[:8]}"
    storage.clear(f"{round_directory(number)}/candidates")
    storage.filesystem.create_dir(storage.path(directory), recursive=True)
    job = ScoringJob(
        storage_uri=storage.uri,
        checkpoint=checkpoint,
        input_size=context.input_size,
        acquisition=config.acquisition,
        plan=plan,
        pool_pixels=context.splits.pool_pixels,
        seed=context.round_seed(number),
        maps=None if config.execution.save_maps == "none" else f"{round_directory(number)}/maps",
    )
    with coordinator(storage.uri, number, _wanted(context, number)) as actor:
        candidates = compute_on_actors(
            _with_asked_regions(pool, Ledger(storage), number),
            DecodeImages(context.input_size),
            Scorer,
            {"job": job, "coordinator": actor},
            config.execution,
        )
        with progress(f"round {number} score", pool.num_rows, "image", lambda: ray.get(actor.images.remote())):
            candidates.write_parquet(storage.path(directory), filesystem=storage.filesystem)
    return {"candidates": directory}


def select_regions(context: Context, number: int, candidates: str) -> dict[str, Any]:
    """The regions that round ``number`` buys, from the stored ``candidates``; committed as selection.json."""
    plan = context.plan[number - 1]
    with coordinator(context.storage.uri, number, _wanted(context, number)) as actor:
        selection: dict[str, Any] = ray.get(actor.select.remote(context.storage.uri, candidates))
    stored = selection.pop("candidates")  # depends on how early the bound was known, the selection does not
    selection = {"round": number, "planned": asdict(plan), **selection}
    if selection["regions"] < plan.regions:
        print(
            f"round {number}: only {selection['regions']} of {plan.regions} regions could still be picked", flush=True
        )
    directory = round_directory(number)
    if context.config.execution.save_maps == "picked":
        _drop_maps(context.storage, f"{directory}/maps", keep=set(map(map_name, selection["counts"])))
    context.storage.write_json(f"{directory}/selection.json", selection)
    return {"selection": f"{directory}/selection.json", "regions": selection["regions"], "candidates": stored}


def _wanted(context: Context, number: int) -> int | None:
    """Regions that the coordinator cuts the pool to; None where every image has its own share."""
    return context.plan[number - 1].regions if context.config.acquisition.scope == "pool" else None


def map_name(image_id: str) -> str:
    """File name of an image's maps; an id may hold slashes."""
    return f"{quote(image_id, safe='')}.npz"


def _with_asked_regions(pool: pa.Table, ledger: Ledger, number: int) -> pa.Table:
    asked = ledger.asked_regions(number)
    rows = [asked.get(image_id, ([], [])) for image_id in pool["image_id"].to_pylist()]
    places = pa.list_(pa.int64())
    pool = pool.append_column("asked_y", pa.array([y for y, _ in rows], places))
    return pool.append_column("asked_x", pa.array([x for _, x in rows], places))


def _drop_maps(storage: Storage, directory: str, keep: set[str]) -> None:
    for path in storage.files(directory):
        if path.rpartition("/")[2] not in keep:
            storage.filesystem.delete_file(path)
