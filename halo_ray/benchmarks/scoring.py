"""A pool through Ray Data and its scoring actors, against a plain loop over the same images in one process."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from halo_ray.acquisition.bound import RunningBound, histogram
from halo_ray.acquisition.budget import AcquisitionConfig, image_limit
from halo_ray.acquisition.candidates import Image, find_candidates, taken_places
from halo_ray.benchmarks.measurement import Line, Measurement
from halo_ray.benchmarks.scenes import store_scenes
from halo_ray.benchmarks.settings import check
from halo_ray.checkpoint import load_model, write_checkpoint
from halo_ray.config import Config
from halo_ray.context import Context, open_experiment
from halo_ray.data.images import decode_image, file
from halo_ray.data.manifest import DataConfig
from halo_ray.data.readers import SplitConfig
from halo_ray.data.synthetic import CLASSES
from halo_ray.data.transforms import View
from halo_ray.execution import ExecutionConfig
from halo_ray.models.build import ModelConfig, build_model, describe_model
from halo_ray.runtime import SCORING_THREADS
from halo_ray.scoring import score_pool
from halo_ray.storage import Storage

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class ScoringBenchmark:
    """Pool images a second, start-up left out: decoding, forward pass, acquisition map, picks."""

    images: int = 192
    """Pool images, rendered street scenes stored as JPEG."""
    height: int = 512
    """Rows of a pool image in pixels, a multiple of 32."""
    width: int = 1024
    """Columns of a pool image in pixels, a multiple of 32."""
    backbone: str = "mobilenet-v2"
    """Backbone, with random weights."""
    actors: tuple[int, ...] = (1, 2)
    """Numbers of scoring actors."""
    repeats: int = 3
    """Rounds of measurements; medians are printed."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the network runs."""

    def __post_init__(self) -> None:
        check(self, {"images": 2, "repeats": 1}, self.device, ("height", "width"))


def benchmark_scoring(settings: ScoringBenchmark) -> Iterator[Line]:
    """Lines of the report, as they are measured."""
    with tempfile.TemporaryDirectory(prefix="halo_ray-") as directory:
        config = _prepare(settings, Path(directory))
        yield (
            f"device {settings.device}, {SCORING_THREADS} thread an actor, {settings.backbone}, {settings.images} "
            f"images of {settings.height}x{settings.width}, network input half of it; {settings.repeats} rounds"
        )
        rates: dict[str, list[float]] = {}
        with open_experiment(config) as context:
            _write_model(config.model, context.storage)
        for _ in range(settings.repeats):
            with open_experiment(config) as context:
                rates.setdefault("plain loop", []).append(_plain_loop(settings, context))
            for actors in settings.actors:
                execution = replace(config.execution, min_actors=actors, max_actors=actors)
                with open_experiment(replace(config, execution=execution)) as context:
                    audit = score_pool(context, 1, CHECKPOINT)["audit"]["halo"]
                rates.setdefault(f"Ray Data, actors {actors}", []).append(audit["images_per_second"])
        plain = rates["plain loop"]
        for name, found in rates.items():
            ratio = statistics.median(ours / other for ours, other in zip(found, plain, strict=True))
            line = f"{name}: {statistics.median(found):.2f} images a second, {ratio:.2f} of the plain loop"
            if found is plain:
                yield line
                continue
            what = f"pool images scored, {settings.backbone}, {settings.height}x{settings.width}, {name}"
            medians = statistics.median(found), statistics.median(plain)
            yield Measurement(line, what, *medians, "images/s", ratio, "bare loop")


def _prepare(settings: ScoringBenchmark, directory: Path) -> Config:
    """Pool, source and validation images in a directory, and an experiment, not begun, that scores them."""
    store_scenes(directory, settings.images + 2, height=settings.height, width=settings.width, image_format="jpg")
    lists = {"pool": range(settings.images), "source": [settings.images], "validation": [settings.images + 1]}
    for name, numbers in lists.items():
        (directory / name).write_text("".join(f"{number:04d}\n" for number in numbers))
    split = SplitConfig(reader="folder", images="images/*.jpg", labels="labels/*.png")
    return Config(
        output_dir=str(directory / "experiment"),
        data_root=str(directory),
        data=DataConfig(
            source=replace(split, list_file="source"),
            pool=replace(split, list_file="pool"),
            validation=replace(split, list_file="validation"),
            height=settings.height // 2,
            width=settings.width // 2,
        ),
        model=ModelConfig(backbone=settings.backbone),
        execution=ExecutionConfig(device=settings.device, images_per_actor=1, num_workers=0),
    )


def _write_model(model: ModelConfig, storage: Storage) -> None:
    """Writes the checkpoint of a random network."""
    torch.manual_seed(0)
    network = build_model(model, len(CLASSES))
    write_checkpoint(storage, CHECKPOINT, describe_model(model, len(CLASSES), network), network, {}, {})


def _plain_loop(settings: ScoringBenchmark, context: Context) -> float:
    """Images a second of the same work without Ray, after the first image."""
    torch.set_num_threads(SCORING_THREADS)
    config: AcquisitionConfig = context.config.acquisition
    model, plan = load_model(context.storage, CHECKPOINT).to(settings.device), context.plan[0]
    bound, nothing = RunningBound(plan.regions), torch.empty(0, dtype=torch.int64)
    begin = 0.0
    for row, record in enumerate(context.splits.pool.to_pylist()):
        if row == 1:
            begin = time.perf_counter()
        size = record["height"], record["width"]
        shown = View.whole(context.input_size).image(decode_image(file(record["image_uri"]))[0])
        pixels = torch.from_numpy(np.array(shown))
        with torch.inference_mode():
            image = Image(
                record["image_id"],
                size,
                image_limit(config, size, plan, context.splits.pool_pixels),
                taken_places(size, nothing, nothing, config, None),
            )
            found, _ = find_candidates(
                model(pixels[None].to(settings.device)),
                image,
                config,
                curvature=model.curvature,
                seed=1,
                bounds={config.function: bound.score},
            )
        bound.add(row, histogram(found[config.function].picks.score.numpy()))
    return (settings.images - 1) / (time.perf_counter() - begin)
