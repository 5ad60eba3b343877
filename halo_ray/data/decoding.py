"""Arrow batches of manifest rows with the decoded images beside them, as raw bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.data.classes import ClassSet
from halo_ray.data.features import Features
from halo_ray.data.images import File, decode_image, decode_label, read_ahead
from halo_ray.data.transforms import View
from halo_ray.errors import BadRecordError

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DecodeImages:
    """Adds ``image``: RGB resized to ``size`` (height, width); with ``classes`` also ``label`` at the image's own size.

    Args:
        keep_bad: an image that cannot be read is null, and a column ``problem`` says why; else it is an error.
        features: give the stored features of ``split`` instead of images, with ``mirrored`` those of the mirror image
            behind them.
    """

    size: tuple[int, int]
    classes: ClassSet | None = None
    keep_bad: bool = False
    features: Features | None = None
    split: str = "pool"
    mirrored: bool = False

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.features is None:
            with read_ahead(batch["image_uri"].to_pylist()) as files:
                found = [self._image(file) for file in files]
        else:
            found = [(data, None) for data in self._stored(batch["image_id"].to_pylist(), self.features)]
        batch = batch.append_column("image", pa.array([image for image, _ in found], pa.large_binary()))
        if self.keep_bad:
            batch = batch.append_column("problem", pa.array([problem for _, problem in found], pa.string()))
        if self.classes is not None:
            labels = [label.tobytes() for label in self._labels(batch, self.classes)]
            batch = batch.append_column("label", pa.array(labels, pa.large_binary()))
        return batch

    def _stored(self, image_ids: list[str], features: Features) -> list[bytes]:
        which = [False, True] if self.mirrored else [False]
        repeated = [image_id for image_id in image_ids for _ in which]
        with read_ahead(features.uris(self.split, repeated, which * len(image_ids))) as files:
            return [b"".join(features.read(next(files), self.size) for _ in which) for _ in image_ids]

    def _image(self, file: File) -> tuple[bytes | None, str | None]:
        """The resized image, or why there is none."""
        try:
            return View.whole(self.size).image(decode_image(file)[0]).tobytes(), None
        except BadRecordError as error:
            if not self.keep_bad:
                raise
            return None, str(error)

    def _labels(self, batch: pa.Table, classes: ClassSet) -> list[Pixels]:
        rows = batch.select(["label_uri", "label_format", "height", "width"]).to_pylist()
        with read_ahead(row["label_uri"] for row in rows) as files:
            return [
                decode_label(file, classes, row["label_format"], (row["height"], row["width"]))
                for file, row in zip(files, rows, strict=True)
            ]


def pixels(data: bytes, *shape: int) -> Pixels:
    """The uint8 array of that shape, writable, that ``data`` are the bytes of."""
    array: Pixels = np.frombuffer(data, np.uint8).reshape(shape).copy()
    return array
