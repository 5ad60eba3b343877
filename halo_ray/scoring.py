"""The pool through the network: the best candidate regions of every image, to Parquet."""

from __future__ import annotations

import io
import json
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import torch
from ray.actor import ActorProxy

from halo_ray.acquisition.bound import histogram
from halo_ray.acquisition.budget import AcquisitionConfig, RoundPlan, image_limit
from halo_ray.acquisition.candidates import Found, Image, find_candidates, taken_places
from halo_ray.acquisition.maps import Maps
from halo_ray.annotations.ledger import Ledger
from halo_ray.candidates import CANDIDATES
from halo_ray.checkpoint import load_model
from halo_ray.context import Context
from halo_ray.coordinator import Coordinator, Report
from halo_ray.data.decoding import DecodeImages, pixels
from halo_ray.errors import InputError
from halo_ray.models.segmenter import Segmentation
from halo_ray.pipeline import compute_on_actors
from halo_ray.progress import progress
from halo_ray.selection import coordinator, map_name
from halo_ray.storage import Storage, round_directory

SCORING_THREADS = 1
"""Torch threads of a scoring actor: fixed, because their number changes the last bits of a score."""

FILE_BYTES = 4 * 2**20
"""Least size of a file of candidates in memory, so that a large pool does not leave a file for every few images."""


@dataclass(frozen=True)
class ScoringJob:
    """What a scoring actor must know."""

    storage_uri: str
    checkpoint: str
    input_size: tuple[int, int]
    acquisition: AcquisitionConfig
    functions: tuple[str, ...]
    """Acquisition functions that are scored in one pass."""
    plan: RoundPlan
    pool_pixels: int
    seed: int
    never: npt.NDArray[np.bool_] | None
    """(H, W): where nothing is ever picked."""
    maps: str | None
    """Directory of the storage for the maps of every image; None: they are not kept."""
    problems: str
    """Directory of the storage that names the images that could not be scored."""


