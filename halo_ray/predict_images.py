"""Class maps of a folder or bucket of images, written as PNG files."""

from __future__ import annotations

import io
import os
import posixpath
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from halo_ray.checkpoint import checkpoint_stage, load_description, load_model
from halo_ray.data.aliases import one_name_each
from halo_ray.data.classes import ClassSet
from halo_ray.data.features import network_input
from halo_ray.data.images import decode_image, read_ahead, read_image
from halo_ray.data.listing import IMAGE_SUFFIXES, Root, manifest, without_suffix
from halo_ray.data.transforms import View
from halo_ray.errors import BadRecordError, InputError
from halo_ray.execution import ExecutionConfig
from halo_ray.pipeline import Computation
from halo_ray.place import decoded, parse
from halo_ray.predict_outputs import mark, output_names, problems_of_outputs, write_output
from halo_ray.prediction import predict, with_mirror_image
from halo_ray.progress import progress
from halo_ray.results import best_checkpoint, has_metrics
from halo_ray.runtime import SCORING_THREADS, check_own_process
from halo_ray.seals import check_stage
from halo_ray.stages import Stages
from halo_ray.storage import Storage

PREDICTED = pa.schema([("image_id", pa.string()), ("problem", pa.string())])
"""What became of an image; a null problem means that its class map is written."""


@dataclass(frozen=True)
class PredictionJob:
    """What an actor that predicts must know."""

    checkpoint: str
    """Directory or URI of the checkpoint's storage."""
    name: str
    """Of the checkpoint in it."""
    out: str
    size: tuple[int, int]
    """(height, width) of the network's input."""
    flip: bool
    overlay: bool


@dataclass(frozen=True)
class ReadImages:
    """Adds ``image``, RGB resized to ``size``, and the height and width that it had; or its ``problem``."""

    size: tuple[int, int]

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.select(["image_id", "image_uri"]).to_pylist()
        with read_ahead(batch["image_uri"].to_pylist()) as files:
            for row, file in zip(rows, files, strict=True):
                try:
                    image = decode_image(file)[0]
                except BadRecordError as error:
                    row["problem"] = str(error)
                    continue
                shown = View.whole(self.size).image(image).tobytes()
                row |= {"image": shown, "height": image.height, "width": image.width}
        kinds = {"image": pa.large_binary(), "height": pa.int32(), "width": pa.int32(), "problem": pa.string()}
        schema = pa.schema([("image_id", pa.string()), ("image_uri", pa.string()), *kinds.items()])
        return pa.Table.from_pylist(rows, schema=schema)


class Predictor:
    """Writes the class map of each image; the class that the actors of the pool run."""

    def __init__(self, job: PredictionJob, device: str) -> None:
        torch.set_num_threads(SCORING_THREADS)
        self._job, self._device, storage = job, device, Storage(job.checkpoint)
        self._model = load_model(storage, job.name).to(device)
        self._palette = _palette(load_description(storage, job.name))
        self._out = Storage(job.out)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """PREDICTED of rows as ReadImages gives them."""
        rows = batch.to_pylist()
        for row in rows:
            if row["problem"] is None:
                try:
                    self._write(row)
                except BadRecordError as error:
                    row["problem"] = str(error)
        return pa.Table.from_pylist(rows, schema=PREDICTED)

    def _write(self, row: dict[str, Any]) -> None:
        image = network_input([row["image"]], self._job.size, None, self._device)
        inputs = with_mirror_image(image, flip=self._job.flip)
        classes = Image.fromarray(predict(self._model, inputs, (row["height"], row["width"])))
        classes.putpalette(self._palette)
        class_map, *overlay = output_names(row["image_id"], self._job.overlay)
        for name in overlay:
            seen = Image.fromarray(read_image(row["image_uri"]))
            self._save(Image.blend(seen, classes.convert("RGB"), 0.5), name, row["image_uri"])
        self._save(classes, class_map, row["image_uri"])

    def _save(self, picture: Image.Image, name: str, image_uri: str) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", pnginfo=mark())
        write_output(self._out, name, buffer.getvalue(), image_uri)


def find_checkpoint(uri: str) -> tuple[Storage, str]:
    """The checkpoint that a directory is, or the best one of the experiment that it is.

    Raises:
        InputError: it is neither, or the experiment's is not what was committed.
    """
    storage = Storage(uri)
    if has_metrics(storage):
        best = best_checkpoint(storage)
        check_stage(Stages(storage), checkpoint_stage(best))
        return storage, best
    if not storage.exists("model.json"):
        raise InputError(f"{uri} is no checkpoint (no model.json), and no experiment with a record: name one")
    return storage, ""


