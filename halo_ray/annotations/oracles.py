"""Oracles: who says what class a pixel has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from halo_ray.acquisition.regions import window
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.images import read_label
from halo_ray.dotted import own_function, said
from halo_ray.errors import InputError

UNANSWERED = 254
"""Class of a pixel that was asked and has no answer, which is not paid for."""

GROUND_TRUTH, FILES = ORACLES = "ground_truth", "files"

GUESS = "halo_ray.annotations.oracles.guess"
"""The dotted path of guess."""

Mask = npt.NDArray[np.bool_]


class Region(NamedTuple):
    """A square that is asked, by its centre, and what the model said there."""

    y: int
    x: int
    score: float
    radius: float
    entropy: float
    guess: int
    probability: float


@dataclass(frozen=True)
class Question:
    """What a round asks about one image."""

    image_id: str
    image_uri: str
    label_uri: str | None
    """Of its label file, if it has one."""
    label_format: str | None
    """How that numbers its classes (label_formats.LABEL_FORMATS); None: as the class set does."""
    size: tuple[int, int]
    """(H, W) of the image in pixels."""
    regions: list[Region]
    """In picking order."""
    pixels: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
    """(y, x) of each region's pixels that nobody labelled before; what regions share is the first one's alone."""
    answers: list[int] | None = None
    """What people said of the pixels of all regions, one after another (oracle files)."""

    @property
    def asked(self) -> Mask:
        """(H, W): the pixels of all regions."""
        mask = np.zeros(self.size, np.bool_)
        for y, x in self.pixels:
            mask[y, x] = True
        return mask


Oracle = Callable[[Question], npt.NDArray[np.uint8]]
"""From a question to the classes (H, W) of what is asked, IGNORE where nobody can tell, UNANSWERED where nobody has
said yet; other pixels are not looked at. It is called in Ray tasks, and may be asked again what it has answered."""


@dataclass(frozen=True)
class GroundTruth:
    """Looks labels up in the pool's label files: a simulated annotator who is never wrong.

    Void is not known beforehand; a region there is paid for and its pixels are ignored.
    """

    classes: ClassSet

    def __call__(self, question: Question) -> npt.NDArray[np.uint8]:
        assert question.label_uri is not None  # the listing looked for all of them
        return read_label(question.label_uri, self.classes, question.label_format, question.size)


def people(question: Question) -> npt.NDArray[np.uint8]:
    """What people wrote into the files of a round, which came with the question."""
    assert question.answers is not None
    label = np.full(question.size, IGNORE, np.uint8)
    y, x = (np.concatenate(places) for places in zip(*question.pixels, strict=True))
    label[y, x] = question.answers
    return label


def guess(question: Question) -> npt.NDArray[np.uint8]:
    """The model's own guess of each region: costs nothing and teaches nothing, to try things out."""
    label = np.full(question.size, IGNORE, np.uint8)
    for region, pixels in zip(question.regions, question.pixels, strict=True):
        label[pixels] = region.guess
    return label


def own_oracle(name: str) -> Oracle:
    """The function of a user's own that a dotted path names.

    Raises:
        InputError: there is none.
    """
    return own_function(name, "annotation.oracle", ORACLES, "a Question")


def oracle(name: str, classes: ClassSet) -> Oracle:
    """The oracle of that name, one of ORACLES or a dotted path.

    Raises:
        InputError: there is none.
    """
    if name == GROUND_TRUTH:
        return GroundTruth(classes)
    return people if name == FILES else own_oracle(name)


def answer(name: str, classes: ClassSet, question: Question) -> npt.NDArray[np.uint8]:
    """What the oracle of that name says (H, W); see Oracle.

    Raises:
        InputError: a user's own fails, or gives anything else.
    """
    ask = oracle(name, classes)
    if name in ORACLES:
        return ask(question)
    try:
        label = ask(question)
    except InputError:
        raise
    except Exception as error:  # whatever a user's function raises
        raise InputError(f"oracle {name} failed on image {question.image_id} ({said(error)}): mend it") from error
    _check(name, classes, question, label)
    return label


def question(request: dict[str, Any], region_radius: int) -> Question:
    """The question of one request: columns of a manifest, known_y, known_x, and ``picks``."""
    size = (request["height"], request["width"])
    bought = np.zeros(size, np.bool_)
    bought[request["known_y"], request["known_x"]] = True
    regions, pixels = [Region(**pick) for pick in request["picks"]], []
    for region in regions:
        square = window(region.y, region.x, region_radius)
        # Regions may overlap where the exclusion radius is small; no pixel is bought twice.
        y, x = np.nonzero(~bought[square])
        bought[square] = True
        pixels.append((y + square[0].start, x + square[1].start))
    return Question(
        **{key: request[key] for key in ("image_id", "image_uri", "label_uri", "label_format")},
        size=size,
        regions=regions,
        pixels=pixels,
        answers=request.get("answers"),
    )


def _check(name: str, classes: ClassSet, question: Question, label: Any) -> None:
    """Raises InputError where a user's own oracle gave no answer to ``question``."""
    where = f"oracle {name} gave for image {question.image_id}"
    if not isinstance(label, np.ndarray) or label.shape != question.size or label.dtype != np.uint8:
        got = f"{label.dtype} {label.shape}" if isinstance(label, np.ndarray) else type(label).__name__
        raise InputError(f"{where} {got}: it must give an array uint8 {question.size}")
    values = np.unique(label[question.asked])
    odd = values[(values >= len(classes.classes)) & (values != IGNORE) & (values != UNANSWERED)]
    if odd.size:
        raise InputError(
            f"{where} class {odd[0]}: it must be below {len(classes.classes)}, {IGNORE} where nobody can tell or "
            f"{UNANSWERED} where nobody has said yet"
        )
