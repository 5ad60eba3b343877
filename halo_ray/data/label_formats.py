"""How public datasets write their labels: which class each id means, and in what kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halo_ray.errors import InputError

CITYSCAPES_NAMES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Names of the ids 0..33 (Cordts et al. 2016); −1 is the license plate."""

CITYSCAPES_TRAINED = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""The 19 classes that are evaluated, by train id."""

SYNTHIA_NAMES = (
    "void", "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car", "traffic sign", "person",
    "bicycle", "motorcycle", "parking slot", "road work", "traffic light", "terrain", "rider", "truck", "bus", "train",
    "wall", "lane marking",
)  # fmt: skip
"""Names of the ids 0..22 of SYNTHIA-RAND-CITYSCAPES (Ros et al. 2016), in the words of Cityscapes."""


@dataclass(frozen=True)
class LabelFormat:
    """The label files of a dataset."""

    names: Mapping[int, str]
    """Class name of each id; −1 stands as 255 in 8-bit files."""
    first_channel: bool = False
    """The id is the first channel of a PNG with 8 or 16 bits a channel, instead of a grey value or palette index."""
    ids: str = "cityscapes"
    """Formats that number the same classes alike say the same here."""
    own_size: bool = False
    """A label may differ from its image in size; it is resized to it."""


_CITYSCAPES = {-1: "license plate", **dict(enumerate(CITYSCAPES_NAMES))}

LABEL_FORMATS: Mapping[str, LabelFormat] = {
    "cityscapes": LabelFormat(_CITYSCAPES),
    "cityscapes_train_ids": LabelFormat(
        {**dict(enumerate(CITYSCAPES_TRAINED)), 255: "void"}, ids="cityscapes_train_ids"
    ),
    "gtav": LabelFormat({**_CITYSCAPES, 34: "license plate"}, own_size=True),
    "synthia": LabelFormat(dict(enumerate(SYNTHIA_NAMES)), first_channel=True, ids="synthia"),
}
"""By the name that stands in a manifest's label_format."""


def ids_by_name(label_format: str, class_set: str, classes: tuple[str, ...]) -> dict[int, int | None]:
    """Place in ``classes`` of every id of the format; None for ids of other classes.

    Raises:
        InputError: the format has no class of one of the names.
    """
    names = LABEL_FORMATS[label_format].names
    for name in classes:
        if name not in names.values():
            theirs = ", ".join(sorted(set(names.values())))
            raise InputError(
                f"class set {class_set}: {label_format} labels have no class {name!r}: give the set ids, or take one "
                f"of their names ({theirs})"
            )
    return {number: classes.index(name) if name in classes else None for number, name in names.items()}
