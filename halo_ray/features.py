"""The features of a frozen backbone, computed once for every image of an experiment and its mirror image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from halo_ray.data.decoding import DecodeImages
from halo_ray.data.features import Features, MapShape, feature_file, network_input, pack
from halo_ray.data.manifest import SPLITS
from halo_ray.errors import InputError
from halo_ray.models.build import ModelConfig, build_model
from halo_ray.pipeline import Computation
from halo_ray.progress import progress
from halo_ray.runtime import SCORING_THREADS
from halo_ray.shared_keys import stage_entry
from halo_ray.stages import Stages
from halo_ray.storage import Storage

if TYPE_CHECKING:
    from halo_ray.context import Context

STAGE = "features"
"""Of the experiment."""


@dataclass(frozen=True)
class FeatureJob:
    """What an actor that computes features must know."""

    storage: Storage
    model: ModelConfig
    classes: int
    split: str
    size: tuple[int, int]
    seed: int
    """That of pretraining: a backbone without weights starts as it does there."""
    key: str
    """As Features has it."""


class FeatureExtractor:
    """Stores the features of images one by one, as scoring computes them; the class that the actors of the pool run."""

    def __init__(self, job: FeatureJob, device: str) -> None:
        torch.set_num_threads(SCORING_THREADS)
        self._job, self._device, self._storage = job, device, job.storage
        torch.manual_seed(job.seed)
        self._model = build_model(job.model, job.classes).eval().to(device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The ids of decoded images, and how their maps are shaped."""
        shapes: list[list[MapShape]] = []
        for row in batch.to_pylist():
            image = network_input([row["image"]], self._job.size, None, self._device)
            assert isinstance(image, torch.Tensor)
            with torch.inference_mode():
                for mirrored in (False, True):
                    maps = self._model.features(image.flip(2) if mirrored else image)
                    name = feature_file(self._job.split, row["image_id"], mirrored)
                    self._storage.write(name, pack(maps, name, self._job.key))
            shapes.append([MapShape.of(each) for each in maps])
        return pa.table(
            {"image_id": batch["image_id"], "shapes": [[list(map(int, shape)) for shape in each] for each in shapes]}
        )


def compute_features(context: Context) -> dict[str, Any]:
    """Computes and stores the features of all splits.

    Returns:
        JSON-able: ``shapes``, of the maps by "HEIGHTxWIDTH" of the network's input; ``shared``, the directory of
        execution.shared_stages that holds them, None where the experiment's own does; ``key`` as Features has it.
    """
    splits = [split for split in SPLITS if getattr(context.splits, split).num_rows]
    shared = context.config.execution.shared_stages
    # They are large, and the same for many: nobody copies them.
    entry = None if shared is None else stage_entry(context, STAGE)
    storage, key = _storage(context, entry), entry or Stages(context.storage).experiment
    return {"shapes": dict(_of_split(context, split, storage, key) for split in splits), "shared": entry, "key": key}


def _storage(context: Context, entry: str | None) -> Storage:
    """Where the features lie."""
    shared = context.config.execution.shared_stages
    if entry is None:
        return context.storage
    if shared is None:
        raise InputError(
            f"the features of {context.storage.uri} lie in {entry} of the directory that execution.shared_stages "
            "named: name it again"
        )
    return Storage(shared).below(entry)


def _of_split(context: Context, split: str, storage: Storage, key: str) -> tuple[str, Any]:
    """Computes the features of a split; gives their size and shapes."""
    config, table = context.config, getattr(context.splits, split)
    height, width = size = config.data.source_size if split == "source" else context.input_size
    classes, seed = len(context.classes.classes), context.config.round_seed(0)
    job = FeatureJob(storage, context.model, classes, split, size, seed, key)
    computation = Computation(table, DecodeImages(size), FeatureExtractor, {"job": job}, config.execution)
    done, shapes = 0, None
    with (
        progress(f"features of {split}", table.num_rows, "image", lambda: done, context.gauges),
        computation.batches() as batches,
    ):
        for batch in batches:
            done += batch.num_rows
            shapes = batch["shapes"][0].as_py()
    return f"{height}x{width}", shapes


def stored_features(context: Context) -> Features | None:
    """Where the features lie; None where they are not cached."""
    if not context.config.training.cache_features:
        return None
    result = Stages(context.storage).result(STAGE)
    shapes = {}
    for size, maps in result["shapes"].items():
        height, width = size.split("x")
        shapes[int(height), int(width)] = [MapShape(c, h, w, bool(last)) for c, h, w, last in maps]
    return Features(_storage(context, result["shared"]).uri, shapes, result["key"])