def find_images(where: str) -> pa.Table:
    """The manifest of all images below a directory or URI, or of a single file; ids are paths without their suffix.

    What is no file, but named like an image, is among them. An image of several names stands there once.

    Raises:
        InputError: there are none, or two differ in their suffix alone.
    """
    folder, name = _split(where)
    root = Root(folder)
    found = [name] if name else root.images()
    table = manifest(root, [(without_suffix(each), each, None, None) for each in found])
    if not table.num_rows:
        raise InputError(f"no image lies below {where}: looked for {', '.join(IMAGE_SUFFIXES)}")
    return one_name_each(table)


def _split(where: str) -> tuple[str, str | None]:
    """The directory or URI with images, and the name of the file where a single one is meant."""
    place = parse(where)
    path = PurePosixPath(place.path)
    if path.suffix.lower() not in IMAGE_SUFFIXES or (not place.is_uri and os.path.isdir(where)):
        return where, None
    if place.is_uri:
        return place.with_path(place.path.rpartition("/")[0]), decoded(path.name)
    return posixpath.dirname(where) or ".", path.name


def predict_images(
    checkpoint: str,
    images: str,
    out: str,
    execution: ExecutionConfig,
    *,
    size: tuple[int, int] | None = None,
    flip: bool = True,
    overlay: bool = False,
) -> list[dict[str, str]]:
    """Writes OUT/ID.png, a palette image of class numbers at the image's own size, for every image.

    Args:
        checkpoint: directory or URI of a checkpoint, or of an experiment, whose best model is taken.
        images: directory or URI with images, or one file.
        size: (height, width) of the network's input; None: as it was trained.
        flip: average the class probabilities of each image and its mirror image.
        overlay: also write OUT/ID.overlay.png, the image under half transparent colours.

    Returns:
        image_id and problem of each image that could not be predicted.

    Raises:
        InputError: nothing can be predicted; the message says why.
    """
    storage, name = find_checkpoint(checkpoint)
    load_model(storage, name)  # what is wrong with it is said here, not by an actor
    shown = size or _trained_size(load_description(storage, name))
    if shown is None:
        raise InputError(f"checkpoint {checkpoint} does not say for which input size it was trained: give --size")
    try:
        _palette(load_description(storage, name))
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"checkpoint {checkpoint} does not name its classes and colours: restore it") from error
    table, target = find_images(images), Storage(out)
    unwritten = problems_of_outputs(table, Storage(_split(images)[0]), target, overlay)
    target.check_writable("OUT")
    check_own_process(execution, ("max_actors",))
    job = PredictionJob(storage.uri, name, target.uri, shown, flip, overlay)
    problems = [{"image_id": image_id, "problem": problem} for image_id, problem in unwritten.items()]
    left = table.filter(pa.array([image_id not in unwritten for image_id in table["image_id"].to_pylist()], pa.bool_()))
    if left.num_rows:
        problems += _predict(left, job, execution)
    problems.sort(key=lambda problem: problem["image_id"])
    if len(problems) == table.num_rows:
        raise InputError(f"no image below {images} could be predicted; {problems[0]['problem']}")
    return problems


def _predict(images: pa.Table, job: PredictionJob, execution: ExecutionConfig) -> list[dict[str, str]]:
    """PREDICTED of the images that could not be predicted."""
    done, problems = 0, []
    computation = Computation(images, ReadImages(job.size), Predictor, {"job": job}, execution)
    with progress("predict", images.num_rows, "image", lambda: done), computation.batches() as batches:
        for batch in batches:
            done += batch.num_rows
            problems += [row for row in batch.to_pylist() if row["problem"] is not None]
    return problems


def _trained_size(description: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the network's input in training; None where nothing, or no size, says so."""
    match description.get("input_size"):
        case [int(height), int(width)] if height > 0 and width > 0:
            return height, width
    return None


def _palette(description: dict[str, Any]) -> list[int]:
    names = tuple(description.get("class_names") or map(str, range(description["classes"])))
    colors = tuple(map(tuple, description.get("colors", ())))
    return [int(level) for level in np.ravel(ClassSet("checkpoint", names, colors=colors).palette())]
