"""The annotation ledger: one row per labelled pixel, append-only, a Parquet file for each round."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from halo_ray.storage import Storage, round_directory

LEDGER = pa.schema(
    [
        ("image_id", pa.string()),
        ("round", pa.int32()),
        ("y", pa.uint16()),
        ("x", pa.uint16()),
        ("region_y", pa.uint16()),
        ("region_x", pa.uint16()),
        ("label", pa.uint8()),
        ("score", pa.float32()),
        ("radius", pa.float32()),
        ("entropy", pa.float32()),
        ("guess", pa.uint8()),
        ("probability", pa.float32()),
        ("oracle", pa.string()),
        ("model", pa.string()),
    ]
)
"""y and x are the pixel at label resolution, region_y and region_x the pick it was bought with; score to probability
are what the model said at that pick; model is the checksum of the weights that chose it."""


class Ledger:
    """The committed rounds of an experiment's ledger. Round n is the n-th purchase, from 1."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @staticmethod
    def file(number: int) -> str:
        return f"{round_directory(number)}/annotations/ledger.parquet"

    def read(self, before: int, columns: list[str] | None = None) -> pa.Table:
        """Rows of the rounds 1..before−1, in the order of their commit."""
        schema = LEDGER if columns is None else pa.schema([LEDGER.field(name) for name in columns])
        parts = [
            pq.read_table(io.BytesIO(self._storage.read(self.file(number))), columns=columns)
            for number in range(1, before)
        ]
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def asked_regions(self, before: int) -> dict[str, tuple[list[int], list[int]]]:
        """(y, x) of the regions asked before round ``before``, by image id; each region once."""
        table = self.read(before, ["image_id", "region_y", "region_x"])
        regions = table.group_by(table.column_names, use_threads=False).aggregate([])
        asked: dict[str, tuple[list[int], list[int]]] = {}
        for row in regions.to_pylist():
            ys, xs = asked.setdefault(row["image_id"], ([], []))
            ys.append(row["region_y"])
            xs.append(row["region_x"])
        return asked

    def sparse_labels(self, before: int) -> pa.Table:
        """Labelled pixels of each image as lists: image_id, y, x, label; sorted by image_id."""
        table = self.read(before, ["image_id", "y", "x", "label"])
        order = np.argsort(table["image_id"].to_numpy(zero_copy_only=False).astype(str), kind="stable")
        table = table.take(order)
        lists = table.group_by("image_id", use_threads=False).aggregate(
            [(name, "list") for name in ("y", "x", "label")]
        )
        return lists.rename_columns({"y_list": "y", "x_list": "x", "label_list": "label"})
