"""The folder of a round that people label: where things lie in it, and what regions and classes are called there."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.annotations.oracles import UNANSWERED
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.errors import InputError
from halo_ray.storage import Storage, safe_name

LEAVE = 255
"""In a template, a pixel that is not asked; in a filled one, also an asked one that nobody can tell."""

CANT_TELL = ("can't tell", "cant tell", "can not tell", "cannot tell", "cant_tell", "cannot_tell", "?")
"""Labels of a region, in any case, that nobody can tell; the first is how we write it."""

ANSWERS, LIST, README, RECEIVED = "answers", "requests.jsonl", "README.md", "received.json"
TEMPLATES = "templates"

PAGE = f"{ANSWERS}/page"
"""Where the page stores its answers."""

MARKER = f"{PAGE}/.reading.json"
"""Says that a run reads the answers; no list, as its name begins with a dot."""

_ID = re.compile(r"r(\d+)-\d+-[0-9a-f]{4}")


def folder_name(number: int) -> str:
    """The folder of round ``number`` in the storage of its experiment."""
    return f"requests/round-{number:03d}"


def folder(storage: Storage, number: int) -> Storage:
    """The folder of round ``number``, as a storage of its own."""
    return storage.below(folder_name(number))


def template_file(image_id: str) -> str:
    """File name of an image's template; an id may hold slashes."""
    return f"{safe_name(image_id)}.png"


def with_ids(requests: pa.Table, number: int, model: str) -> pa.Table:
    """Requests with a column ``ids``: what each of their regions is called.

    An id holds the round, a running number and four digits that follow from the region and the model that chose it, so
    that a mistyped one, or one of another experiment, is none.
    """
    running, ids = 0, []
    for image_id, picks in zip(requests["image_id"].to_pylist(), requests["picks"].to_pylist(), strict=True):
        mine = []
        for pick in picks:
            running += 1
            told = f"{number}/{running}/{image_id}/{pick['y']}/{pick['x']}/{model}"
            mine.append(f"r{number}-{running}-{hashlib.sha256(told.encode()).hexdigest()[:4]}")
        ids.append(mine)
    return requests.append_column("ids", pa.array(ids, pa.list_(pa.string())))


def round_of(region_id: str) -> int | None:
    """The round that an id is of; None: it is no id."""
    found = _ID.fullmatch(region_id)
    return int(found[1]) if found else None


def class_numbers(classes: ClassSet) -> npt.NDArray[np.int16]:
    """(256,): the class, or IGNORE, that each number in a template or a list stands for; −1: nothing.

    Raises:
        InputError: the class set has a meaning of its own for UNANSWERED or LEAVE.
    """
    numbers = classes.lookup()
    if numbers[UNANSWERED] >= 0 or numbers[LEAVE] not in (-1, IGNORE):
        raise InputError(
            f"class set {classes.name} numbers a class or void {UNANSWERED}, or a class {LEAVE} (-1): in the templates "
            f"of oracle files {UNANSWERED} means please label, and {LEAVE} leave: give others"
        )
    for name in classes.classes:
        if name.strip().casefold() in CANT_TELL:
            raise InputError(
                f"class set {classes.name} calls a class {name!r}, which means to oracle files that nobody can tell: "
                "give it another name"
            )
    numbers[LEAVE] = IGNORE
    return numbers


def class_named(text: str, classes: ClassSet) -> int | None:
    """The class of that name, in any case where no other differs in its case alone; None: there is none."""
    names = [name.strip() for name in classes.classes]
    exact = [place for place, name in enumerate(names) if name == text.strip()]
    alike = exact or [place for place, name in enumerate(names) if name.casefold() == text.strip().casefold()]
    return alike[0] if len(alike) == 1 else None


def numbered_classes(classes: ClassSet) -> list[tuple[int, str]]:
    """The number of each class in templates and lists, the first where it has several, and its name."""
    numbers = class_numbers(classes)
    return [(int(np.flatnonzero(numbers == place)[0]), name) for place, name in enumerate(classes.classes)]
