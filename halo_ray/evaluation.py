"""The quality of a model on the validation split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from halo_ray.checkpoint import load_model
from halo_ray.context import Context
from halo_ray.data.decoding import DecodeImages, Pixels, pixels
from halo_ray.data.features import Features, network_input
from halo_ray.features import stored_features
from halo_ray.models.segmenter import Segmenter
from halo_ray.pipeline import Computation
from halo_ray.prediction import Inputs, predict, with_mirror_image
from halo_ray.progress import progress
from halo_ray.quality import Counts, confusion_matrix, quality
from halo_ray.runtime import SCORING_THREADS
from halo_ray.storage import Storage

CONFUSIONS = pa.schema([("image_id", pa.string()), ("confusions", pa.list_(pa.int64()))])
"""Per image, the confusion matrices of all models one after another, row by row."""


@dataclass(frozen=True)
class EvaluationJob:
    """What an evaluation actor must know."""

    storage: Storage
    checkpoints: list[str]
    input_size: tuple[int, int]
    classes: int
    flip: bool
    features: Features | None


class Evaluator:
    """Confusion matrices of images at label resolution; the class that the actors of the pool run."""

    def __init__(self, job: EvaluationJob, device: str) -> None:
        torch.set_num_threads(SCORING_THREADS)
        self._job, self._device = job, device
        self._models = [load_model(job.storage, name).to(device) for name in job.checkpoints]

    def __call__(self, batch: pa.Table) -> pa.Table:
        """CONFUSIONS of decoded validation images."""
        rows = []
        for row in batch.to_pylist():
            size = (row["height"], row["width"])
            label, inputs = pixels(row["label"], *size), self._inputs(row["image"])
            matrices = [self._confusion(model, inputs, label) for model in self._models]
            rows.append({"image_id": row["image_id"], "confusions": np.concatenate(matrices, axis=None)})
        return pa.Table.from_pylist(rows, schema=CONFUSIONS)

    def _inputs(self, data: bytes) -> list[Inputs]:
        """What the models are shown of an image: itself, and with flip averaging its mirror image."""
        job = self._job
        if job.features is None:
            return with_mirror_image(network_input([data], job.input_size, None, self._device), flip=job.flip)
        half = len(data) // (1 + job.flip)
        files = [data[start : start + half] for start in range(0, len(data), half)]
        return [network_input([file], job.input_size, job.features, self._device) for file in files]

    def _confusion(self, model: Segmenter, inputs: list[Inputs], label: Pixels) -> Counts:
        guess = predict(model, inputs, (label.shape[0], label.shape[1]))
        return confusion_matrix(label, guess, self._job.classes)


def evaluate(context: Context, label: str, *checkpoints: str) -> list[dict[str, Any]]:
    """Quality of each checkpoint on the validation split, JSON-able: as Quality, by class name where it is of classes.

    All models see an image when it is decoded, so that a second one costs neither another pass nor other actors.
    """
    names = context.classes.classes
    table, flip, features = context.splits.validation, context.config.evaluation.flip, stored_features(context)
    computation = Computation(
        table,
        DecodeImages(context.input_size, context.classes, features=features, split="validation", mirrored=flip),
        Evaluator,
        {"job": EvaluationJob(context.storage, list(checkpoints), context.input_size, len(names), flip, features)},
        context.config.execution,
    )
    total = np.zeros((len(checkpoints), len(names), len(names)), np.int64)
    images = 0
    with (
        progress(f"{label} evaluate", table.num_rows, "image", lambda: images, context.gauges),
        computation.batches() as batches,
    ):
        for batch in batches:
            for row in batch["confusions"].to_pylist():
                total += np.array(row, np.int64).reshape(total.shape)
            images += batch.num_rows
    star = [names.index(name) for name in context.classes.miou_star]
    found = [quality(confusion, star) for confusion in total]
    return [
        {
            "miou": q.miou,
            "miou_star": q.miou_star,
            "iou": dict(zip(names, q.iou, strict=True)),
            "accuracy": q.accuracy,
            "class_accuracy": dict(zip(names, q.class_accuracy, strict=True)),
        }
        for q in found
    ]
