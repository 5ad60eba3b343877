"""From the configuration of a split to its manifest, without opening any image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa

from halo_ray.bounds import COUNT, Range
from halo_ray.data.aliases import one_name_each
from halo_ray.data.images import SYNTHETIC
from halo_ray.data.layouts import acdc, camvid, cityscapes, folder, gtav, synthia
from halo_ray.data.listing import MANIFEST, MAX_SIDE, only_listed
from halo_ray.data.synthetic import MIN_SIDE, STYLES
from halo_ray.errors import InputError
from halo_ray.filesystems import below
from halo_ray.place import is_uri
from halo_ray.suggest import nearest

LAYOUTS = {"cityscapes": cityscapes, "gtav": gtav, "synthia": synthia, "acdc": acdc, "camvid": camvid}
"""Official folder layouts by the name of their reader."""

NAMED_SPLITS = {"cityscapes": "train", "acdc": "train", "camvid": "day"}
"""Readers whose split must be named, each with an example."""

READERS = (*LAYOUTS, "folder", "synthetic", "none")

MOST_SCENES = 10_000_000
"""All are listed before any is rendered."""


@dataclass(frozen=True)
class SplitConfig:
    """Where the images of one split come from; DataConfig checks the ranges, since it knows which one."""

    reader: str = "synthetic"
    """Folder layout: cityscapes, gtav, synthia, acdc, camvid, folder (any), synthetic (rendered), or none (no
    source at all)."""
    split: str = ""
    """Name of the split in that layout: cityscapes: train, val, test; acdc: the same, or night/train for one condition;
    camvid: a list under splits/, as day; synthetic: source or target (empty: as the split of this experiment)."""
    root: str | None = None
    """Directory or URI of this split, a relative one below data_root if that is given; null: data_root."""
    images: str = "images/*"
    """Reader folder: pattern of the images below the root; one * stands for the image id."""
    labels: str | None = None
    """Reader folder: pattern of the labels, with * where the image id stands; null: no labels."""
    list_file: str | None = None
    """File below the root with one image id per line; null: all images of the split."""
    count: Annotated[int, Range(0, COUNT)] = 0
    """Use the first so many images; 0: all."""
    scenes: Annotated[int, Range(0, MOST_SCENES)] = 0
    """Reader synthetic: number of scenes."""
    first: Annotated[int, Range(0, COUNT)] = 0
    """Reader synthetic: index of the first scene."""
    height: Annotated[int, Range(MIN_SIDE, MAX_SIDE)] = 128
    """Reader synthetic: height of a scene in pixels."""
    width: Annotated[int, Range(MIN_SIDE, MAX_SIDE)] = 256
    """Reader synthetic: width of a scene in pixels."""


def list_split(config: SplitConfig, data_root: str, *, key: str, seed: int = 0) -> pa.Table:
    """The manifest of one split, sorted by image id; each image stands there once, however many names it has.

    Args:
        key: the config key of the split, named in errors.
        seed: of the synthetic scenes.

    Raises:
        InputError: unknown reader, missing directory or files, two images of one id, or no image at all.
    """
    if config.reader not in READERS:
        raise InputError(f"{key}.reader: no reader {config.reader!r}; {nearest(config.reader, READERS)}")
    if config.reader in NAMED_SPLITS and not config.split:
        example = NAMED_SPLITS[config.reader]
        raise InputError(f"{key}.split: {config.reader} has several splits: name one, such as {example}")
    if config.reader == "none":
        return MANIFEST.empty_table()
    root = data_root
    if config.reader == "synthetic":
        table = _synthetic(config, seed, key)
    else:
        root = split_root(config, data_root, key)
        try:
            table = one_name_each(_read(config, root), key)
        except InputError as error:
            raise InputError(f"{key}: {error}") from error
    table = table.sort_by("image_id")
    if config.count:
        table = table.slice(0, config.count)
    if not table.num_rows:
        of = f" of split {config.split!r}" if config.split else ""
        raise InputError(f"{key}: no images{of} under {root!r}: check data_root and {key}")
    return table


def split_root(config: SplitConfig, data_root: str, key: str) -> str:
    """The directory or URI below which the files of a split lie.

    Raises:
        InputError: none was given.
    """
    root = config.root or data_root
    if not root:
        raise InputError(f"{key} needs a directory: set --data_root or --{key}.root")
    if not config.root or not data_root or is_uri(root) or os.path.isabs(root):
        return root
    return below(data_root, root)


def _read(config: SplitConfig, root: str) -> pa.Table:
    if config.reader == "folder":
        return folder(root, images=config.images, labels=config.labels, list_file=config.list_file)
    return only_listed(LAYOUTS[config.reader](root, config.split), root, config.list_file)


def _synthetic(config: SplitConfig, seed: int, key: str) -> pa.Table:
    style = config.split or ("source" if key == "data.source" else "target")
    if style not in STYLES:
        raise InputError(f"{key}.split: no synthetic style {style!r}; {nearest(style, STYLES)}")
    rows: list[dict[str, object]] = []
    for index in range(config.first, config.first + config.scenes):
        uri = f"{SYNTHETIC}://{style}/{seed}/{index}?height={config.height}&width={config.width}"
        name = f"{style}-{index:06d}"
        rows.append(
            {"image_id": name, "image_uri": uri, "label_uri": uri, "height": config.height, "width": config.width}
        )
    return pa.Table.from_pylist(rows, schema=MANIFEST)
