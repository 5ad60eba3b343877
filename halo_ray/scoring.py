"""The pool through the network: the best candidate regions of every image, to Parquet."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.actor import ActorProxy

from halo_ray.acquisition.bound import histogram
from halo_ray.acquisition.budget import AcquisitionConfig, RoundPlan, image_limit
from halo_ray.acquisition.candidates import Found, Image, find_candidates, taken_places
from halo_ray.acquisition.maps import Maps
from halo_ray.annotations.ledger import Ledger, places_of
from halo_ray.candidates import CANDIDATES, clear_attempts, complete, new_attempt
from halo_ray.checkpoint import load_model
from halo_ray.context import Context
from halo_ray.coordinator import Coordinator, Places, Report
from halo_ray.data.decoding import DecodeImages
from halo_ray.data.features import Features, network_input
from halo_ray.errors import BadRecordError, InputError
from halo_ray.features import stored_features
from halo_ray.geometry_health import extremes, radii, warning
from halo_ray.pipeline import Computation
from halo_ray.progress import progress
from halo_ray.runtime import SCORING_THREADS
from halo_ray.selection import coordinator, map_name
from halo_ray.storage import Storage, round_directory, safe_name

FILE_BYTES = 4 * 2**20
"""Least size of a file of candidates in memory, so that a large pool does not leave a file for every few images."""

GROUP_ROWS = 1 << 17
"""Most rows of a row group. Else every image would be one, which takes megabytes to read for each kilobyte."""


DEVICE_LOST: tuple[type[Exception], ...] = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
"""Failures after which a process can compute nothing more on its GPU."""


@dataclass(frozen=True)
class ScoringJob:
    """What a scoring actor must know."""

    storage: Storage
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
    features: Features | None
    """Stored features of the images, which come instead of them."""
    maps: str | None
    """Directory of the storage for the maps of every image; None: they are not kept."""
    problems: str
    """Directory of the storage that names the images that could not be scored."""


class Scorer:
    """Scores images one by one; the class that the actors of the pool run."""

    def __init__(self, job: ScoringJob, coordinator: ActorProxy[Coordinator], device: str) -> None:
        torch.set_num_threads(SCORING_THREADS)
        self._job, self._coordinator, self._device = job, coordinator, device
        self._storage = job.storage
        self._model = load_model(self._storage, job.checkpoint).to(device)
        self._never = None if job.never is None else torch.from_numpy(job.never)
        self._bounds = dict.fromkeys(job.functions, float("-inf"))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Candidates (CANDIDATES) of decoded pool images with the regions asked before (asked_y, asked_x)."""
        tables, reports = [], {}
        self._places: dict[int, Places] = {}
        for row in batch.to_pylist():
            found = self._find(row)
            if found is None:
                continue
            tables += [(name, _table(row, name, own)) for name, own in found.items()]
            reports[row["row"]] = {name: self._report(row, name, own) for name, own in found.items()}
        now = ray.get(self._coordinator.add.remote(reports, {row: self._places[row] for row in reports}))
        # A coordinator that was restarted knows less than it once did; what it said then still holds.
        self._bounds = {name: max(bound, now[name]) for name, bound in self._bounds.items()}
        kept = [
            table.filter(pc.greater_equal(table["score"], pa.scalar(self._bounds[name], pa.float32())))
            for name, table in tables
        ]
        return pa.concat_tables([CANDIDATES.empty_table(), *kept]).combine_chunks()

    def _find(self, row: dict[str, Any]) -> dict[str, Found] | None:
        """The candidates of an image by acquisition function; None, and a file that says why, where it failed."""
        try:
            return self._attempt(row)
        except DEVICE_LOST:
            raise  # nothing more can be computed in this process
        except BadRecordError as error:
            self._record(row, error, scored=False)
            return None
        except RuntimeError:
            pass  # out of memory, most often: what this attempt holds is only free once its traceback is gone
        if self._device != "cpu":
            torch.cuda.empty_cache()
        try:
            return self._attempt(row)
        except DEVICE_LOST:
            raise
        except (RuntimeError, BadRecordError) as error:
            self._record(row, error, scored=False)
            return None

    def _attempt(self, row: dict[str, Any]) -> dict[str, Found]:
        job, size = self._job, (row["height"], row["width"])
        if row.get("problem") is not None:
            raise BadRecordError(row["problem"])
        asked = torch.tensor(row["asked_y"]), torch.tensor(row["asked_x"])
        image = Image(
            row["image_id"],
            size,
            image_limit(job.acquisition, size, job.plan, job.pool_pixels),
            taken_places(size, *asked, job.acquisition, self._never),
        )
        inputs = network_input([row["image"]], job.input_size, job.features, self._device)
        with torch.inference_mode():
            said = self._model(inputs)
            r = radii(said.embedding, self._model.curvature)
            self._places[row["row"]] = Places(*extremes(r, self._model.curvature, said.embedding.dtype), r.numel())
            found, maps = find_candidates(
                said,
                image,
                job.acquisition,
                curvature=self._model.curvature,
                seed=job.seed,
                bounds=self._bounds,
            )
            if job.maps is not None:
                self._save_maps(f"{job.maps}/{map_name(image.image_id)}", maps, found[job.acquisition.function])
        return found

    def _report(self, row: dict[str, Any], name: str, found: Found) -> Report:
        broken = int(found.score.isnan().sum())
        if broken:
            problem = BadRecordError(f"{broken} of {found.score.numel()} scores of {name} are NaN and were left out")
            self._record(row, problem, scored=True)
        return Report(histogram(found.picks.score.numpy()), found.pruned)

    def _record(self, row: dict[str, Any], error: Exception, *, scored: bool) -> None:
        """Stores what is wrong with an image; a file for each, so that a repetition counts once."""
        problem = (str(error) or type(error).__name__).splitlines()[0]
        entry = {"image_id": row["image_id"], "problem": problem, "scored": scored}
        self._storage.write_json(f"{self._job.problems}/{safe_name(row['image_id'])}.json", entry)

    def _save_maps(self, name: str, maps: Maps, found: Found) -> None:
        kept = {"radius": maps.radius[0], "entropy": maps.entropy[0], "score": found.score}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **{key: m.cpu().half().numpy() for key, m in kept.items()})
        self._storage.write(name, buffer.getvalue())


