"""The samples of a training stage as a finite table: row k is fixed by the seed, so length and order are exact."""

from __future__ import annotations

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
    seed: int,
    sampling: SourceSampling = UNIFORM,
    class_pixels: npt.NDArray[np.int64] | None = None,
) -> pa.Table:
    """``steps`` equal slices, each the batch of a step, with its source images first.

    Target images are gone through in a new random order each time all were used, source images as ``sampling`` says.
    The source images of a step do not depend on the target, so a run without any target image sees the same ones.

    Args:
        source, target: manifests; an empty one leaves its part of the batch out.
        source_batch, target_batch: images of a step over all workers.
        class_pixels: (source images, C), for a sampling that looks at classes.
    """
    tables = [SCHEDULE.empty_table()]
    for stream, (domain, manifest, batch) in enumerate(
        ((SOURCE, source, source_batch), (TARGET, target, target_batch))
    ):
        if manifest.num_rows and batch and steps:
            random = np.random.default_rng([seed, stream])
            how, pixels = (sampling, class_pixels) if domain == SOURCE else (UNIFORM, None)
            drawn = how.draw(manifest.num_rows, steps * batch, pixels, random)
            # Numbered by place in the full batch: a sample's random changes do not depend on whether there is a target.
            place = np.arange(batch) + (source_batch if domain == TARGET else 0)
            number = np.arange(steps)[:, None] * (source_batch + target_batch) + place
            tables.append(_rows(domain, manifest, drawn, number.ravel()))
    return pa.concat_tables(tables).sort_by("row")


def worker_share(schedule: pa.Table, batch: int, rank: int, workers: int) -> pa.Table:
    """The rows of one of ``workers`` processes: of every step of ``batch`` rows, dealt out in turn, its own.

    The numbers of rows differ by one at most, as do those of each domain, and are the same in every step.
    """
    place = np.arange(schedule.num_rows) % batch
    return schedule.take(np.flatnonzero(place % workers == rank))


def _rows(domain: str, manifest: pa.Table, drawn: Draws, number: npt.NDArray[np.int64]) -> pa.Table:
    table = manifest.select(MANIFEST.names).take(drawn.images)
    table = table.append_column("domain", pa.array([domain] * table.num_rows))
    table = table.append_column("show_class", pa.array(drawn.classes))
    table = table.append_column("row", pa.array(number))
    return table.select(SCHEDULE.names).cast(SCHEDULE)
