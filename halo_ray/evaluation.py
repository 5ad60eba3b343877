"""Segmentation quality: confusion matrices of single images, summed exactly, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from halo_ray.checkpoint import load_model
from halo_ray.context import Context
from halo_ray.data.classes import IGNORE
from halo_ray.data.decoding import DecodeImages, Pixels, pixels
from halo_ray.models.sampling import upsample
from halo_ray.models.segmenter import Segmenter
from halo_ray.pipeline import arrow_batches, compute_on_actors
from halo_ray.progress import progress
from halo_ray.scoring import SCORING_THREADS
from halo_ray.storage import Storage

Counts = npt.NDArray[np.int64]

CONFUSIONS = pa.schema([("image_id", pa.string()), ("confusions", pa.list_(pa.int64()))])
"""Per image, the confusion matrices of all models one after another, row by row."""


def confusion_matrix(label: npt.NDArray[np.uint8], guess: npt.NDArray[np.uint8], classes: int) -> Counts:
    """(C, C) pixel counts, rows by label and columns by guess; IGNORE pixels are left out."""
    seen = label != IGNORE
    joint = label[seen].astype(np.int64) * classes + guess[seen]
    return np.bincount(joint, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class Quality:
    """What a confusion matrix says."""

    miou: float
    """Mean IoU over the classes that are labelled or guessed anywhere, in [0, 1]."""
    iou: list[float | None]
    """IoU of each class; None where it is neither labelled nor guessed."""
    accuracy: float
    """Share of the labelled pixels that are right."""
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
    return Quality(_mean(iou), iou, accuracy, _mean([iou[place] for place in star]) if star else None)


def _mean(iou: list[float | None]) -> float:
    known = [value for value in iou if value is not None]
    return float(np.mean(known)) if known else 0.0


@dataclass(frozen=True)
class EvaluationJob:
    """What an evaluation actor must know."""

    storage_uri: str
    checkpoints: list[str]
    input_size: tuple[int, int]
    classes: int


class Evaluator:
    """Confusion matrices of images at label resolution; the class that the actors of the pool run."""

    def __init__(self, job: EvaluationJob, device: str) -> None:
        torch.set_num_threads(SCORING_THREADS)
        self._job, self._device = job, device
        storage = Storage(job.storage_uri)
        self._models = [load_model(storage, name).to(device) for name in job.checkpoints]

    def __call__(self, batch: pa.Table) -> pa.Table:
        """CONFUSIONS of decoded validation images."""
        rows = []
        for row in batch.to_pylist():
            size = (row["height"], row["width"])
            image = torch.from_numpy(pixels(row["image"], *self._job.input_size, 3))[None].to(self._device)
            label = pixels(row["label"], *size)
            matrices = [self._confusion(model, image, label) for model in self._models]
            rows.append({"image_id": row["image_id"], "confusions": np.concatenate(matrices, axis=None)})
        return pa.Table.from_pylist(rows, schema=CONFUSIONS)

    def _confusion(self, model: Segmenter, image: torch.Tensor, label: Pixels) -> Counts:
        with torch.inference_mode():
            guess = upsample(model(image).logits, (label.shape[0], label.shape[1])).argmax(1)[0]
        return confusion_matrix(label, guess.to(torch.uint8).cpu().numpy(), self._job.classes)


def evaluate(context: Context, label: str, *checkpoints: str) -> list[dict[str, Any]]:
    """Quality of each checkpoint on the validation split, JSON-able: miou, miou_star, iou by class name, accuracy.

    All models see an image when it is decoded, so that a second one costs neither another pass nor other actors.
    """
    names = context.classes.classes
    table = context.splits.validation
    results = compute_on_actors(
        table,
        DecodeImages(context.input_size, context.classes),
        Evaluator,
        {"job": EvaluationJob(context.storage.uri, list(checkpoints), context.input_size, len(names))},
        context.config.execution,
    )
    total = np.zeros((len(checkpoints), len(names), len(names)), np.int64)
    images = 0
    with progress(f"{label} evaluate", table.num_rows, "image", lambda: images), arrow_batches(results) as batches:
        for batch in batches:
            for row in batch["confusions"].to_pylist():
                total += np.array(row, np.int64).reshape(total.shape)
            images += batch.num_rows
    star = [names.index(name) for name in context.classes.miou_star]
    found = [quality(confusion, star) for confusion in total]
    return [
        {"miou": q.miou, "miou_star": q.miou_star, "iou": dict(zip(names, q.iou, strict=True)), "accuracy": q.accuracy}
        for q in found
    ]