def score_pool(context: Context, number: int, checkpoint: str) -> dict[str, Any]:
    """Scores every pool image for round ``number`` with the model of ``checkpoint``.

    Returns:
        JSON-able: ``candidates``, by acquisition function the directory of the storage that holds them as Parquet
        (CANDIDATES); ``audit``, by function what the coordinator saw; ``problems``: image_id, problem, and whether the
        image was scored nevertheless, of the images that had one.

    Raises:
        InputError: no image could be scored.
    """
    config, storage = context.config, context.storage
    pool, at = context.splits.pool, round_directory(number)
    # A fresh directory for every attempt: nothing that a killed one left, or still writes, is ever read.
    attempt = new_attempt()
    directory = f"{at}/candidates/{attempt}"
    clear_attempts(storage, at)
    functions, features = context.functions, stored_features(context)
    found = {name: f"{directory}/function={quote(name, safe='')}" for name in functions}
    storage.make(directory)
    job = ScoringJob(
        storage=storage,
        checkpoint=checkpoint,
        input_size=context.input_size,
        acquisition=config.acquisition,
        functions=functions,
        plan=context.plan[number - 1],
        pool_pixels=context.splits.pool_pixels,
        seed=context.config.round_seed(number),
        never=context.never,
        features=features,
        maps=None if config.execution.save_maps == "none" else f"{at}/maps",
        problems=f"{at}/problems/{attempt}",
    )
    with coordinator(context, number, functions) as actor:
        computation = Computation(
            _with_asked_regions(pool, Ledger(storage), number),
            DecodeImages(
                context.input_size, keep_bad=config.data.on_bad_record == "skip", features=features, split="pool"
            ),
            Scorer,
            {"job": job, "coordinator": actor},
            config.execution,
        )

        def scored() -> int:
            images = int(ray.get(actor.images.remote()))
            pixels = context.splits.pool_pixels * images / pool.num_rows
            context.gauges.set("pixels_scored", pixels, stage=f"{at}/score")
            return images

        with progress(f"round {number} score", pool.num_rows, "image", scored, context.gauges):
            computation.results().write_parquet(
                storage.path(directory),
                filesystem=storage.filesystem,
                partition_cols=["function"],
                min_bytes_per_file=FILE_BYTES,
                row_group_size=GROUP_ROWS,
            )
        scored()
        for files in found.values():
            complete(storage, files)
        told = actor.audit.remote(), actor.images_per_second.remote(), actor.shares.remote()
        audit, speed, (rim, origin) = ray.get(list(told))
    if said := warning(rim, origin, config.execution.warn_share):
        print(f"round {number}: {said}", flush=True)
    return {
        "candidates": found,
        "audit": {
            name: {**seen, "images_per_second": speed, "at_rim": rim, "at_origin": origin}
            for name, seen in audit.items()
        },
        "problems": _problems(storage, job.problems, pool.num_rows, number),
    }


def _table(row: dict[str, Any], function: str, found: Found) -> pa.Table:
    number = len(found.picks.y)
    columns = {
        "image_id": [row["image_id"]] * number,
        "row": [row["row"]] * number,
        "rank": range(number),
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
    asked = places_of(ledger.asked_regions(number), pool["image_id"])
    pool = pool.append_column("asked_y", asked["y"]).append_column("asked_x", asked["x"])
    return pool.append_column("row", pa.array(np.arange(pool.num_rows)))


def _problems(storage: Storage, directory: str, images: int, number: int) -> list[dict[str, Any]]:
    """What the actors recorded; says so, since nobody else would."""
    found = [storage.read_json(name) for name in storage.files(directory)]
    lost = [problem for problem in found if not problem["scored"]]
    if len(lost) == images:
        raise InputError(f"no image of the pool could be scored; {lost[0]['image_id']}: {lost[0]['problem']}")
    for problem in found:
        what = "" if problem["scored"] else " could not be scored"
        print(f"round {number}: image {problem['image_id']}{what}: {problem['problem']}", flush=True)
    return found
