"""Segmentation quality: confusion matrices of single images, summed exactly, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halo_ray.data.classes import IGNORE

Counts = npt.NDArray[np.int64]


def confusion_matrix(label: npt.NDArray[np.uint8], guess: npt.NDArray[np.uint8], classes: int) -> Counts:
    """(C, C) pixel counts, rows by label and columns by guess; IGNORE pixels are left out."""
    seen = label != IGNORE
    joint = label[seen].astype(np.int64) * classes + guess[seen]
    return np.bincount(joint, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class EvaluationConfig:
    """How the model is judged on the validation split."""

    flip: bool = True
    """Average the class probabilities of each image and its mirror image (official)."""


@dataclass(frozen=True)
class Quality:
    """What a confusion matrix says."""

    miou: float
    """Mean IoU over the classes that are labelled or guessed anywhere, in [0, 1]."""
    iou: list[float | None]
    """IoU of each class; None where it is neither labelled nor guessed."""
    accuracy: float
    """Share of the labelled pixels that are right."""
    class_accuracy: list[float | None]
    """The same of each class's pixels; None where it is not labelled."""
    class_share: list[float]
    """Share of the labelled pixels that each class has."""
    miou_star: float | None
    """The mean over some classes only; None where none are named."""


def quality(confusion: Counts, star: Sequence[int] = ()) -> Quality:
    """Intersection over union and accuracy of a confusion matrix (C, C).

    Args:
        star: classes over which mIoU* is the mean (SYNTHIA: 13 of 16).
    """
    right = np.diag(confusion).astype(float)
    union = confusion.sum(0) + confusion.sum(1) - right
    iou = [float(r / u) if u else None for r, u in zip(right, union, strict=True)]
    accuracy = float(right.sum() / max(confusion.sum(), 1))
    of_class = [float(r / n) if n else None for r, n in zip(right, confusion.sum(1), strict=True)]
    share = (confusion.sum(1) / max(confusion.sum(), 1)).tolist()
    return Quality(_mean(iou), iou, accuracy, of_class, share, _mean([iou[place] for place in star]) if star else None)


def _mean(iou: list[float | None]) -> float:
    known = [value for value in iou if value is not None]
    return float(np.mean(known)) if known else 0.0
