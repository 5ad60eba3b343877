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
from halo_ray.embedding_profile import Profile
from halo_ray.features import stored_features
from halo_ray.models.segmenter import Segmenter
from halo_ray.pipeline import Computation
from halo_ray.prediction import Inputs, likeliest, with_mirror_image
from halo_ray.progress import progress
from halo_ray.quality import Counts, confusion_matrix, quality
from halo_ray.runtime import SCORING_THREADS
from halo_ray.storage import Storage

COUNTS = pa.schema([("image_id", pa.string()), ("counts", pa.list_(pa.int64()))])
"""Per image, for one model after another: its confusion matrix row by row, then its Profile, flat."""


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
    """Counts of images: confusions at label resolution, and the embedding; what the actors of the pool run."""

    def __init__(self, job: EvaluationJob, device: str) -> None:
        torch.set_num_threads(SCORING_THREADS)
        self._job, self._device = job, device
        self._models = [load_model(job.storage, name).to(device) for name in job.checkpoints]

    def __call__(self, batch: pa.Table) -> pa.Table:
        """COUNTS of decoded validation images."""
        rows = []
        for row in batch.to_pylist():
            size = (row["height"], row["width"])
            label, inputs = pixels(row["label"], *size), self._inputs(row["image"])
            counts = [count for model in self._models for count in self._counts(model, inputs, label)]
            rows.append({"image_id": row["image_id"], "counts": np.concatenate(counts, axis=None)})
        return pa.Table.from_pylist(rows, schema=COUNTS)

    def _inputs(self, data: bytes) -> list[Inputs]:
        """What the models are shown of an image: itself, and with flip averaging its mirror image."""
        job = self._job
        if job.features is None:
            return with_mirror_image(network_input([data], job.input_size, None, self._device), flip=job.flip)
        half = len(data) // (1 + job.flip)
        files = [data[start : start + half] for start in range(0, len(data), half)]
        return [network_input([file], job.input_size, job.features, self._device) for file in files]

    def _counts(self, model: Segmenter, inputs: list[Inputs], label: Pixels) -> tuple[Counts, Counts]:
        with torch.inference_mode():
            said = [model(each) for each in inputs]
            guess = likeliest([each.logits for each in said], (label.shape[0], label.shape[1]))
            profile = Profile.of(said[0], label, model.curvature)
        return confusion_matrix(label, guess, self._job.classes), profile.flat


def evaluate(context: Context, label: str, *checkpoints: str) -> list[dict[str, Any]]:
    """What each checkpoint is worth on the validation split.

    All models see an image when it is decoded, so that a second one costs neither another pass nor other actors.

    Returns:
        For each checkpoint, JSON-able: as Quality, by class name where it is of classes; ``class_radius``, the mean
        radius of the embedding of each class; ``histograms`` as Profile.histograms.
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
    matrix = len(names) ** 2
    total = np.zeros((len(checkpoints), matrix + Profile.size_of(len(names))), np.int64)
    images = 0
    with (
        progress(f"{label} evaluate", table.num_rows, "image", lambda: images, context.gauges),
        computation.batches() as batches,
    ):
        for batch in batches:
            for row in batch["counts"].to_pylist():
                total += np.array(row, np.int64).reshape(total.shape)
            images += batch.num_rows
    return [
        _found(context, counts[:matrix].reshape(len(names), -1), Profile.from_flat(counts[matrix:], len(names)))
        for counts in total
    ]


def _found(context: Context, confusion: Counts, profile: Profile) -> dict[str, Any]:
    names, model = context.classes.classes, context.model
    q = quality(confusion, [names.index(name) for name in context.classes.miou_star])
    return {
        "miou": q.miou,
        "miou_star": q.miou_star,
        "iou": dict(zip(names, q.iou, strict=True)),
        "accuracy": q.accuracy,
        "class_accuracy": dict(zip(names, q.class_accuracy, strict=True)),
        "class_share": dict(zip(names, q.class_share, strict=True)),
        "class_radius": dict(zip(names, profile.class_radius, strict=True)),
        "histograms": profile.histograms(model.curvature if model.geometry == "hyperbolic" else 0.0),
    }
