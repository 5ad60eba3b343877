"""Ray Data streams over a manifest: blocks of rows, decoded in tasks, computed on an autoscaling pool of actors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.util.annotations import RayDeprecationWarning

from halo_ray.cluster import ANYWHERE, has_unlike_nodes, uses_gpu
from halo_ray.data.classes import ClassSet
from halo_ray.data.inspection import Inspection, InspectRecords, SplitInspection
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS, Splits
from halo_ray.execution import ExecutionConfig
from halo_ray.progress import progress

Transform = Callable[[pa.Table], pa.Table]


def stream(table: pa.Table, block_rows: int, transform: Transform) -> ray.data.Dataset:
    """``transform`` of a table, a task for every ``block_rows`` rows; order is kept."""
    blocks = [table.slice(start, block_rows) for start in range(0, table.num_rows, block_rows)] or [table]
    # Ray Data spreads tasks evenly. Ray's own strategy takes nodes without a GPU first, which leaves the others to
    # those who compute; there is no other way to ask for it up to Ray 2.63.
    place = {"scheduling_strategy": ANYWHERE} if has_unlike_nodes() else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.from_arrow(blocks).map_batches(transform, batch_size=None, batch_format="pyarrow", **place)


@contextmanager
def arrow_batches(
    dataset: ray.data.Dataset | ray.data.DataIterator, batch_size: int | None = None
) -> Iterator[Iterator[pa.Table]]:
    """The batches of a stream (None: its blocks as they are), which ends with the body however that ends.

    An iterator that an exception's traceback keeps alive would leave a thread running that calls Ray after its end,
    and Ray answers that by killing the process.
    """
    batches = dataset.iter_batches(batch_size=batch_size, batch_format="pyarrow", prefetch_batches=2)
    with closing(iter(batches)) as iterator:
        yield iterator


def compute_on_actors(
    table: pa.Table, decode: Transform, worker: type[Any], arguments: dict[str, Any], config: ExecutionConfig
) -> ray.data.Dataset:
    """Decoded batches of ``table`` through actors of the class ``worker``, each made with ``arguments``.

    Batches and blocks are transport only: ``worker`` must give each image the same result in any company.
    """
    gpu = uses_gpu(config)
    actors = actors_for(table.num_rows, config)
    return stream(table, config.block_images, decode).map_batches(
        worker,
        fn_constructor_kwargs={**arguments, "device": "cuda" if gpu else "cpu"},
        compute=ray.data.ActorPoolStrategy(min_size=min(config.min_actors, actors), max_size=actors),
        batch_size=config.batch_images,
        batch_format="pyarrow",
        num_cpus=config.cpus_per_actor,
        num_gpus=1 if gpu else 0,
    )


def actors_for(images: int, config: ExecutionConfig) -> int:
    """How many actors so many images may have at the most."""
    return min(config.max_actors, -(-images // config.images_per_actor))


def inspect_splits(
    splits: Splits, classes: ClassSet, config: ExecutionConfig, *, known_too: Collection[str] = ()
) -> tuple[Splits, Inspection]:
    """The usable records of the splits with every size filled in, and what was found.

    Args:
        known_too: splits to look at even if their sizes are known already (rendered scenes).

    Raises:
        InputError: the class set does not fit the label formats.
    """
    formats = {name for split in SPLITS for name in getattr(splits, split)["label_format"].unique().to_pylist() if name}
    classes.check_formats(formats)
    usable: dict[str, pa.Table] = {}
    found: dict[str, SplitInspection] = {}
    source_classes = None
    for split in SPLITS:
        table = getattr(splits, split)
        if table.num_rows and (split in known_too or table["height"].null_count):
            found[split] = SplitInspection()
            table = _inspected(table, InspectRecords(classes), found[split], split, config)
            if split == "source":
                pixels = np.array(table["class_pixels"].to_pylist(), np.int64)
                source_classes = pixels.reshape(-1, len(classes.classes) + 1)[:, :-1]
        usable[split] = table.select(MANIFEST.names)
    return Splits(**usable), Inspection(found, source_classes)


def _inspected(
    table: pa.Table, inspect: InspectRecords, found: SplitInspection, split: str, config: ExecutionConfig
) -> pa.Table:
    """The usable rows; ``found`` counts all."""
    parts = []
    with (
        progress(f"inspect {split}", table.num_rows, "image", lambda: found.images + len(found.bad)),
        arrow_batches(stream(table, config.block_images, inspect)) as batches,
    ):
        for batch in batches:
            found.add(split, batch)
            batch = batch.filter(pc.is_null(batch["problem"]))
            parts.append(batch if split == "source" else batch.select(MANIFEST.names))
    return pa.concat_tables(parts)
