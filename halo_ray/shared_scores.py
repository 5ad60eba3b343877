"""A scoring pass that experiments share: one for a larger budget, and several functions, serves the smaller ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.acquisition.budget import RoundPlan, image_limit
from halo_ray.acquisition.threshold import Sequences
from halo_ray.candidates import CandidateFile, candidate_files, clear_attempts, complete, new_attempt, read_candidates
from halo_ray.data.manifest import sizes
from halo_ray.storage import Storage, round_directory
from halo_ray.tasks import each

if TYPE_CHECKING:
    from halo_ray.context import Context


def covers(context: Context, published: Storage, result: dict[str, Any], plan: dict[str, Any] | None) -> bool:
    """Whether a pass of the first round under another budget found all that this experiment would choose.

    The picks of an image come one after the other, so those that a lower limit allows are the first of them. The pass
    left out what lies under its bound: nothing of that is chosen here if enough lies above it, which is counted.
    It need not: the limits of a larger budget are rounded up, and may grow by more than the budget did.

    Args:
        published: holds the files.
        result: of score_pool there; where it had problems, an experiment must meet those itself.
        plan: of the round for which it was made.
    """
    functions, pool = context.functions, context.splits.pool
    if plan is None or result["problems"] or not set(functions) <= set(result["candidates"]):
        return False
    theirs, own = RoundPlan(**plan), context.plan[0]
    if own.regions > theirs.regions or bool(np.any(_limits(context) > _limits(context, theirs))):
        return False
    # A coordinator that was restarted in the middle has forgotten what bounds it gave before.
    if any(result["audit"][name]["images"] < pool.num_rows for name in functions):
        return False
    above = Above(_limits(context), context.sequences(1))
    return all(_has_enough(published, result, name, above, own.regions) for name in functions)


@dataclass(frozen=True)
class Above:
    """Counts candidates of a file that an experiment could choose, by sequence."""

    limits: npt.NDArray[np.int64]
    """(images,): the most of each."""
    sequences: Sequences | None

    def count(self, table: pa.Table, bound: float) -> npt.NDArray[np.int64]:
        """(sequences,): those in a table of CANDIDATES that score ``bound`` or more."""
        row, rank, score = (table[name].to_numpy() for name in ("row", "rank", "score"))
        row = row[(rank < self.limits[row]) & (score >= np.float32(bound))]
        if self.sequences is None:
            return np.array([len(row)], np.int64)
        return np.bincount(self.sequences.of[row], minlength=len(self.sequences.caps)).astype(np.int64)

    def total(self, counts: Iterable[npt.NDArray[np.int64]]) -> int:
        """How many of all files could be chosen, given their counts."""
        every = np.sum([*counts], axis=0, dtype=np.int64)  # 0 without any file
        return int(every.sum() if self.sequences is None else np.minimum(every, self.sequences.caps).sum())


def _has_enough(published: Storage, result: dict[str, Any], name: str, above: Above, regions: int) -> bool:
    bound = result["audit"][name]["bound"]
    if bound is None:
        return True
    files = [(published, file, bound) for file in candidate_files(published, result["candidates"][name])]
    return above.total(each(_count, files, above)) >= regions


def _count(source: Storage, file: CandidateFile, bound: float, above: Above) -> npt.NDArray[np.int64]:
    return above.count(read_candidates(source, file, ["row", "rank", "score"]), bound)


def take_candidates(context: Context, published: Storage, result: dict[str, Any]) -> dict[str, Any]:
    """Copies what this experiment may choose from out of a pass that covers it; file by file.

    Args:
        published: holds the files.
        result: of score_pool there.

    Returns:
        As score_pool.
    """
    storage, at = context.storage, round_directory(1)
    clear_attempts(storage, at)
    # A fresh directory for every attempt, as in score_pool.
    attempt = f"{at}/candidates/{new_attempt()}"
    theirs = {name: result["candidates"][name] for name in context.functions}
    own = {name: f"{attempt}/{directory.rpartition('/')[2]}" for name, directory in theirs.items()}
    copies = [
        (published, file, storage, f"{own[name]}/{file.name.rpartition('/')[2]}")
        for name, directory in theirs.items()
        for file in candidate_files(published, directory)
    ]
    each(_copy, copies, _limits(context))
    for directory in own.values():
        complete(storage, directory)
    return {
        "candidates": own,
        "audit": {name: result["audit"][name] for name in own},
        "problems": result["problems"],
    }


def _copy(source: Storage, file: CandidateFile, target: Storage, name: str, limits: npt.NDArray[np.int64]) -> None:
    """Copies a file of candidates, of each image as many as its limit allows."""
    table = read_candidates(source, file)
    allowed = pa.array(limits[table["row"].to_numpy()])
    target.write_table(name, table.filter(pc.less(table["rank"].cast(pa.int64()), allowed)))


def _limits(context: Context, plan: RoundPlan | None = None) -> npt.NDArray[np.int64]:
    """The most candidates of each pool image in the first round, by its row."""
    own, pixels = plan or context.plan[0], context.splits.pool_pixels
    of_size: dict[tuple[int, int], int] = {}
    for size in sizes(context.splits.pool):
        if size not in of_size:
            of_size[size] = image_limit(context.config.acquisition, size, own, pixels)
    return np.array([of_size[size] for size in sizes(context.splits.pool)], np.int64)
