"""Oracles: who says what class a pixel has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from halo_ray.acquisition.regions import window
from halo_ray.annotations.ledger import LEDGER
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.images import other_size, read_label


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
        """Ledger rows of the requests of each image: its manifest columns, known_y, known_x, and ``picks``."""
        rows: list[dict[str, Any]] = []
        for request in batch.to_pylist():
            size = (request["height"], request["width"])
            label = read_label(request["label_uri"], self.classes, request["label_format"], size)
            bought = np.zeros(size, np.bool_)
            bought[request["known_y"], request["known_x"]] = True
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


@dataclass(frozen=True)
class ImportLabels:
    """Takes labels over that somebody made before: every pixel of a label image that is not void."""

    classes: ClassSet

    name = "imported"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Ledger rows of round 0 for manifest rows whose label_uri is the label to import."""
        tables = [LEDGER.empty_table()]
        for row in batch.to_pylist():
            label = read_label(row["label_uri"], self.classes, row["label_format"])
            size = (row["height"], row["width"])
            if label.shape != size:
                raise other_size(row["label_uri"], label, size)
            y, x = np.nonzero(label != IGNORE)
            known = {"y": y, "x": x, "region_y": y, "region_x": x, "label": label[y, x]}
            same = {"image_id": row["image_id"], "round": 0, "oracle": self.name}
            columns = [
                pa.array(known[field.name]).cast(field.type)
                if field.name in known
                else pa.repeat(pa.scalar(same.get(field.name), field.type), len(y))
                for field in LEDGER
            ]
            tables.append(pa.Table.from_arrays(columns, schema=LEDGER))
        return pa.concat_tables(tables)
