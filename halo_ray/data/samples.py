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
from torch import Tensor

from halo_ray.data.classes import ClassSet
from halo_ray.data.decoding import Pixels, pixels
from halo_ray.data.features import Features, network_input
from halo_ray.data.images import File, decode_image, decode_label, read_ahead
from halo_ray.data.schedule import SOURCE, TARGET
from halo_ray.data.transforms import Augmentation, AugmentationConfig, Points, View

SAMPLES = pa.schema(
    [
        ("image_id", pa.string()),
        ("domain", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.large_binary()),
        ("label", pa.large_binary()),
        ("point_y", pa.large_binary()),
        ("point_x", pa.large_binary()),
        ("point_label", pa.large_binary()),
    ]
)
"""height and width (H, W) are the network's input; uint8 (H, W, 3) or stored features, uint8 (H, W), float32 (P,),
float32 (P,), uint8 (P,) as bytes. Source rows have dense labels and no points; pool rows the other way round, or also
dense labels under full supervision."""

NO_POINTS = Points(np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.uint8))


@dataclass(frozen=True)
class LoadSamples:
    """Loads rows of a schedule (SCHEDULE) as SAMPLES.

    Args:
        sizes: (height, width) of the network's input by domain.
        labels: reference to the ledger's sparse labels (image_id, y, x, label lists) in the object store: shared by all
            tasks of a node, where a column of the schedule would repeat them for every use of an image.
        dense_target: pool rows have the dense labels of their files too, and no points.
        features: read these instead of images.
        show_pixels: a window shows the class that its row wants with more pixels than this.
    """

    sizes: Mapping[str, tuple[int, int]]
    classes: ClassSet
    labels: ray.ObjectRef[pa.Table]
    seed: int
    augment: AugmentationConfig
    dense_target: bool = False
    features: Features | None = None
    show_pixels: int = 0

    def __call__(self, batch: pa.Table) -> pa.Table:
        labels = ray.get(self.labels)
        rows = batch.to_pylist()
        dense = [row["domain"] == SOURCE or self.dense_target for row in rows]
        uris = chain.from_iterable(self._uris(row, d) for row, d in zip(rows, dense, strict=True))
        samples = []
        with read_ahead(uris) as files:
            for row, d in zip(rows, dense, strict=True):
                image = next(files)
                samples.append(self._labelled(row, image, next(files)) if d else self._target(row, image, labels))
        return pa.Table.from_pylist(samples, schema=SAMPLES)

    def _uris(self, row: dict[str, Any], dense: bool) -> list[str]:
        image = row["image_uri"]
        if self.features is not None:
            split = "source" if row["domain"] == SOURCE else "pool"
            (image,) = self.features.uris(split, [row["image_id"]], [self._draw(row).flip])
        return [image, row["label_uri"]] if dense else [image]

    def _labelled(self, row: dict[str, Any], image: File, label: File) -> dict[str, Any]:
        draw, size = self._draw(row), self.sizes[row["domain"]]
        shape = (row["height"], row["width"])
        views = draw.views(shape, size)
        # The whole label is resized before its ids are looked up, a window afterwards.
        classes = decode_label(label, self.classes, row["label_format"], size if draw.scale is None else shape)
        view, shown = self._showing(row["show_class"], ((view, view.label(classes)) for view in views))
        return self._sample(row, self._pixels(draw, view, image, size), NO_POINTS, draw.label(shown).tobytes())

    def _showing(self, wanted: int, seen: Iterator[tuple[View, Pixels]]) -> tuple[View, Pixels]:
        """The first window that shows enough of a class, or the last that was tried."""
        view, label = next(seen)
        while wanted >= 0 and (label == wanted).sum() <= self.show_pixels:
            more = next(seen, None)
            if more is None:
                break
            view, label = more
        return view, label

    def _target(self, row: dict[str, Any], image: File, labels: pa.Table) -> dict[str, Any]:
        draw, size = self._draw(row), self.sizes[TARGET]
        view = next(draw.views((row["height"], row["width"]), size))
        place, points = pc.index(labels["image_id"], row["image_id"]).as_py(), NO_POINTS
        if place >= 0:  # negative learning also looks at images without a label
            y, x, label = (labels[name][place].values.to_numpy() for name in ("y", "x", "label"))
            points = Points.from_pixels(y.astype(np.int64), x.astype(np.int64), label, (row["height"], row["width"]))
        return self._sample(row, self._pixels(draw, view, image, size), draw.points(view.points(points)), b"")

    def _pixels(self, draw: Augmentation, view: View, image: File, size: tuple[int, int]) -> bytes:
        """What the network sees of an image; its stored features are those of the mirror image where it was drawn."""
        if self.features is not None:
            return self.features.read(image, size)
        return draw.image(view.image(decode_image(image)[0])).tobytes()

    def _draw(self, row: dict[str, Any]) -> Augmentation:
        return Augmentation.draw(self.seed, row["row"], self.augment)

    def _sample(self, row: dict[str, Any], image: bytes, points: Points, label: bytes) -> dict[str, Any]:
        height, width = self.sizes[row["domain"]]
        return {
            "image_id": row["image_id"],
            "domain": row["domain"],
            "height": height,
            "width": width,
            "image": image,
            "label": label,
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
    """Samples of one size on the device, those of the source first."""

    images: Tensor | list[Tensor]
    """uint8 (N, H, W, 3), or feature maps (N, C, h, w)."""
    labels: Tensor
    """uint8 (M, H, W) of the first M images: those of the source, or all."""
    points: PointTensors
    sources: int
    """How many are of the source."""
    size: tuple[int, int]
    """(H, W)."""


def batch_to_tensors(batch: pa.Table, device: torch.device, features: Features | None = None) -> list[Samples]:
    """The tensors of SAMPLES rows, those of each input size together.

    Args:
        features: the rows hold these instead of images.
    """
    rows = sorted(batch.to_pylist(), key=lambda row: bool(row["domain"] != SOURCE))
    sizes = dict.fromkeys((row["height"], row["width"]) for row in rows)
    return [
        _tensors([row for row in rows if (row["height"], row["width"]) == size], size, device, features)
        for size in sizes
    ]


def _tensors(
    rows: list[dict[str, Any]], size: tuple[int, int], device: torch.device, features: Features | None
) -> Samples:
    labels = [pixels(row["label"], *size) for row in rows if row["label"]]
    counts = [len(row["point_label"]) for row in rows]
    points = PointTensors(
        torch.from_numpy(np.repeat(np.arange(len(rows)), counts)),
        _joined(rows, "point_y", np.float32),
        _joined(rows, "point_x", np.float32),
        _joined(rows, "point_label", np.uint8),
    )
    return Samples(
        network_input([row["image"] for row in rows], size, features, device),
        torch.from_numpy(np.stack(labels) if labels else np.empty((0, *size), np.uint8)).to(device),
        PointTensors(*(values.to(device) for values in points)),
        sum(row["domain"] == SOURCE for row in rows),
        size,
    )


def _joined(rows: list[dict[str, Any]], name: str, dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.frombuffer(row[name], dtype) for row in rows]))
