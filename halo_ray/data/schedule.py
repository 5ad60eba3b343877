"""The samples of a training stage as a finite table: row k is fixed by the seed, so length and order are exact."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
            # Numbered by place in the full batch: a sample's random changes depend neither on the number of workers
            # nor on whether there is a target.
            place = np.arange(batch) + (source_batch if domain == TARGET else 0)
            number = np.arange(steps)[:, None] * (source_batch + target_batch) + place
            shape = (steps, workers, batch // workers)
            draws.append(_Draw(domain, manifest, order.reshape(shape), number.reshape(shape)))
    return [_rows(draws, worker) for worker in range(workers)]


class _Draw(NamedTuple):
    domain: str
    manifest: pa.Table
    images: npt.NDArray[np.int64]
    """(steps, workers, images of a worker) rows of the manifest."""
    number: npt.NDArray[np.int64]
    """The same shape: number of each sample in the whole schedule."""


def _order(images: int, draws: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    passes = [random.permutation(images) for _ in range(-(-draws // images))]
    return np.concatenate(passes)[:draws]


def _rows(draws: list[_Draw], worker: int) -> pa.Table:
    """The share of one worker, step by step."""
    parts = []
    for draw in draws:
        part = draw.manifest.select(MANIFEST.names).take(draw.images[:, worker].ravel())
        part = part.append_column("domain", pa.array([draw.domain] * part.num_rows))
        parts.append(part.append_column("row", pa.array(draw.number[:, worker].ravel())))
    return pa.concat_tables(parts).select(SCHEDULE.names).cast(SCHEDULE).sort_by("row")
