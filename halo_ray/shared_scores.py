"""A scoring pass that experiments share: one for a larger budget, and several functions, serves the smaller ones."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from halo_ray.acquisition.budget import RoundPlan, image_limit
from halo_ray.cluster import ANYWHERE
from halo_ray.data.manifest import sizes
from halo_ray.storage import Storage, round_directory

if TYPE_CHECKING:
    from halo_ray.context import Context


def covers(context: Context, result: dict[str, Any], plan: dict[str, Any] | None) -> bool:
    """Whether a pass of the first round under another budget found all that this experiment may choose from.

    The picks of an image come one after the other, so those that a lower limit allows are the first of them; and the
    bound that prunes them is the lower, the more regions are bought.

    Args:
        result: as score_pool gave it there; where it had problems, an experiment must meet those itself.
        plan: of the round for which it was made.
    """
    if plan is None or result["problems"] or not set(context.functions) <= set(result["candidates"]):
        return False
    theirs = RoundPlan(**plan)
    return context.plan[0].regions <= theirs.regions and bool(np.all(_limits(context) <= _limits(context, theirs)))


def take_candidates(context: Context, published: Storage, result: dict[str, Any]) -> dict[str, Any]:
    """Copies what this experiment may choose from out of a pass that covers it; in tasks, file by file.

    Args:
        published: holds the files.
        result: of score_pool there.

    Returns:
        As score_pool.
    """
    storage, at = context.storage, round_directory(1)
    storage.clear(f"{at}/candidates")
    # A fresh directory for every attempt, as in score_pool.
    attempt = f"{at}/candidates/{uuid.uuid4().hex[:8]}"
    theirs = {name: result["candidates"][name] for name in context.functions}
    own = {name: f"{attempt}/{directory.rpartition('/')[2]}" for name, directory in theirs.items()}
    copy, limits = ray.remote(scheduling_strategy=ANYWHERE)(_copy), ray.put(_limits(context))
    copied = []
    for name, directory in theirs.items():
        storage.filesystem.create_dir(storage.path(own[name]), recursive=True)
        for path in published.files(directory):
            file = f"{own[name]}/{path.rpartition('/')[2]}"
            copied.append(copy.remote(published.uri, path, storage.uri, file, limits))
    ray.get(copied)
    return {
        "candidates": own,
        "audit": {name: result["audit"][name] for name in own},
        "problems": result["problems"],
    }


def _copy(source: str, path: str, target: str, name: str, limits: npt.NDArray[np.int64]) -> None:
    """Copies a file of candidates, of each image as many as its limit allows."""
    file = pq.ParquetFile(path, filesystem=Storage(source).filesystem)  # not a dataset: its folder's name is no column
    table = file.read()
    allowed = pa.array(limits[table["row"].to_numpy()])
    Storage(target).write_table(name, table.filter(pc.less(table["rank"].cast(pa.int64()), allowed)))


def _limits(context: Context, plan: RoundPlan | None = None) -> npt.NDArray[np.int64]:
    """The most candidates of each pool image in the first round, by its row."""
    own, pixels = plan or context.plan[0], context.splits.pool_pixels
    of_size: dict[tuple[int, int], int] = {}
    for size in sizes(context.splits.pool):
        if size not in of_size:
            of_size[size] = image_limit(context.config.acquisition, size, own, pixels)
    return np.array([of_size[size] for size in sizes(context.splits.pool)], np.int64)
