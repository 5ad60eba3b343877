"""Oracles: who says what class a pixel has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from halo_ray.acquisition.regions import window
from halo_ray.annotations.ledger import LEDGER
from halo_ray.data.classes import ClassSet
from halo_ray.data.images import read_label


@dataclass(frozen=True)
class GroundTruth:
    """Looks labels up in the pool's label files: a simulated annotator who is never wrong.

    Void is not known beforehand; a region there is paid for and its pixels are ignored.
    """

    classes: ClassSet
    region_radius: int
    round: int
    model: str

    name = "ground_truth"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Ledger rows of the requests of each image: image_id, label_uri, asked_y, asked_x, and ``picks``."""
        rows: list[dict[str, Any]] = []
        for request in batch.to_pylist():
            label = read_label(request["label_uri"], self.classes)
            bought = np.zeros(label.shape, np.bool_)
            for y, x in zip(request["asked_y"], request["asked_x"], strict=True):
                bought[window(y, x, self.region_radius)] = True
            for pick in request["picks"]:
                region = window(pick["y"], pick["x"], self.region_radius)
                # Regions may overlap where the exclusion radius is small; no pixel is bought twice.
                ys, xs = np.nonzero(~bought[region])
                bought[region] = True
                rows += [
                    {
                        **pick,
                        "image_id": request["image_id"],
                        "round": self.round,
                        "y": y,
                        "x": x,
                        "region_y": pick["y"],
                        "region_x": pick["x"],
                        "label": int(label[y, x]),
                        "oracle": self.name,
                        "model": self.model,
                    }
                    for y, x in zip((ys + region[0].start).tolist(), (xs + region[1].start).tolist(), strict=True)
                ]
        return pa.Table.from_pylist(rows, schema=LEDGER)
