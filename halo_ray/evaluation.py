"""Segmentation quality: confusion matrices of single images, summed exactly, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from halo_ray.checkpoint import load_model
from halo_ray.context import Context
from halo_ray.data.classes import IGNORE
from halo_ray.data.decoding import DecodeImages, pixels
from halo_ray.models.sampling import upsample
from halo_ray.pipeline import compute_on_actors
from halo_ray.progress import progress
from halo_ray.scoring import SCORING_THREADS
from halo_ray.storage import Storage

Counts = npt.NDArray[np.int64]

CONFUSIONS = pa.schema([("image_id", pa.string()), ("confusion", pa.list_(pa.int64()))])


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


def quality(confusion: Counts) -> Quality:
    """Intersection over union and accuracy of a confusion matrix (C, C)."""
    right = np.diag(confusion).astype(float)
    union = confusion.sum(0) + confusion.sum(1) - right
    iou = [float(r / u) if u else None for r, u in zip(right, union, strict=True)]
    known = [value for value in iou if value is not None]
    return Quality(float(np.mean(known)) if known else 0.0, iou, float(right.sum() / max(confusion.sum(), 1)))


@dataclass(frozen=True)
class EvaluationJob:
    """What an evaluation actor must know."""

    storage_uri: str
    checkpoint: str
    input_size: tuple[int, int]
    classes: int


class Evaluator:
    """Confusion matrices of images at label resolution; the class that the actors of the pool run."""

    def __init__(self, job: EvaluationJob, device: str) -> None:
        torch.set_num_threads(SCORING_THREADS)
        self._job, self._device = job, device
        self._model = load_model(Storage(job.storage_uri), job.checkpoint).to(device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """CONFUSIONS of decoded validation images."""
        rows = []
        for row in batch.to_pylist():
            image = torch.from_numpy(pixels(row["image"], *self._job.input_size, 3))
            size = (row["height"], row["width"])
            with torch.inference_mode():
                logits = self._model(image[None].to(self._device)).logits
                guess = upsample(logits, size).argmax(1)[0].to(torch.uint8).cpu().numpy()
            confusion = confusion_matrix(pixels(row["label"], *size), guess, self._job.classes)
            rows.append({"image_id": row["image_id"], "confusion": confusion.ravel().tolist()})
        return pa.Table.from_pylist(rows, schema=CONFUSIONS)


def evaluate(context: Context, label: str, checkpoint: str) -> dict[str, Any]:
    """Quality of a checkpoint on the validation split, JSON-able: miou, iou by class name, accuracy."""
    classes = len(context.classes.classes)
    table = context.splits.validation
    results = compute_on_actors(
        table,
        DecodeImages(context.input_size, context.classes),
        Evaluator,
        {"job": EvaluationJob(context.storage.uri, checkpoint, context.input_size, classes)},
        context.config.execution,
    )
    total = np.zeros(classes * classes, np.int64)
    images = 0
    with progress(f"{label} evaluate", table.num_rows, "image", lambda: images):
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            total += sum(np.array(row, np.int64) for row in batch["confusion"].to_pylist())
            images += batch.num_rows
    found = quality(total.reshape(classes, classes))
    return {
        "miou": found.miou,
        "iou": dict(zip(context.classes.classes, found.iou, strict=True)),
        "accuracy": found.accuracy,
    }
