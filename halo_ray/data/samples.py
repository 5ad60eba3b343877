"""Training samples: rows of a schedule, loaded in Ray tasks as raw bytes and turned into tensors by the trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from torch import Tensor

from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.decoding import pixels
from halo_ray.data.images import read_image, read_label
from halo_ray.data.schedule import SOURCE
from halo_ray.data.transforms import Augmentation, Points, resize_image, resize_label

SAMPLES = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.large_binary()),
        ("label", pa.large_binary()),
        ("point_y", pa.large_binary()),
        ("point_x", pa.large_binary()),
        ("point_label", pa.large_binary()),
    ]
)
"""uint8 (H, W, 3), uint8 (H, W), float32 (P,), float32 (P,), uint8 (P,) as bytes, H and W being the network's input.
Source rows have dense labels and no points; pool rows the other way round."""


@dataclass(frozen=True)
class LoadSamples:
    """Loads rows of a schedule (SCHEDULE) as SAMPLES.

    Args:
        size: (height, width) of the network's input.
        labels: reference to the ledger's sparse labels (image_id, y, x, label lists) in the object store: shared by all
            tasks of a node, where a column of the schedule would repeat them for every use of an image.
    """

    size: tuple[int, int]
    classes: ClassSet
    labels: ray.ObjectRef[pa.Table]
    seed: int
    flip: bool
    color_jitter: float

    def __call__(self, batch: pa.Table) -> pa.Table:
        labels = ray.get(self.labels)
        rows = [
            self._source(row) if row["domain"] == SOURCE else self._target(row, labels) for row in batch.to_pylist()
        ]
        return pa.Table.from_pylist(rows, schema=SAMPLES)

    def _source(self, row: dict[str, Any]) -> dict[str, Any]:
        draw = self._draw(row)
        label = resize_label(read_label(row["label_uri"], self.classes), self.size)
        nothing = Points(np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))
        return self._sample(row, draw, draw.label(label), nothing)

    def _target(self, row: dict[str, Any], labels: pa.Table) -> dict[str, Any]:
        draw = self._draw(row)
        place = pc.index(labels["image_id"], row["image_id"]).as_py()
        if place < 0:
            raise KeyError(f"image {row['image_id']} is scheduled as a target, but the ledger holds no label of it")
        y, x, label = (labels[name][place].values.to_numpy() for name in ("y", "x", "label"))
        points = Points.from_pixels(y.astype(np.int64), x.astype(np.int64), label, (row["height"], row["width"]))
        unlabelled = np.full(self.size, IGNORE, np.uint8)
        return self._sample(row, draw, unlabelled, draw.points(points))

    def _draw(self, row: dict[str, Any]) -> Augmentation:
        return Augmentation.draw(self.seed, row["row"], flip=self.flip, color_jitter=self.color_jitter)

    def _sample(
        self, row: dict[str, Any], draw: Augmentation, label: npt.NDArray[np.uint8], points: Points
    ) -> dict[str, Any]:
        image = draw.image(resize_image(read_image(row["image_uri"]), self.size))
        return {
            "image_id": row["image_id"],
            "image": image.tobytes(),
            "label": label.tobytes(),
            "point_y": points.y.tobytes(),
            "point_x": points.x.tobytes(),
            "point_label": points.label.tobytes(),
        }


class PointTensors(NamedTuple):
    """Bought pixels of a batch, in the argument order of point_cross_entropy; each (P,)."""

    image: Tensor
    y: Tensor
    x: Tensor
    labels: Tensor


class Samples(NamedTuple):
    """A batch on the device."""

    images: Tensor
    """uint8 (N, H, W, 3)."""
    labels: Tensor
    """uint8 (N, H, W)."""
    points: PointTensors


def batch_to_tensors(batch: pa.Table, size: tuple[int, int], device: torch.device) -> Samples:
    """The tensors of SAMPLES rows."""
    rows = batch.to_pylist()
    images = np.stack([pixels(row["image"], *size, 3) for row in rows])
    labels = np.stack([pixels(row["label"], *size) for row in rows])
    counts = [len(row["point_label"]) for row in rows]
    points = PointTensors(
        torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
        _joined(rows, "point_y", np.float32),
        _joined(rows, "point_x", np.float32),
        _joined(rows, "point_label", np.uint8),
    )
    return Samples(
        torch.from_numpy(images).to(device),
        torch.from_numpy(labels).to(device),
        PointTensors(*(values.to(device) for values in points)),
    )


def _joined(rows: list[dict[str, Any]], name: str, dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.frombuffer(row[name], dtype) for row in rows]))
