"""Class sets: names, colours, and the lookup from the ids in label files to training classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from halo_ray.data import synthetic
from halo_ray.data.label_formats import CITYSCAPES_TRAINED, LABEL_FORMATS, ids_by_name
from halo_ray.errors import BadRecordError, InputError, has_control_characters, one_line
from halo_ray.filesystems import read_file, resolve
from halo_ray.place import parse
from halo_ray.secret import stored
from halo_ray.suggest import nearest
from halo_ray.yaml_text import load_yaml

IGNORE = 255
"""Class of pixels that no loss and no metric sees."""

LARGEST_FILE = 16 << 20
"""Bytes of a class set file."""

LONGEST_NAME = 200
"""Characters of a class name, which the annotators' page sends with every answer."""

_INVALID = -1

Ids = int | tuple[int, ...]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and not has_control_characters(value)


def _without_spaces(name: str) -> str:
    """What is seen of a name: neither spaces of any kind nor characters without a width, in Unicode's normal form C."""
    seen = unicodedata.normalize("NFC", name)
    return "".join(letter for letter in seen if not letter.isspace() and unicodedata.category(letter) != "Cf")


@dataclass(frozen=True)
class ClassSet:
    """The classes of a task, numbered 0..C−1 in training."""

    name: str
    """What the set is called in configs."""
    classes: tuple[str, ...]
    """Class names in training order."""
    ids: tuple[Ids, ...] = ()
    """The id of each class in label files, or its ids; −1 stands as 255 in 8-bit files. Empty: by name where the label
    format has names, else 0, 1, 2, ..."""
    ignore_ids: tuple[int, ...] = (IGNORE,)
    """Ids in label files that mean void."""
    colors: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)
    """RGB of each class, for pictures; empty: evenly spaced hues."""
    miou_star: tuple[str, ...] = ()
    """Classes over which mIoU* is the mean; empty: there is none."""

    def __post_init__(self) -> None:
        named = all(map(_is_name, self.classes))
        if not named or len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise InputError(f"class set {self.name} needs at least two classes, all with names of their own")
        self._check_names()
        for key, values in (("ids", self.ids), ("colors", self.colors)):
            if values and len(values) != len(self.classes):
                raise InputError(
                    f"class set {self.name}: {key} has {len(values)} entries for {len(self.classes)} classes"
                )
        if not all(len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color) for color in self.colors):
            raise InputError(f"class set {self.name}: colors must be [red, green, blue], each in 0..255")
        used = [number for number, _ in self._numbered()] + [*self.ignore_ids]
        if () in self.ids or not all(type(number) is int for number in used):
            raise InputError(f"class set {self.name}: ids and ignore_ids must be whole numbers")
        in_files = {number % 256 for number in used}
        if len(in_files) < len(used) or not all(-1 <= number <= 255 for number in used):
            raise InputError(
                f"class set {self.name}: ids and ignore_ids must differ from each other and lie in -1..255, where -1 "
                "stands as 255 in files"
            )
        unknown = set(self.miou_star) - set(self.classes)
        if unknown:
            raise InputError(
                f"class set {self.name}: miou_star names {min(unknown)!r}; {nearest(min(unknown), self.classes)}"
            )

    def _check_names(self) -> None:
        """Raises InputError where an annotator could not give a class by its name, or take two for one."""
        seen: dict[str, str] = {}
        for name in self.classes:
            if len(name) > LONGEST_NAME:
                raise InputError(
                    f"class set {self.name}: the name {name[:40]!r}... has {len(name)} characters: shorten it to "
                    f"{LONGEST_NAME} or fewer"
                )
            bare = _without_spaces(name)
            if not bare:
                raise InputError(f"class set {self.name}: the class name {name!r} is empty: name every class")
            if (other := seen.setdefault(bare, name)) != name:
                raise InputError(
                    f"class set {self.name}: {other!r} and {name!r} differ in nothing that can be seen but spaces: "
                    "rename one"
                )

    def lookup(self, label_format: str | None = None) -> npt.NDArray[np.int16]:
        """(256,) training class of each file id: IGNORE for void, −1 for ids that the files should not hold.

        Args:
            label_format: name in LABEL_FORMATS; its ids that are no class here mean void. None: the set's own ids.

        Raises:
            InputError: the set has no ids and the format no class of one of its names.
        """
        table = np.full(256, _INVALID, np.int16)
        if label_format is not None:
            known = ids_by_name(label_format, self.name, () if self.ids else self.classes)
            for number, place in known.items():
                table[number] = IGNORE if place is None else place
        if label_format is None or self.ids:
            for number, place in self._numbered():
                table[number] = place
            table[list(self.ignore_ids)] = IGNORE
        return table

    def check_formats(self, label_formats: Iterable[str]) -> None:
        """Raises InputError where the set has ids of its own, and those formats number their classes differently."""
        formats = sorted({LABEL_FORMATS[name].ids: name for name in sorted(label_formats)}.values())
        if self.ids and len(formats) > 1:
            raise InputError(
                f"class set {self.name} has ids, but {' and '.join(formats)} labels number their classes differently: "
                "leave ids out, so that classes are found by name"
            )

    def _numbered(self) -> list[tuple[int, int]]:
        """Every id of the set with the place of its class."""
        ids = self.ids or range(len(self.classes))
        return [
            (number, place)
            for place, entry in enumerate(ids)
            for number in (entry if isinstance(entry, tuple) else (entry,))
        ]

    def to_classes(
        self, raw: npt.NDArray[np.uint8], uri: str, label_format: str | None = None
    ) -> npt.NDArray[np.uint8]:
        """Training classes (H, W) of the file ids ``raw`` (H, W).

        Raises:
            BadRecordError: an id is outside the set; names ``uri``.
        """
        mapped = self.lookup(label_format)[raw]
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
_CITYSCAPES19 = ClassSet(
    "cityscapes19",
    CITYSCAPES_TRAINED,
    colors=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0),
        (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip
_NOT_IN_16, _NOT_IN_13 = ("terrain", "truck", "train"), ("wall", "fence", "pole")
_SYNTHIA16 = ClassSet(
    "synthia16",
    tuple(name for name in CITYSCAPES_TRAINED if name not in _NOT_IN_16),
    colors=tuple(
        color for name, color in zip(CITYSCAPES_TRAINED, _CITYSCAPES19.colors, strict=True) if name not in _NOT_IN_16
    ),
    miou_star=tuple(name for name in CITYSCAPES_TRAINED if name not in _NOT_IN_16 + _NOT_IN_13),
)
_KNOWN = {known.name: known for known in (_CITYSCAPES19, _SYNTHIA16, _CAMVID11, _SYNTHETIC)}


def class_set(name: str) -> ClassSet:
    """The class set of that name, or read from the YAML file of that path (keys as in ClassSet).

    Raises:
        InputError: neither a known name nor a readable class set file.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    if not parse(name).path.endswith((".yaml", ".yml")):
        raise InputError(f"data.class_set: no class set {name!r}; {nearest(name, _KNOWN)} (or give a YAML file)")
    filesystem, path = resolve(name)
    try:
        found = load_yaml(read_file(filesystem, path, LARGEST_FILE))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"class set file {name} cannot be read ({one_line(error)}): give at least a list 'classes'"
        ) from error
    return _from_yaml(found, name)


def stored_class_set(found: dict[str, Any]) -> ClassSet:
    """The class set whose fields an experiment has stored as JSON.

    Raises:
        InputError: it is none.
        KeyError, TypeError: a field is missing or of another kind.
    """
    return ClassSet(name=found["name"], **{key.name: _tuples(found[key.name]) for key in fields(ClassSet)[1:]})


def _from_yaml(found: Any, name: str) -> ClassSet:
    keys = [key.name for key in fields(ClassSet)]
    if isinstance(found, dict) and not _is_name(found.get("name", name)):
        raise InputError(f"class set file {name}: name is {found['name']!r}, but must be a word")
    if not isinstance(found, dict) or "classes" not in found:
        raise InputError(f"class set file {name} has no list 'classes': give at least that")
    for key, value in found.items():
        if key not in keys:
            raise InputError(f"class set file {name}: unknown key {key!r}; {nearest(str(key), keys)}")
        if key != "name" and not isinstance(value, list):
            raise InputError(f"class set file {name}: {key} is {value!r}, but must be a list")
    try:
        values: dict[str, Any] = {key: _tuples(value) for key, value in found.items()}
        values["name"] = stored(found.get("name", name))  # it is written to files
        return ClassSet(**values)
    except TypeError as error:  # a value of a type that the checks cannot even compare
        raise InputError(f"class set file {name} cannot be used ({error}): give at least a list 'classes'") from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
