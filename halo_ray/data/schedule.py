"""The samples of a training stage as a finite table: row k is fixed by the seed, so length and order are exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.data.manifest import sizes
from halo_ray.data.readers import MANIFEST

SOURCE, TARGET = "source", "target"

SCHEDULE = pa.schema([("row", pa.int64()), ("domain", pa.string()), *MANIFEST])
"""Columns of a schedule: the row's number in the whole schedule, its domain, and the image."""


def training_schedule(
    source: pa.Table, target: pa.Table, *, steps: int, source_batch: int, target_batch: int, workers: int, seed: int
) -> list[pa.Table]:
    """One table per worker, of ``steps`` equal slices: each worker's share of every step's batch.

    Every domain is gone through in a new random order each time all its images were used. The source images of a step
    do not depend on the target, so a run without any target image sees the same ones.

    Args:
        source, target: manifests; an empty target leaves its part of the batch out.
        source_batch, target_batch: images of a step over all workers, multiples of ``workers``.
    """
    draws = []
    for stream, (domain, manifest, batch) in enumerate(
        ((SOURCE, source, source_batch), (TARGET, target, target_batch))
    ):
        if manifest.num_rows and batch:
            order = _order(manifest.num_rows, steps * batch, np.random.default_rng([seed, stream]))
            draws.append((domain, manifest, order.reshape(steps, workers, batch // workers)))
    return [_rows(draws, worker, steps, workers) for worker in range(workers)]


def pixel_counts(table: pa.Table) -> npt.NDArray[np.int64]:
    """(rows,) pixels of each image of a manifest."""
    return np.array([h * w for h, w in sizes(table)], np.int64)


def _order(images: int, draws: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    passes = [random.permutation(images) for _ in range(-(-draws // images))]
    return np.concatenate(passes)[:draws]


def _rows(draws: list[tuple[str, pa.Table, npt.NDArray[np.int64]]], worker: int, steps: int, workers: int) -> pa.Table:
    share = sum(order.shape[2] for _, _, order in draws)
    parts, places = [], []
    offset = 0
    for domain, manifest, order in draws:
        mine = order[:, worker]
        part = manifest.select(MANIFEST.names).take(mine.ravel())
        parts.append(part.append_column("domain", pa.array([domain] * part.num_rows)))
        places.append((np.arange(steps)[:, None] * share + offset + np.arange(mine.shape[1])).ravel())
        offset += mine.shape[1]
    table = pa.concat_tables(parts).take(np.argsort(np.concatenate(places), kind="stable"))
    # Numbered over all workers, so that no two samples share their random draw.
    number = np.arange(table.num_rows)
    row = number // share * (share * workers) + worker * share + number % share
    return table.append_column("row", pa.array(row)).select(SCHEDULE.names).cast(SCHEDULE)
