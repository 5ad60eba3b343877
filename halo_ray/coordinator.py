"""The actor that owns the global selection of one round."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from ray.actor import ActorProxy

from halo_ray.acquisition.threshold import global_cut, lower_bound
from halo_ray.runtime import NAMESPACE
from halo_ray.storage import Storage

CUT_COLUMNS = {"image_id": object, "y": np.uint16, "x": np.uint16, "score": np.float32}


class Coordinator:
    """Learns the score histogram of each image, tells the scorers what cannot be chosen any more, and makes the cut.

    Its memory of histograms serves pruning alone; the cut is made from the stored candidates, so a restart of the
    actor loses speed and nothing else.

    Args:
        regions: how many regions the round buys over the whole pool; None: all candidates (scope image).
    """

    def __init__(self, regions: int | None) -> None:
        self._regions = regions
        self._seen: set[str] = set()
        self._bins: Counter[int] = Counter()

    def add(self, histograms: dict[str, dict[int, int]]) -> float:
        """Takes score histograms by image id, the images' caps applied; a repeated image counts once.

        Returns:
            The bound that now holds, as bound().
        """
        for image_id, bins in histograms.items():
            if image_id not in self._seen:
                self._seen.add(image_id)
                self._bins.update(bins)
        return self.bound()

    def bound(self) -> float:
        """A score that no chosen candidate can lie under; −inf while that is not known."""
        return float("-inf") if self._regions is None else lower_bound(self._bins, self._regions)

    def images(self) -> int:
        """How many images have been scored."""
        return len(self._seen)

    def select(self, storage_uri: str, candidates: str) -> dict[str, Any]:
        """The exact selection from the candidate files in the directory ``candidates`` of a storage.

        Returns:
            JSON-able: ``regions`` chosen, ``candidates`` stored, ``cut`` (score, image_id, y, x of the last chosen
            one; ties go by image_id, y, x rising), and ``counts``, the number chosen in each image that has any. The
            chosen ones of an image are the first in its own picking order.
        """
        storage = Storage(storage_uri)
        # An empty part, because a pool without any candidate leaves no file.
        parts, stored, bound = [{name: np.empty(0, kind) for name, kind in CUT_COLUMNS.items()}], 0, self.bound()
        for path in storage.files(candidates):
            table = pq.read_table(path, filesystem=storage.filesystem, columns=list(CUT_COLUMNS))
            stored += table.num_rows
            keep = table["score"].to_numpy() >= np.float32(bound)
            parts.append({name: table[name].to_numpy(zero_copy_only=False)[keep] for name in CUT_COLUMNS})
        columns = {name: np.concatenate([part[name] for part in parts]) for name in CUT_COLUMNS}
        cut, chosen = global_cut(
            columns["score"],
            columns["image_id"],
            columns["y"].astype(np.int64),
            columns["x"].astype(np.int64),
            stored if self._regions is None else self._regions,
        )
        ids, counts = np.unique(columns["image_id"][chosen].astype(str), return_counts=True)
        return {
            "regions": int(chosen.sum()),
            "candidates": stored,
            "cut": None if cut is None else vars(cut),
            "counts": {str(image_id): int(count) for image_id, count in zip(ids, counts, strict=True)},
        }


@contextmanager
def coordinator(experiment: str, round_number: int, regions: int | None) -> Iterator[ActorProxy[Coordinator]]:
    """A coordinator for one attempt at a stage of a round; it outlives the failure of its process, not the stage.

    Every attempt has a name of its own: what another one left must not prune this one's candidates.
    """
    name = f"coordinator/{experiment}/{round_number}/{uuid.uuid4().hex[:8]}"
    options = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    actor = ray.remote(Coordinator).options(**options).remote(regions)
    try:
        yield actor
    finally:
        ray.kill(actor)
