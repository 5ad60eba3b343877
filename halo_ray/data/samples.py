"""Training samples: rows of a schedule, loaded in Ray tasks as raw bytes and turned into tensors by the trainer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from PIL import Image
from torch import Tensor

from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.decoding import Pixels, pixels
from halo_ray.data.images import File, decode_image, decode_label, read_ahead
from halo_ray.data.schedule import SOURCE, TARGET
from halo_ray.data.transforms import Augmentation, AugmentationConfig, Points, View

SAMPLES = pa.schema(
    [
        ("image_id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.large_binary()),
        ("label", pa.large_binary()),
        ("point_y", pa.large_binary()),
        ("point_x", pa.large_binary()),
        ("point_label", pa.large_binary()),
    ]
)
"""height and width (H, W) are the network's input; uint8 (H, W, 3), uint8 (H, W), float32 (P,), float32 (P,), uint8
(P,) as bytes.
Source rows have dense labels and no points; pool rows the other way round."""


@dataclass(frozen=True)
class LoadSamples:
    """Loads rows of a schedule (SCHEDULE) as SAMPLES.

    Args:
        sizes: (height, width) of the network's input by domain.
        labels: reference to the ledger's sparse labels (image_id, y, x, label lists) in the object store: shared by all
            tasks of a node, where a column of the schedule would repeat them for every use of an image.
        show_pixels: a window shows the class that its row wants with more pixels than this.
    """

    sizes: Mapping[str, tuple[int, int]]
    classes: ClassSet
    labels: ray.ObjectRef[pa.Table]
    seed: int
    augment: AugmentationConfig
    show_pixels: int = 0

    def __call__(self, batch: pa.Table) -> pa.Table:
        labels = ray.get(self.labels)
        rows = batch.to_pylist()
        dense = [row["domain"] == SOURCE for row in rows]
        uris = [(row["image_uri"], *([row["label_uri"]] if d else [])) for row, d in zip(rows, dense, strict=True)]
        files = read_ahead(chain.from_iterable(uris))
        samples = []
        for row, d in zip(rows, dense, strict=True):
            image = decode_image(next(files))[0]
            samples.append(self._source(row, image, next(files)) if d else self._target(row, image, labels))
        return pa.Table.from_pylist(samples, schema=SAMPLES)

    def _source(self, row: dict[str, Any], image: Image.Image, label: File) -> dict[str, Any]:
        draw, shape = self._draw(row), (image.height, image.width)
        views = draw.views(shape, self.sizes[SOURCE])
        # The whole label is resized before its ids are looked up, a window afterwards.
        size = self.sizes[SOURCE] if draw.scale is None else shape
        classes = decode_label(label, self.classes, row["label_format"], size)
        view, shown = self._showing(row["show_class"], ((view, view.label(classes)) for view in views))
        nothing = Points(np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))
        return self._sample(row, draw.image(view.image(image)), draw.label(shown), nothing)

    def _showing(self, wanted: int, seen: Iterator[tuple[View, Pixels]]) -> tuple[View, Pixels]:
        """The first window that shows enough of a class, or the last that was tried."""
        view, label = next(seen)
        while wanted >= 0 and (label == wanted).sum() <= self.show_pixels:
            more = next(seen, None)
            if more is None:
                break
            view, label = more
        return view, label

    def _target(self, row: dict[str, Any], image: Image.Image, labels: pa.Table) -> dict[str, Any]:
        draw = self._draw(row)
        view = next(draw.views((image.height, image.width), self.sizes[TARGET]))
        place = pc.index(labels["image_id"], row["image_id"]).as_py()
        if place < 0:
            raise KeyError(f"image {row['image_id']} is scheduled as a target, but the ledger holds no label of it")
        y, x, label = (labels[name][place].values.to_numpy() for name in ("y", "x", "label"))
        points = Points.from_pixels(y.astype(np.int64), x.astype(np.int64), label, (row["height"], row["width"]))
        unlabelled = np.full(self.sizes[TARGET], IGNORE, np.uint8)
        return self._sample(row, draw.image(view.image(image)), unlabelled, draw.points(view.points(points)))

    def _draw(self, row: dict[str, Any]) -> Augmentation:
        return Augmentation.draw(self.seed, row["row"], self.augment)

    def _sample(self, row: dict[str, Any], image: Image.Image, label: Pixels, points: Points) -> dict[str, Any]:
        return {
            "image_id": row["image_id"],
            "height": image.height,
            "width": image.width,
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
    """Samples of one size on the device."""

    images: Tensor
    """uint8 (N, H, W, 3)."""
    labels: Tensor
    """uint8 (N, H, W)."""
    points: PointTensors


def batch_to_tensors(batch: pa.Table, device: torch.device) -> list[Samples]:
    """The tensors of SAMPLES rows, those of each input size together."""
    rows = batch.to_pylist()
    sizes = dict.fromkeys((row["height"], row["width"]) for row in rows)
    return [_tensors([row for row in rows if (row["height"], row["width"]) == size], size, device) for size in sizes]


def _tensors(rows: list[dict[str, Any]], size: tuple[int, int], device: torch.device) -> Samples:
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
