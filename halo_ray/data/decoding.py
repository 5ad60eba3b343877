"""Arrow batches of manifest rows with the decoded images beside them, as raw bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.data.classes import ClassSet
from halo_ray.data.images import read_label, read_size
from halo_ray.data.transforms import load_input
from halo_ray.errors import BadRecordError, InputError

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DecodeImages:
    """Adds ``image``: RGB resized to ``size`` (height, width); with ``classes`` also ``label`` at its own size."""

    size: tuple[int, int]
    classes: ClassSet | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        images = [load_input(uri, self.size).tobytes() for uri in batch["image_uri"].to_pylist()]
        batch = batch.append_column("image", pa.array(images, pa.large_binary()))
        if self.classes is not None:
            labels = [read_label(uri, self.classes).tobytes() for uri in batch["label_uri"].to_pylist()]
            batch = batch.append_column("label", pa.array(labels, pa.large_binary()))
        return batch


def pixels(data: bytes, *shape: int) -> Pixels:
    """The uint8 array of that shape, writable, that ``data`` are the bytes of."""
    array: Pixels = np.frombuffer(data, np.uint8).reshape(shape).copy()
    return array


@dataclass(frozen=True)
class InspectRecords:
    """Fills in height and width, and says in ``problem`` why a record cannot be used (null where it can)."""

    classes: ClassSet

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        for row in rows:
            row["problem"] = None
            try:
                row["height"], row["width"] = read_size(row["image_uri"])
                self._check_label(row)
            except InputError as error:
                row["problem"] = str(error)
                row["height"], row["width"] = row["height"] or 0, row["width"] or 0
        return pa.Table.from_pylist(rows, schema=batch.schema.append(pa.field("problem", pa.string())))

    def _check_label(self, row: dict[str, object]) -> None:
        if row["label_uri"] is None:
            return
        label = read_label(str(row["label_uri"]), self.classes)
        if label.shape != (row["height"], row["width"]):
            raise BadRecordError(
                f"label {row['label_uri']} is {label.shape[1]}x{label.shape[0]} pixels, but its image is "
                f"{row['width']}x{row['height']}: give them the same size"
            )
