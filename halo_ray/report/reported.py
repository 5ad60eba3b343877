"""An experiment as a report needs it: what its storage says of rounds that are evaluated, finished or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.annotations.ledger import Ledger
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.inspection import stored_class_pixels
from halo_ray.errors import InputError
from halo_ray.results import Row, has_metrics, read_metrics
from halo_ray.seals import check_stage
from halo_ray.secret import redacted, shown
from halo_ray.stages import BEGIN, Stages
from halo_ray.storage import Storage, round_directory
from halo_ray.stored import stored_classes, stored_config, stored_pool
from halo_ray.stored_config import StoredConfig

PICKS = "image_id", "round", "region_y", "region_x", "guess", "score"
"""Columns of the ledger that all pixels of a region share."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reported:
    """What is known of an experiment; rounds are those of metrics.jsonl."""

    storage: Storage
    stored: StoredConfig
    config_text: str
    classes: ClassSet
    pool: pa.Table
    """The manifest of its pool."""
    rows: list[Row]
    """The records of metrics.jsonl."""
    histograms: dict[int, dict[str, Any]]
    """By round, Profile.histograms of its model; none of a round that an earlier version evaluated."""
    bought: Counts
    """(purchases, C+1) pixels of each class, and last of void, that each round bought."""
    regions: list[Counter[str]]
    """For each purchase, the regions that were bought in an image, by its id."""
    pool_pixels: Counts | None
    """(C,) pixels of each class in the pool; None where it has no labels or nobody counted them."""

    @property
    def uri(self) -> str:
        """Without credentials."""
        return shown(self.storage.uri)

    @property
    def purchases(self) -> int:
        """How many rounds have bought labels."""
        return len(self.regions)

    @property
    def shares(self) -> tuple[list[float], str] | None:
        """The share of each class among labelled pixels, and of what: the pool, or else the validation split."""
        if self.pool_pixels is not None:
            return (self.pool_pixels / max(int(self.pool_pixels.sum()), 1)).tolist(), "the pool"
        found = self.rows[-1].get("class_share")
        return found and (list(found.values()), "the validation split")

    def picks(self, image_ids: Collection[str]) -> pa.Table:
        """The regions bought in some images, each once, in the order of their purchase (PICKS)."""
        ledger, wanted = Ledger(self.storage), pa.array(sorted(image_ids), pa.string())
        parts = []
        for number in range(1, self.purchases + 1):
            table = ledger.read(number + 1, list(PICKS), first=number)
            table = table.filter(pc.is_in(table["image_id"], wanted))
            parts.append(table.group_by(list(PICKS), use_threads=False).aggregate([]).select(PICKS))
        return pa.concat_tables(parts)


def read_experiment(storage: Storage, data_root: str | None = None) -> Reported:
    """Reads an experiment; a run may be working on it meanwhile.

    Args:
        data_root: as stored_pool.

    Raises:
        InputError: there is none, nothing of it is evaluated yet, or a file of it is damaged or gone.
    """
    if not storage.exists("stages"):
        raise InputError(f"{storage.uri} holds no experiment: name the output_dir of one")
    if not has_metrics(storage):
        raise InputError(f"{storage.uri} has not evaluated a model yet: wait for its first record")
    check_stage(Stages(storage), BEGIN)
    (stored, text), classes, rows = stored_config(storage), stored_classes(storage), read_metrics(storage)
    evaluations = {row["round"]: _histograms(storage, row["round"]) for row in rows}
    bought, regions = _purchases(storage, rows, len(classes.classes))
    return Reported(
        storage=storage,
        stored=stored,
        config_text=redacted(text),
        classes=classes,
        pool=stored_pool(storage, data_root),
        rows=rows,
        histograms={number: found for number, found in evaluations.items() if found is not None},
        bought=bought,
        regions=regions,
        pool_pixels=stored_class_pixels(storage, "pool"),
    )


def _histograms(storage: Storage, number: int) -> dict[str, Any] | None:
    """Of the model after a round; None where an earlier version evaluated it."""
    stages, name = Stages(storage), f"{round_directory(number)}/evaluate"
    if not stages.done(name):
        raise storage.gone(f"stages/{name}.json")
    found: dict[str, Any] | None = stages.result(name)[0].get("histograms")
    return found


def _purchases(storage: Storage, rows: list[Row], classes: int) -> tuple[Counts, list[Counter[str]]]:
    """Pixels by class, and regions by image, of every recorded purchase; one round in memory at a time."""
    ledger, bought, regions = Ledger(storage), [], []
    for number in range(1, rows[-1]["round"] + 1):
        if not ledger.committed(number):
            break  # full supervision buys nothing
        check_stage(Stages(storage), f"{round_directory(number)}/annotate")
        table = ledger.read(number + 1, ["image_id", "region_y", "region_x", "label"], first=number)
        labels = table["label"].to_numpy()
        counts = np.bincount(labels, minlength=IGNORE + 1)
        bought.append([*counts[:classes], counts[IGNORE]])
        places = table.group_by(["image_id", "region_y", "region_x"]).aggregate([])
        regions.append(
            Counter({each["values"]: each["counts"] for each in pc.value_counts(places["image_id"]).to_pylist()})
        )
    return np.array(bought, np.int64).reshape(-1, classes + 1), regions
