"""The manifests of an experiment and what the inspection said of them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from halo_ray.data.inspection import MAX_SIDE
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS, sizes
from halo_ray.verification.reader import RESTORE, Reader
from halo_ray.verification.subject import Pool, Subject

BAD, INSPECTION, SOURCE_CLASSES = (
    "manifests/bad_records.json",
    "manifests/inspection.json",
    "manifests/source_classes.parquet",
)
_SOURCE_CLASSES = pa.schema([("class_pixels", pa.list_(pa.int64()))])


def manifest_file(split: str) -> str:
    return f"manifests/{split}.parquet"


def check_manifests(subject: Subject) -> None:
    """Checks the manifests and the files of the inspection, and gives the subject its pool."""
    reader, tables = subject.reader, {}
    for split in SPLITS:
        name = manifest_file(split)
        table = reader.table(name, reader.checked(name), MANIFEST)
        if table is not None and _is_sound(reader, name, table):
            tables[split] = table
    if "pool" in tables:
        pool = tables["pool"]
        height, width = (pool[key].to_numpy().astype(np.int64) for key in ("height", "width"))
        subject.pool = Pool(pool["image_id"], height, width)
        if not pool.num_rows:
            subject.findings.add(manifest_file("pool"), f"holds no image: {RESTORE}")
            subject.pool = None
    _check_inspection(subject, tables)
    needed = subject.config is not None and subject.config.needs_class_statistics
    if needed or reader.storage.exists(SOURCE_CLASSES):
        _check_source_classes(subject, tables.get("source"))


def _is_sound(reader: Reader, name: str, table: pa.Table) -> bool:
    """Whether ids are unique and sorted, and sizes possible."""
    wrong = len(reader.findings.wrong)
    if table["image_id"].null_count or table["height"].null_count or table["width"].null_count:
        reader.findings.add(name, f"has images without id or size: {RESTORE}")
        return False
    ids = table["image_id"].to_pylist()
    for one, other in pairwise(ids):
        if one >= other:
            why = "stands twice" if one == other else f"stands after {one!r}"
            reader.findings.add(name, f"image {other!r} {why}, but ids are unique and sorted: {RESTORE}")
            break
    for image_id, (height, width) in zip(ids, sizes(table), strict=True):
        if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
            reader.findings.add(name, f"image {image_id!r} is {width}x{height} pixels: {RESTORE}")
            break
    return len(reader.findings.wrong) == wrong


def _check_inspection(subject: Subject, tables: dict[str, pa.Table]) -> None:
    """Checks bad_records.json and inspection.json against the manifests."""
    reader = subject.reader
    bad, found = reader.json(BAD), reader.json(INSPECTION)
    skipped: Counter[str] = Counter()
    if bad is not None:
        with reader.understanding(BAD):
            for record in bad:
                skipped[record["split"]] += 1
                if set(record) != {"split", "image_id", "problem"} or record["split"] not in SPLITS:
                    raise ValueError(f"{record} is no bad record")
    if found is None:
        return
    with reader.understanding(INSPECTION):
        if not set(found) <= set(SPLITS):
            raise ValueError(f"splits {', '.join(found)}")
        for split, said in found.items():
            if split in tables:
                _check_summary(subject, split, said, tables[split])
            if bad is not None and said["skipped"] != skipped[split]:
                subject.findings.add(
                    INSPECTION, f"{split}: {said['skipped']} images were skipped, {BAD} has {skipped[split]}: {RESTORE}"
                )


def _check_summary(subject: Subject, split: str, said: dict[str, Any], table: pa.Table) -> None:
    counted = Counter(f"{width}x{height}" for height, width in sizes(table))
    if said["images"] != table.num_rows or said["sizes"] != dict(counted):
        subject.findings.add(
            INSPECTION, f"{split}: its images and sizes are not those of {manifest_file(split)}: {RESTORE}"
        )
    pixels, classes = said["class_pixels"], subject.classes
    if pixels is None:
        return
    every = sum(h * w for h, w in sizes(table))
    # Images without a label have no class pixels.
    if min(pixels) < 0 or sum(pixels) > every or (sum(pixels) < every and not table["label_uri"].null_count):
        subject.findings.add(INSPECTION, f"{split}: counts {sum(pixels)} pixels, not {every}: {RESTORE}")
    if classes is not None and len(pixels) != len(classes.classes) + 1:
        subject.findings.add(INSPECTION, f"{split}: counts {len(pixels) - 1} classes, not {len(classes.classes)}")


def _check_source_classes(subject: Subject, source: pa.Table | None) -> None:
    reader = subject.reader
    table = reader.table(SOURCE_CLASSES, reader.checked(SOURCE_CLASSES), _SOURCE_CLASSES)
    if table is None or source is None or subject.classes is None:
        return
    counts, classes = table["class_pixels"].to_pylist(), len(subject.classes.classes)
    fits = len(counts) == source.num_rows and all(
        len(row) == classes and min(row) >= 0 and sum(row) <= h * w
        for row, (h, w) in zip(counts, sizes(source), strict=False)
    )
    if not fits:
        subject.findings.add(SOURCE_CLASSES, f"are not the class pixels of {manifest_file('source')}: {RESTORE}")
