"""The three splits of an experiment: what images exist, where they lie and how large they are."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.bounds import Range, check_ranges
from halo_ray.data.aliases import check_apart
from halo_ray.data.images import read_mask
from halo_ray.data.listing import MANIFEST, MAX_SIDE, Root, check_pattern
from halo_ray.data.local import file_identity
from halo_ray.data.readers import SplitConfig, list_split, split_root
from halo_ray.data.stored_uris import without_credentials
from halo_ray.errors import InputError
from halo_ray.place import is_uri
from halo_ray.storage import Storage

SPLITS = ("source", "pool", "validation")

MIN_INPUT = 32
"""Pixels of a side that every network takes."""

Side = Annotated[int, Range(MIN_INPUT, MAX_SIDE)]


@dataclass(frozen=True)
class DataConfig:
    """Images, labels and classes."""

    source: SplitConfig = field(default_factory=lambda: SplitConfig(scenes=256))
    """Labelled images of the source domain, for pretraining and training; reader none: a cold start without any."""
    pool: SplitConfig = field(default_factory=lambda: SplitConfig(scenes=160))
    """Images of the target domain, from which pixels are bought; their labels are seen by the oracle alone."""
    validation: SplitConfig = field(default_factory=lambda: SplitConfig(scenes=64, first=100_000))
    """Labelled images of the target domain, never trained on."""
    class_set: str = "synthetic"
    """cityscapes19, synthia16, camvid11, synthetic, or the path of a YAML file (classes, ids, ignore_ids, colors,
    miou_star)."""
    on_bad_record: Literal["fail", "skip"] = "fail"
    """What an image or label that cannot be used does: fail ends the run and names it, skip leaves it out of everything
    and lists it in manifests/bad_records.json. May change when a run is resumed."""
    known_labels: str | None = None
    """Pattern below the pool's root of label images that you have already, with * where the image id stands; they may
    cover any part of any image, void meaning unlabelled. They are imported as round 0 and cost nothing."""
    height: Side = 128
    """Height in pixels to which images are resized for the network; labels keep their own."""
    width: Side = 256
    """Width in pixels to which images are resized for the network."""
    source_height: Annotated[int | None, Range(MIN_INPUT, MAX_SIDE)] = None
    """The same for training on source images; null: height."""
    source_width: Annotated[int | None, Range(MIN_INPUT, MAX_SIDE)] = None
    """The same for training on source images; null: width."""

    def __post_init__(self) -> None:
        check_ranges(self, "data.")
        for split in SPLITS:
            check_ranges(getattr(self, split), f"data.{split}.")
        for split in ("pool", "validation"):
            if getattr(self, split).reader == "none":
                raise InputError(f"data.{split}.reader is none: only the source may be missing")

    @property
    def source_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the network's input for source images in training."""
        return self.source_height or self.height, self.source_width or self.width


@dataclass(frozen=True)
class Splits:
    """One manifest (columns: readers.MANIFEST) for each split."""

    source: pa.Table
    pool: pa.Table
    validation: pa.Table

    @property
    def pool_pixels(self) -> int:
        """Number of pixels of the pool, at label resolution."""
        return sum(h * w for h, w in sizes(self.pool))


def list_splits(config: DataConfig, data_root: str, seed: int, *, pool_labels: bool = True) -> Splits:
    """Lists all three splits from their folders.

    Args:
        pool_labels: every pool image must have a label.

    Raises:
        InputError: as list_split; a split without labels that needs them; a validation image in another split.
    """
    tables = {split: list_split(getattr(config, split), data_root, key=f"data.{split}", seed=seed) for split in SPLITS}
    for split, table in tables.items():
        if table["label_uri"].null_count and (pool_labels or split != "pool"):
            use = "the ground-truth oracle" if split == "pool" else "training" if split == "source" else "evaluation"
            bare = table.filter(pc.is_null(table["label_uri"]))["image_id"]
            which = f"{bare[0].as_py()!r} and {len(bare) - 1} more images have no label"
            ask = ", or let people label the pool with annotation.oracle files" if split == "pool" else ""
            raise InputError(f"data.{split}: {which}, but {use} needs one: set data.{split}.labels or add them{ask}")
    check_apart(tables["validation"], {split: tables[split] for split in ("pool", "source")})
    return Splits(**tables)


def local_files(splits: Splits) -> list[str]:
    """The first image of each split that lies in a local file; the inspection will name those that are none."""
    uris = (getattr(splits, split)["image_uri"].to_pylist() for split in SPLITS)
    first = (next((uri for uri in each if is_uri(uri) or file_identity(uri) is not None), None) for each in uris)
    return [uri for uri in first if uri is not None and not is_uri(uri)]


def pool_mask(path: str | None, data_root: str, pool: pa.Table) -> npt.NDArray[np.bool_] | None:
    """(H, W): where in every pool image nothing may be picked, by the image acquisition.never; None without one.

    Args:
        path: as configured; a relative one lies below ``data_root``.

    Raises:
        InputError: it cannot be read, or a pool image has another size.
    """
    if path is None:
        return None
    relative = data_root and not is_uri(path) and not os.path.isabs(path)
    mask = read_mask(Root(data_root).path_uri(path) if relative else path)
    for image_id, size in zip(pool["image_id"].to_pylist(), sizes(pool), strict=True):
        if size != mask.shape:
            raise InputError(
                f"acquisition.never {path} is {mask.shape[1]}x{mask.shape[0]} pixels, but image {image_id} is "
                f"{size[1]}x{size[0]}: give it the size of the pool images"
            )
    return mask


def known_labels(config: DataConfig, data_root: str, pool: pa.Table) -> pa.Table:
    """The pool images (MANIFEST) that have labels already, with the URI of those as label_uri.

    Raises:
        InputError: the pattern is none, or finds no label of any pool image.
    """
    if config.known_labels is None:
        return pool.slice(0, 0)
    check_pattern("data.known_labels", config.known_labels)
    root = Root(split_root(config.pool, data_root, "data.pool"))
    found = root.find(config.known_labels, pool["image_id"].to_pylist())
    known = pool.filter(pa.array([name in found for name in pool["image_id"].to_pylist()], pa.bool_()))
    if not known.num_rows:
        raise InputError(
            f"data.known_labels: nothing below {root.uri} matches {config.known_labels!r} and a pool image"
        )
    uris = [root.path_uri(found[name]) for name in known["image_id"].to_pylist()]
    return known.set_column(known.column_names.index("label_uri"), "label_uri", pa.array(uris, pa.string()))


def save_splits(splits: Splits, storage: Storage) -> None:
    """Stores the manifests, without credentials that stand in URIs: the files are listed anew by every run."""
    for split in SPLITS:
        table = getattr(splits, split)
        for name in ("image_uri", "label_uri"):
            bare = without_credentials(table[name])
            table = table.set_column(table.column_names.index(name), MANIFEST.field(name), bare)
        storage.write_checked_table(f"manifests/{split}.parquet", table)


def load_split(storage: Storage, split: str) -> pa.Table:
    """The stored manifest of one of SPLITS."""
    return storage.read_checked_table(f"manifests/{split}.parquet")


def load_splits(storage: Storage) -> Splits:
    return Splits(**{split: load_split(storage, split) for split in SPLITS})


def sizes(table: pa.Table) -> list[tuple[int, int]]:
    """(height, width) of each image of a manifest."""
    return list(zip(table["height"].to_pylist(), table["width"].to_pylist(), strict=True))