class Scorer:
    """Scores images one by one; the class that the actors of the pool run."""

    def __init__(self, job: ScoringJob, coordinator: ActorProxy[Coordinator], device: str) -> None:
        torch.set_num_threads(SCORING_THREADS)
        self._job, self._coordinator, self._device = job, coordinator, device
        self._storage = Storage(job.storage_uri)
        self._model = load_model(self._storage, job.checkpoint).to(device)
        self._never = None if job.never is None else torch.from_numpy(job.never)
        self._bounds = dict.fromkeys(job.functions, float("-inf"))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Candidates (CANDIDATES) of decoded pool images with the regions asked before (asked_y, asked_x)."""
        tables, reports = [CANDIDATES.empty_table()], {}
        for row in batch.to_pylist():
            image = self._image(row)
            with torch.inference_mode():
                said = self._segment(row)
                if said is None:
                    continue
                found, maps = find_candidates(
                    said,
                    image,
                    self._job.acquisition,
                    curvature=self._model.curvature,
                    seed=self._job.seed,
                    bounds=self._bounds,
                )
                if self._job.maps is not None:
                    own = found[self._job.acquisition.function]
                    self._save_maps(f"{self._job.maps}/{map_name(image.image_id)}", maps, own)
            tables += [_table(row, name, own) for name, own in found.items()]
            reports[row["row"]] = {name: self._report(own, name, image) for name, own in found.items()}
        now = ray.get(self._coordinator.add.remote(reports))
        # A coordinator that was restarted knows less than it once did; what it said then still holds.
        self._bounds = {name: max(bound, now[name]) for name, bound in self._bounds.items()}
        joint = pa.concat_tables(tables)
        bounds = [np.float32(self._bounds[name]) for name in joint["function"].to_pylist()]
        return joint.filter(pa.array(joint["score"].to_numpy() >= np.array(bounds, np.float32)))

    def _image(self, row: dict[str, Any]) -> Image:
        job, size = self._job, (row["height"], row["width"])
        asked = torch.tensor(row["asked_y"]), torch.tensor(row["asked_x"])
        return Image(
            row["image_id"],
            size,
            image_limit(job.acquisition, size, job.plan, job.pool_pixels),
            taken_places(size, *asked, job.acquisition, self._never),
        )

    def _segment(self, row: dict[str, Any]) -> Segmentation | None:
        """What the network says of an image; None, and a file that says why, where it failed twice."""
        image = torch.from_numpy(pixels(row["image"], *self._job.input_size, 3))[None]
        try:
            try:
                result: Segmentation = self._model(image.to(self._device))
            except RuntimeError:  # out of memory, most often: once more, with all there is
                if self._device != "cpu":
                    torch.cuda.empty_cache()
                result = self._model(image.to(self._device))
            return result
        except (RuntimeError, InputError) as error:
            problem = {"image_id": row["image_id"], "problem": str(error).splitlines()[0]}
            self._storage.write_json(f"{self._job.problems}/{quote(row['image_id'], safe='')}.json", problem)
            return None

    def _report(self, found: Found, name: str, image: Image) -> Report:
        fewer = image.limit - len(found.picks.y) if np.isfinite(self._bounds[name]) else 0
        return Report(histogram(found.picks.score.numpy()), pruned=fewer)

    def _save_maps(self, name: str, maps: Maps, found: Found) -> None:
        kept = {"radius": maps.radius[0], "entropy": maps.entropy[0], "score": found.score}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **{key: m.cpu().half().numpy() for key, m in kept.items()})
        self._storage.write(name, buffer.getvalue())


def score_pool(context: Context, number: int, checkpoint: str) -> dict[str, Any]:
    """Scores every pool image for round ``number`` with the model of ``checkpoint``.

    Returns:
        JSON-able: ``candidates``, by acquisition function the directory of the storage that holds them as Parquet
        (CANDIDATES); ``audit``, by function what the coordinator saw; ``problems``, image_id and problem of the images
        that could not be scored.

    Raises:
        InputError: no image could be scored.
    """
    config, storage = context.config, context.storage
    pool, at = context.splits.pool, round_directory(number)
    # A fresh directory for every attempt: nothing that a killed one left, or still writes, is ever read.
    attempt = uuid.uuid4().hex[:8]
    directory = f"{at}/candidates/{attempt}"
    for name in ("candidates", "problems"):
        storage.clear(f"{at}/{name}")
    storage.filesystem.create_dir(storage.path(directory), recursive=True)
    functions = scored_functions(context)
    job = ScoringJob(
        storage_uri=storage.uri,
        checkpoint=checkpoint,
        input_size=context.input_size,
        acquisition=config.acquisition,
        functions=functions,
        plan=context.plan[number - 1],
        pool_pixels=context.splits.pool_pixels,
        seed=context.round_seed(number),
        never=context.never,
        maps=None if config.execution.save_maps == "none" else f"{at}/maps",
        problems=f"{at}/problems/{attempt}",
    )
    with coordinator(context, number, functions) as actor:
        candidates = compute_on_actors(
            _with_asked_regions(pool, Ledger(storage), number),
            DecodeImages(context.input_size),
            Scorer,
            {"job": job, "coordinator": actor},
            config.execution,
        )
        with progress(f"round {number} score", pool.num_rows, "image", lambda: ray.get(actor.images.remote())):
            candidates.write_parquet(
                storage.path(directory),
                filesystem=storage.filesystem,
                partition_cols=["function"],
                min_bytes_per_file=FILE_BYTES,
            )
        audit, speed = ray.get([actor.audit.remote(), actor.images_per_second.remote()])
    return {
        "candidates": {name: f"{directory}/function={quote(name, safe='')}" for name in functions},
        "audit": {name: {**seen, "images_per_second": speed} for name, seen in audit.items()},
        "problems": _problems(storage, job.problems, pool.num_rows, number),
    }


def scored_functions(context: Context) -> tuple[str, ...]:
    """The acquisition function that buys, then those that are only compared with it."""
    own = context.config.acquisition.function
    return own, *(name for name in context.config.execution.compare_functions if name != own)


def _table(row: dict[str, Any], function: str, found: Found) -> pa.Table:
    number = len(found.picks.y)
    columns = {
        "image_id": [row["image_id"]] * number,
        "row": [row["row"]] * number,
        "function": [function] * number,
        **found.picks._asdict(),
        **found.described._asdict(),
    }
    arrays = [
        pa.array(values.cpu().numpy() if isinstance(values, torch.Tensor) else values, CANDIDATES.field(name).type)
        for name, values in ((name, columns[name]) for name in CANDIDATES.names)
    ]
    return pa.Table.from_arrays(arrays, schema=CANDIDATES)


def _with_asked_regions(pool: pa.Table, ledger: Ledger, number: int) -> pa.Table:
    asked = ledger.asked_regions(number)
    rows = [asked.get(image_id, ([], [])) for image_id in pool["image_id"].to_pylist()]
    places = pa.list_(pa.int64())
    pool = pool.append_column("asked_y", pa.array([y for y, _ in rows], places))
    pool = pool.append_column("asked_x", pa.array([x for _, x in rows], places))
    return pool.append_column("row", pa.array(np.arange(pool.num_rows)))


def _problems(storage: Storage, directory: str, images: int, number: int) -> list[dict[str, str]]:
    """What the actors recorded; says so, since nobody else would."""
    found: list[dict[str, str]] = []
    for path in storage.files(directory):
        with storage.filesystem.open_input_stream(path) as stream:
            found.append(json.loads(stream.read()))
    if len(found) == images:
        raise InputError(f"no image of the pool could be scored; {found[0]['image_id']}: {found[0]['problem']}")
    for problem in found:
        print(f"round {number}: image {problem['image_id']} could not be scored: {problem['problem']}", flush=True)
    return found
