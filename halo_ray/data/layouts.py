"""Folder layouts in which datasets come, each a function that lists one split of it as a manifest.

Nothing is opened, renamed or converted. All raise InputError where the root is no directory. Several names of one
image are listed each, and two images may have the same id: see aliases.one_name_each.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from halo_ray.data.listing import Root, check_pattern, manifest, only_listed
from halo_ray.errors import InputError
from halo_ray.suggest import nearest

CONDITIONS = ("fog", "night", "rain", "snow")
"""Of ACDC."""


def cityscapes(root: str, split: str) -> pa.Table:
    """Cityscapes: leftImg8bit/SPLIT/CITY/FRAME_leftImg8bit.png, gtFine/SPLIT/CITY/FRAME_gtFine_labelIds.png.

    Labels may be train ids instead (…_labelTrainIds.png); a split without any has none. The image id is FRAME.
    """
    labels = f"gtFine/{split}/*_gtFine"
    return _paired(Root(root), f"leftImg8bit/{split}/*_leftImg8bit.png", _cityscapes_labels(labels), above="")


def acdc(root: str, split: str) -> pa.Table:
    """ACDC: rgb_anon/CONDITION/SPLIT/SEQUENCE/FRAME_rgb_anon.png, gt/CONDITION/SPLIT/SEQUENCE/FRAME_gt_labelIds.png.

    Labels as for Cityscapes. The clear-weather twins (SPLIT_ref) are left out; the image id is CONDITION/FRAME.

    Args:
        split: train, val or test for all conditions; CONDITION/train for one.
    """
    one, _, part = split.rpartition("/")
    if one and one not in CONDITIONS:
        raise InputError(f"ACDC has no condition {one!r}; {nearest(one, CONDITIONS)}")
    place = Root(root)
    conditions = [
        _paired(
            place,
            f"rgb_anon/{name}/{part}/*_rgb_anon.png",
            _cityscapes_labels(f"gt/{name}/{part}/*_gt"),
            f"{name}/",
        )
        for name in ((one,) if one else CONDITIONS)
    ]
    return pa.concat_tables(conditions)


def gtav(root: str, split: str = "") -> pa.Table:
    """GTAV (Richter et al. 2016): images/ID.png and labels/ID.png, palette images whose indices are Cityscapes ids."""
    _whole(split, "gtav")
    return _paired(Root(root), "images/*.png", {"labels/*.png": "gtav"})


def synthia(root: str, split: str = "") -> pa.Table:
    """SYNTHIA-RAND-CITYSCAPES: RGB/ID.png and GT/LABELS/ID.png, with or without RAND_CITYSCAPES/ above."""
    _whole(split, "synthia")
    place = Root(root)
    above = "RAND_CITYSCAPES/" if place.has("RAND_CITYSCAPES") else ""
    return _paired(place, f"{above}RGB/*.png", {f"{above}GT/LABELS/*.png": "synthia"})


def camvid(root: str, split: str) -> pa.Table:
    """CamVid as 11 classes: images/ID.jpg, labels/ID.png, and the ids of a split in splits/SPLIT.txt."""
    return folder(root, images="images/*.jpg", labels="labels/*.png", list_file=f"splits/{split}.txt")


def folder(root: str, *, images: str, labels: str | None = None, list_file: str | None = None) -> pa.Table:
    """Any folders: patterns below the root in which one * stands for the image id, which may hold slashes.

    Args:
        labels: None: there are none.
        list_file: below the root, one image id a line; None: all that match.
    """
    for key, pattern in (("images", images), ("labels", labels)):
        if pattern is not None:
            check_pattern(key, pattern)
    table = _paired(Root(root), images, {} if labels is None else {labels: None})
    if labels is not None and table.num_rows and table["label_uri"].null_count:
        raise InputError(f"labels: nothing below {root} matches {labels!r}: fix it, or set it to null")
    return only_listed(table, root, list_file)


def _cityscapes_labels(before: str) -> dict[str, str | None]:
    """Label format by pattern; where both kinds are there, the first is taken."""
    return {f"{before}_labelIds.png": "cityscapes", f"{before}_labelTrainIds.png": "cityscapes_train_ids"}


def _whole(split: str, layout: str) -> None:
    if split:
        raise InputError(f"{layout} has no split {split!r}: leave it out, and name a list_file for a part of it")


def _paired(place: Root, images: str, labels: Mapping[str, str | None], above: str | None = None) -> pa.Table:
    """Every image of a pattern with its label: the first pattern's for which there is one with the same *.

    An image without a label gets the name that its label should have, for the inspection to miss, except where no
    image has any.

    Args:
        labels: label format by pattern.
        above: what the * stands for is not the image id, but this and the last part of it are.
    """
    found = place.names(images)
    there = {pattern: place.find(pattern, [star for star, _ in found]) for pattern in labels}
    first = next((pattern for pattern, files in there.items() if files), None)
    rows = []
    for star, path in found:
        pattern = next((pattern for pattern, files in there.items() if star in files), first)
        label = None if pattern is None else there[pattern].get(star, pattern.replace("*", star))
        label_format = None if pattern is None else labels[pattern]
        name = star if above is None else above + star.rpartition("/")[2]
        rows.append((name, path, label, label_format))
    return manifest(place, rows)
