"""Look at every record before anything is spent: sizes, class shares, and what cannot be used."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.images import File, decode_image, decode_label, other_size, read_ahead
from halo_ray.data.label_formats import LABEL_FORMATS
from halo_ray.data.listing import MANIFEST
from halo_ray.data.listing import MAX_SIDE as MAX_SIDE
from halo_ray.data.manifest import SPLITS
from halo_ray.errors import BadRecordError, InputError
from halo_ray.stages import BEGIN, Stages
from halo_ray.storage import Storage, as_json

Counts = npt.NDArray[np.int64]

INSPECTED = pa.schema(
    [
        *MANIFEST,
        ("problem", pa.string()),
        ("changes", pa.list_(pa.string())),
        ("class_pixels", pa.list_(pa.int64())),
    ]
)
"""A manifest with why a record cannot be used (null where it can), what is done to it when it is read, and the pixels
of each class and of void (C+1), null without a label."""

NAMED_PROBLEMS = 5
"""So many skipped records are printed; bad_records.json has all."""

_BAD, _SUMMARY, _CLASSES = (
    "manifests/bad_records.json",
    "manifests/inspection.json",
    "manifests/source_classes.parquet",
)


@dataclass(frozen=True)
class InspectRecords:
    """Decodes every image and label of manifest rows, and says what it found (INSPECTED)."""

    classes: ClassSet

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        uris = [row[key] for row in rows for key in ("image_uri", "label_uri") if row[key] is not None]
        with read_ahead(uris) as files:
            for row in rows:
                image = next(files)
                label = None if row["label_uri"] is None else next(files)
                row |= {"problem": None, "changes": [], "class_pixels": None}
                try:
                    self._inspect(row, image, label)
                except BadRecordError as error:
                    row["problem"] = str(error)
        return pa.Table.from_pylist(rows, schema=INSPECTED)

    def _inspect(self, row: dict[str, Any], image: File, label: File | None) -> None:
        decoded, row["changes"] = decode_image(image)
        size = row["height"], row["width"] = decoded.height, decoded.width
        if max(size) > MAX_SIDE:
            raise BadRecordError(
                f"image {row['image_uri']} is {size[1]}x{size[0]} pixels: a side may have {MAX_SIDE} at most"
            )
        if label is None:
            return
        classes = decode_label(label, self.classes, row["label_format"])
        if classes.shape != size:
            if row["label_format"] is None or not LABEL_FORMATS[row["label_format"]].own_size:
                raise other_size(row["label_uri"], classes, size)
            row["changes"].append("label resized to its image")
            classes = decode_label(label, self.classes, row["label_format"], size)
        pixels_of = np.bincount(classes.ravel(), minlength=IGNORE + 1)
        row["class_pixels"] = [*pixels_of[: len(self.classes.classes)], pixels_of[IGNORE]]


@dataclass
class SplitInspection:
    """What the inspection found in a split, added up."""

    images: int = 0
    """Usable ones."""
    bad: list[dict[str, str]] = field(default_factory=list)
    """split, image_id and problem of the others."""
    changes: Counter[str] = field(default_factory=Counter)
    """How many usable records are changed in which way when they are read."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many usable images have which (height, width)."""
    class_pixels: Counts | None = None
    """(C+1,) pixels of each class and of void; None without labels."""

    def add(self, split: str, batch: pa.Table) -> None:
        """Counts the rows of INSPECTED."""
        for row in batch.to_pylist():
            if row["problem"] is not None:
                self.bad.append({"split": split, "image_id": row["image_id"], "problem": row["problem"]})
                continue
            self.images += 1
            self.changes.update(row["changes"])
            self.sizes[row["height"], row["width"]] += 1
            if row["class_pixels"] is not None:
                counts = np.array(row["class_pixels"], np.int64)
                self.class_pixels = counts if self.class_pixels is None else self.class_pixels + counts


@dataclass(frozen=True)
class Inspection:
    """What was found in all splits that were inspected."""

    splits: dict[str, SplitInspection]
    source_classes: Counts | None = None
    """(N, C) pixels of each class in each usable source image, in the order of the manifest; None: not inspected."""

    @property
    def bad(self) -> list[dict[str, str]]:
        """split, image_id and problem of every record that cannot be used."""
        return [record for found in self.splits.values() for record in found.bad]

    def settle(self, on_bad_record: str) -> None:
        """Says which records are skipped.

        Raises:
            InputError: there are bad records and ``on_bad_record`` is "fail", or a split has no others, or no class.
        """
        bad = self.bad
        for split, found in self.splits.items():
            if found.bad and not found.images:
                raise InputError(f"data.{split} has no usable record; the first: {found.bad[0]['problem']}")
            if found.class_pixels is not None and not found.class_pixels[:-1].any():
                raise InputError(f"data.{split}: every pixel of every label is void: check data.class_set and its ids")
        if bad and on_bad_record == "fail":
            others = f" ({len(bad) - 1} more records have problems)" if len(bad) > 1 else ""
            raise InputError(f"{bad[0]['problem']}, or set data.on_bad_record to skip{others}")
        for record in bad[:NAMED_PROBLEMS]:
            print(f"data.{record['split']}: {record['image_id']} is skipped: {record['problem']}", flush=True)
        if len(bad) > NAMED_PROBLEMS:
            print(f"{len(bad) - NAMED_PROBLEMS} more records are skipped; {_BAD} lists all", flush=True)


def save_inspection(inspection: Inspection, storage: Storage) -> None:
    """Stores the bad records, what was found in each split, and the classes of each source image."""
    storage.commit(_BAD, as_json(inspection.bad))
    storage.commit(_SUMMARY, as_json({split: summary(found) for split, found in inspection.splits.items()}))
    if inspection.source_classes is not None:
        rows = pa.array(list(inspection.source_classes), pa.list_(pa.int64()))
        storage.write_checked_table(_CLASSES, pa.table({"class_pixels": rows}))


def summary(found: SplitInspection) -> dict[str, Any]:
    """JSON-able; sizes as WIDTHxHEIGHT."""
    return {
        "images": found.images,
        "skipped": len(found.bad),
        "sizes": {f"{width}x{height}": count for (height, width), count in sorted(found.sizes.items())},
        "changes": dict(sorted(found.changes.items())),
        "class_pixels": None if found.class_pixels is None else found.class_pixels.tolist(),
    }


def stored_class_pixels(storage: Storage, split: str) -> Counts | None:
    """(C,) pixels of each class in a split; None where it has no labels or was not looked at."""
    found = json.loads(Stages(storage).read(BEGIN, _SUMMARY)).get(split)
    if found is None or found["class_pixels"] is None:
        return None
    return np.array(found["class_pixels"][:-1], np.int64)


def bad_ids(storage: Storage) -> dict[str, list[str]]:
    """By split, the image ids of the records that the experiment skips."""
    skipped: dict[str, list[str]] = {split: [] for split in SPLITS}
    for record in json.loads(Stages(storage).read(BEGIN, _BAD)):
        skipped[record["split"]].append(record["image_id"])
    return skipped


def source_classes(storage: Storage) -> Counts:
    """(N, C) pixels of each class in each source image, as save_inspection stored them."""
    return np.array(storage.read_checked_table(_CLASSES)["class_pixels"].to_pylist(), np.int64)
