"""The samples of a training stage as a finite table: row k is fixed by the seed, so length and order are exact."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.data.listing import MANIFEST
from halo_ray.data.sampling import Draws, SourceSampling

SOURCE, TARGET = "source", "target"

SCHEDULE = pa.schema([("row", pa.int64()), ("domain", pa.string()), ("show_class", pa.int16()), *MANIFEST])
"""Columns of a schedule: the row's number in the whole schedule, its domain, the class that a random crop should show
(−1: any), and the image."""

UNIFORM = SourceSampling()


def training_schedule(
    source: pa.Table,
    target: pa.Table,
    *,
    steps: int,
    source_batch: int,
    target_batch: int,
    workers: int,
    seed: int,
    sampling: SourceSampling = UNIFORM,
    class_pixels: npt.NDArray[np.int64] | None = None,
) -> list[pa.Table]:
    """One table per worker, of ``steps`` equal slices: each worker's share of every step's batch.

    Target images are gone through in a new random order each time all were used, source images as ``sampling`` says.
    The source images of a step do not depend on the target, so a run without any target image sees the same ones.

    Args:
        source, target: manifests; an empty one leaves its part of the batch out.
        source_batch, target_batch: images of a step over all workers, multiples of ``workers``.
        class_pixels: (source images, C), for a sampling that looks at classes.
    """
    parts = []
    for stream, (domain, manifest, batch) in enumerate(
        ((SOURCE, source, source_batch), (TARGET, target, target_batch))
    ):
        if manifest.num_rows and batch and steps:
            random = np.random.default_rng([seed, stream])
            how, pixels = (sampling, class_pixels) if domain == SOURCE else (UNIFORM, None)
            drawn = how.draw(manifest.num_rows, steps * batch, pixels, random)
            # Numbered by place in the full batch: a sample's random changes depend neither on the number of workers
            # nor on whether there is a target.
            place = np.arange(batch) + (source_batch if domain == TARGET else 0)
            number = np.arange(steps)[:, None] * (source_batch + target_batch) + place
            shape = (steps, workers, batch // workers)
            drawn = Draws(*(values.reshape(shape) for values in drawn))
            parts.append(_Part(domain, manifest, drawn, number.reshape(shape)))
    return [_rows(parts, worker) for worker in range(workers)]


class _Part(NamedTuple):
    domain: str
    manifest: pa.Table
    drawn: Draws
    """Each (steps, workers, images of a worker)."""
    number: npt.NDArray[np.int64]
    """The same shape: number of each sample in the whole schedule."""


def _rows(parts: list[_Part], worker: int) -> pa.Table:
    """The share of one worker, step by step."""
    tables = [SCHEDULE.empty_table()]
    for part in parts:
        table = part.manifest.select(MANIFEST.names).take(part.drawn.images[:, worker].ravel())
        table = table.append_column("domain", pa.array([part.domain] * table.num_rows))
        table = table.append_column("show_class", pa.array(part.drawn.classes[:, worker].ravel()))
        table = table.append_column("row", pa.array(part.number[:, worker].ravel()))
        tables.append(table.select(SCHEDULE.names).cast(SCHEDULE))
    return pa.concat_tables(tables).sort_by("row")
