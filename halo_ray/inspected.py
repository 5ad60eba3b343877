"""The usable images of an experiment: looked at now, when it began, or by another experiment with the same data."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.config import Config
from halo_ray.data.classes import ClassSet
from halo_ray.data.inspection import bad_ids, save_inspection
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS, Splits, load_splits, save_splits
from halo_ray.errors import InputError
from halo_ray.pipeline import inspect_splits
from halo_ray.shared_keys import inspection_entry
from halo_ray.shared_stages import SHAREABLE, SharedStore
from halo_ray.storage import Storage

Save = Callable[[Storage], None]


def inspect_or_take(config: Config, listed: Splits, classes: ClassSet) -> tuple[Splits, Save]:
    """The usable records of the listed files with their sizes, and what stores the findings in an experiment.

    Raises:
        InputError: a record cannot be used, and data.on_bad_record is "fail".
    """
    shared = config.execution.shared_stages
    store, entry = SharedStore(Storage(shared)) if shared else None, inspection_entry(config, listed, classes)
    if store and (found := store.find(entry)):
        found.check()
        none: dict[str, list[str]] = {split: [] for split in SPLITS}  # what skips images is not published
        splits = with_stored_sizes(listed, found.storage, skipped=none)
        return splits, lambda storage: storage.take(found.storage, "manifests")
    counted = ["source"] if config.needs_class_statistics else []
    splits, inspection = inspect_splits(listed, classes, config.execution, known_too=counted)
    inspection.settle(config.data.on_bad_record)

    def save(storage: Storage) -> None:
        save_splits(splits, storage)
        save_inspection(inspection, storage)
        if store and not inspection.bad:  # whoever skips records must be told of them
            store.publish(entry, storage, SHAREABLE["inspection"].directories(None), None)

    return splits, save


def with_stored_sizes(listed: Splits, storage: Storage, skipped: dict[str, list[str]] | None = None) -> Splits:
    """The listed files with the sizes that are stored; the same images may lie elsewhere now.

    Args:
        skipped: image ids by split that are left out; None: those that the experiment in ``storage`` skips.

    Raises:
        InputError: they are not the same images.
    """
    stored, skipped = load_splits(storage), bad_ids(storage) if skipped is None else skipped
    tables: dict[str, pa.Table] = {}
    for split in SPLITS:
        now, before = getattr(listed, split), getattr(stored, split)
        now = now.filter(pc.invert(pc.is_in(now["image_id"], pa.array(skipped[split], pa.string()))))
        changed = set(now["image_id"].to_pylist()) ^ set(before["image_id"].to_pylist())
        if changed:
            raise InputError(
                f"data.{split} is not what {storage.uri} was begun with (image {min(changed)!r} came or went): "
                "restore it or name another output_dir"
            )
        tables[split] = pa.Table.from_arrays(
            [before[name] if name in ("height", "width") else now[name] for name in MANIFEST.names], schema=MANIFEST
        )
    return Splits(**tables)
