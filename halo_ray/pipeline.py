"""Ray Data streams over a manifest: blocks of rows, decoded in tasks, computed on an autoscaling pool of actors.

For few images an actor takes longer to start than to compute: execution.max_actors 0 computes in the driver's process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning

from halo_ray.cluster import ANYWHERE, device_of, has_unlike_nodes
from halo_ray.data.classes import ClassSet
from halo_ray.data.inspection import Inspection, InspectRecords, SplitInspection
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS, Splits
from halo_ray.execution import ExecutionConfig
from halo_ray.progress import progress
from halo_ray.runtime import inference_here

Transform = Callable[[pa.Table], pa.Table]


def stream(table: pa.Table, block_rows: int, transform: Transform) -> ray.data.Dataset:
    """``transform`` of a table, a task for every ``block_rows`` rows; order is kept."""
    blocks = [table.slice(start, block_rows) for start in range(0, table.num_rows, block_rows)] or [table]
    # Ray Data spreads tasks evenly. Ray's own strategy takes nodes without a GPU first, which leaves the others to
    # those who compute.
    place = {"scheduling_strategy": ANYWHERE} if has_unlike_nodes() else {}
    # Not from_arrow, which starts a task for every block, all at once, to hear of its size: 45 KB of the driver each.
    return _mapped(ray.data.from_blocks(blocks), transform, batch_size=None, **place)


def _mapped(dataset: ray.data.Dataset, transform: Transform | type[Any], **how: Any) -> ray.data.Dataset:
    """map_batches with options of Ray's own, which are deprecated without a successor up to Ray 2.63."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map_batches(transform, batch_format="pyarrow", **how)


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


@dataclass(frozen=True)
class Computation:
    """Decoded batches of a table through instances of a class: actors, or one in this process.

    Batches and blocks are transport only: the class must give each image the same result in any company.
    """

    table: pa.Table
    decode: Transform
    worker: type[Any]
    arguments: dict[str, Any]
    """With which each instance is made, beside ``device``."""
    config: ExecutionConfig

    @contextmanager
    def batches(self) -> Iterator[Iterator[pa.Table]]:
        """The results, batch after batch in the order of the table; computing ends with the body."""
        if self.config.max_actors:
            with arrow_batches(self._on_actors()) as results:
                yield results
            return
        decoded = stream(self.table, self.config.block_images, self.decode)
        with (
            inference_here(),
            arrow_batches(decoded, self.config.batch_images) as batches,
            closing(self._here(batches)) as results,
        ):
            yield results

    def results(self) -> ray.data.Dataset:
        """The same as a stream, to be written where it is computed; here, it has been computed when this returns."""
        if self.config.max_actors:
            return self._on_actors()
        with self.batches() as batches:
            return ray.data.from_arrow_refs([ray.put(batch) for batch in batches])

    def _here(self, batches: Iterator[pa.Table]) -> Generator[pa.Table]:
        worker = self.worker(**self._arguments())  # gone, with its model, when this ends
        for batch in batches:
            yield worker(batch)

    def _on_actors(self) -> ray.data.Dataset:
        config, actors, arguments = self.config, actors_for(self.table.num_rows, self.config), self._arguments()
        return _mapped(
            stream(self.table, config.block_images, self.decode),
            self.worker,
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(min_size=min(config.min_actors, actors), max_size=actors),
            batch_size=config.batch_images,
            num_cpus=config.cpus_per_actor,
            num_gpus=1 if arguments["device"] == "cuda" else 0,
            # Actors may be replaced as often as their nodes go, but images that kill each one must not do so for ever.
            max_restarts=-1,
            max_task_retries=config.max_failures,
        )

    def _arguments(self) -> dict[str, Any]:
        return {**self.arguments, "device": device_of(self.config)}


def actors_for(images: int, config: ExecutionConfig) -> int:
    """How many actors so many images may have at the most; 0: the driver's own process computes."""
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
    # In one piece: cutting the blocks of a stream out of so many takes the square of their number.
    return pa.concat_tables(parts).combine_chunks()
