"""Class sets: names, colours, and the lookup from the ids in label files to training classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import yaml

from halo_ray.data import synthetic
from halo_ray.errors import BadRecordError, InputError
from halo_ray.storage import resolve
from halo_ray.suggest import nearest

IGNORE = 255
"""Class of pixels that no loss and no metric sees."""

_INVALID = -1


@dataclass(frozen=True)
class ClassSet:
    """The classes of a task, numbered 0..C−1 in training."""

    name: str
    """What the set is called in configs."""
    classes: tuple[str, ...]
    """Class names in training order."""
    ids: tuple[int, ...] = ()
    """The id of each class in label files; empty: 0, 1, 2, ..."""
    ignore_ids: tuple[int, ...] = (IGNORE,)
    """Ids in label files that mean void."""
    colors: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)
    """RGB of each class, for pictures; empty: evenly spaced hues."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise InputError(f"class set {self.name} needs at least two classes, all with names of their own")
        for key, values in (("ids", self.ids), ("colors", self.colors)):
            if values and len(values) != len(self.classes):
                raise InputError(
                    f"class set {self.name}: {key} has {len(values)} entries for {len(self.classes)} classes"
                )
        used = [*(self.ids or range(len(self.classes))), *self.ignore_ids]
        if len(set(used)) < len(used) or not all(0 <= i <= 255 for i in used):
            raise InputError(f"class set {self.name}: ids and ignore_ids must differ from each other and lie in 0..255")

    def lookup(self) -> npt.NDArray[np.int16]:
        """(256,) training class of each file id: IGNORE for void, −1 for ids outside the set."""
        table = np.full(256, _INVALID, np.int16)
        table[list(self.ids or range(len(self.classes)))] = np.arange(len(self.classes))
        table[list(self.ignore_ids)] = IGNORE
        return table

    def to_classes(self, raw: npt.NDArray[np.uint8], uri: str) -> npt.NDArray[np.uint8]:
        """Training classes (H, W) of the file ids ``raw`` (H, W).

        Raises:
            BadRecordError: an id is outside the set; names ``uri``.
        """
        mapped = self.lookup()[raw]
        if (mapped < 0).any():
            wrong = sorted({int(i) for i in np.unique(raw[mapped < 0])})
            raise BadRecordError(
                f"label {uri} holds id {wrong[0]}, which class set {self.name} does not know: map or ignore it"
            )
        classes: npt.NDArray[np.uint8] = mapped.astype(np.uint8)
        return classes

    def palette(self) -> npt.NDArray[np.uint8]:
        """(C, 3) RGB colours."""
        if self.colors:
            return np.array(self.colors, np.uint8)
        hue = np.arange(len(self.classes))[:, None] * 2.399963  # the golden angle keeps neighbours apart
        wheel = 127.5 + 110 * np.cos(hue + np.array([0.0, 2.1, 4.2]))
        return np.asarray(wheel, np.uint8)


_CAMVID11 = ClassSet(
    "camvid11",
    ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
    ignore_ids=(11, IGNORE),
    colors=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip
_SYNTHETIC = ClassSet(
    "synthetic",
    synthetic.CLASSES,
    colors=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (190, 153, 153), (153, 153, 153), (220, 220, 0),
        (107, 142, 35), (70, 130, 180), (220, 20, 60), (0, 0, 142), (119, 11, 32),
    ),
)  # fmt: skip
_KNOWN = {known.name: known for known in (_CAMVID11, _SYNTHETIC)}


def class_set(name: str) -> ClassSet:
    """The class set of that name, or read from the YAML file of that path (keys as in ClassSet).

    Raises:
        InputError: neither a known name nor a readable class set file.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    if not name.endswith((".yaml", ".yml")):
        raise InputError(f"data.class_set: no class set {name!r}; {nearest(name, _KNOWN)} (or give a YAML file)")
    filesystem, path = resolve(name)
    try:
        with filesystem.open_input_stream(path) as stream:
            fields = yaml.safe_load(bytes(stream.read()))
        if not isinstance(fields["classes"], list):
            raise TypeError("classes is no list")
        return ClassSet(
            name=str(fields.get("name", name)),
            classes=tuple(fields["classes"]),
            ids=tuple(fields.get("ids", ())),
            ignore_ids=tuple(fields.get("ignore_ids", (IGNORE,))),
            colors=tuple((int(r), int(g), int(b)) for r, g, b in fields.get("colors", ())),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"class set file {name} cannot be used ({error}): give at least a list 'classes'") from error
