"""Decoding and transforming training samples, against bare Pillow, and reading them from an object store."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import ray
from PIL import Image

from halo_ray.annotations.ledger import LEDGER
from halo_ray.benchmarks.compare import compare
from halo_ray.benchmarks.measurement import Line, Measurement
from halo_ray.benchmarks.object_store import CREDENTIALS, object_store
from halo_ray.benchmarks.scenes import store_scenes
from halo_ray.benchmarks.settings import check
from halo_ray.data.classes import class_set
from halo_ray.data.decoding import DecodeImages
from halo_ray.data.readers import SplitConfig, list_split
from halo_ray.data.samples import LoadSamples
from halo_ray.data.schedule import SOURCE, TARGET, training_schedule
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.execution import ExecutionConfig
from halo_ray.pipeline import arrow_batches, stream
from halo_ray.runtime import ray_session
from halo_ray.training.loop import BLOCK_SAMPLES


@dataclass(frozen=True)
class DataBenchmark:
    """Training samples a second: image and label decoded, resized, changed at random, packed."""

    images: int = 16
    """Rendered street scenes, stored as PNG."""
    height: int = 1024
    """Rows of a stored image in pixels."""
    width: int = 2048
    """Columns of a stored image in pixels."""
    input_height: int = 640
    """Rows of a sample."""
    input_width: int = 1280
    """Columns of a sample."""
    image_format: Literal["png", "jpg"] = "png"
    """How the images are stored; labels are always PNG."""
    repeats: int = 5
    """Measurements; medians are printed."""

    def __post_init__(self) -> None:
        least = {"images": 2, "height": 64, "width": 64, "input_height": 32, "input_width": 32, "repeats": 1}
        check(self, least)


def benchmark_data(settings: DataBenchmark) -> Iterator[Line]:
    """Lines of the report, as they are measured."""
    with tempfile.TemporaryDirectory(prefix="halo_ray-") as directory:
        suffix = settings.image_format
        store_scenes(
            Path(directory), settings.images, height=settings.height, width=settings.width, image_format=suffix
        )
        split = SplitConfig(reader="folder", images=f"images/*.{suffix}", labels="labels/*.png")
        table = list_split(split, directory, key="data.source")
        for name, number in (("height", settings.height), ("width", settings.width)):
            table = table.set_column(
                table.schema.get_field_index(name), name, pa.array([number] * len(table), pa.int32())
            )
        yield (
            f"{settings.images} images of {settings.width}x{settings.height} ({settings.image_format}) to "
            f"{settings.input_width}x{settings.input_height}, with their labels; {settings.repeats} repetitions"
        )
        with ray_session(ExecutionConfig()):
            yield from _samples(settings, table)
        yield from _bucket(settings, split, Path(directory), table)


def _samples(settings: DataBenchmark, table: pa.Table) -> Iterator[Line]:
    size, rows = (settings.input_height, settings.input_width), table.to_pylist()
    still = AugmentationConfig(flip=False, color_jitter=0)
    cropped = AugmentationConfig(saturation_jitter=0.2, random_scale=(0.5, 2.0))
    for name, augment in (
        ("resized", still),
        ("resized, flip and colour jitter (default)", AugmentationConfig()),
        ("random scale and crop, flip, jitter of colour and saturation", cropped),
    ):
        load, schedule = _loader(size, augment), _schedule(table, settings.images)
        found = compare(partial(load, schedule), partial(_bare_all, rows, size), repeats=settings.repeats, device="cpu")
        ours, plain = settings.images / found.ours, settings.images / found.other
        line = f"{name}: {ours:.2f} samples a second, {found.ratio:.2f} of bare Pillow ({plain:.2f})"
        yield _bare(line, f"training samples, {name}", ours, plain, "samples/s", found.ratio)
    yield _streamed(settings, table, size)


def _streamed(settings: DataBenchmark, table: pa.Table, size: tuple[int, int]) -> Measurement:
    """Through Ray Data on all CPUs, against as many processes with bare Pillow."""
    cpus = int(ray.cluster_resources()["CPU"])
    load = _loader(size, AugmentationConfig())
    schedule = _schedule(table, 4 * cpus * BLOCK_SAMPLES)
    share = [row for _, row in zip(range(2 * BLOCK_SAMPLES), cycle(table.to_pylist()), strict=False)]

    def ours() -> None:
        with arrow_batches(stream(schedule, BLOCK_SAMPLES, load)) as batches:
            for _ in batches:
                pass

    task = ray.remote(_bare_all)

    def bare() -> None:
        ray.get([task.remote(share, size) for _ in range(2 * cpus)])

    found = compare(ours, bare, repeats=min(settings.repeats, 3), device="cpu")
    speed = schedule.num_rows / found.ours / cpus
    bare_speed = speed * found.ours / found.other
    name = f"through Ray Data on {cpus} CPUs"
    line = f"{name}: {speed:.2f} samples a second and CPU, {found.ratio:.2f} of bare Pillow there"
    return _bare(line, f"training samples, {name}", speed, bare_speed, "samples/s/CPU", found.ratio)


def _bucket(settings: DataBenchmark, split: SplitConfig, directory: Path, table: pa.Table) -> Iterator[Line]:
    """Images alone, from a bucket and from the disk, by one process."""
    if importlib.util.find_spec("moto") is None:
        yield "object store: not measured, since moto is not installed (pip install 'halo_ray[test]')"
        return
    decode = DecodeImages((settings.input_height, settings.input_width))
    os.environ.update(CREDENTIALS)
    with object_store() as store:
        store.upload(directory, "data")
        there = list_split(split, store.uri("data"), key="data.source")
        found = compare(lambda: decode(there), lambda: decode(table), repeats=settings.repeats, device="cpu")
        speed = settings.images / found.ours
        line = f"images from loopback S3: {speed:.2f} a second, {found.ratio:.2f} of those from the disk"
        disk = settings.images / found.other
        yield _bare(line, "images from loopback S3, of those from the disk", speed, disk, "images/s", found.ratio)


def _bare(line: str, what: str, ours: float, other: float, unit: str, ratio: float) -> Measurement:
    return Measurement(line, what, ours, other, unit, ratio, "bare loop")


def _schedule(table: pa.Table, samples: int) -> pa.Table:
    nothing = table.slice(0, 0)
    return training_schedule(table, nothing, steps=samples, source_batch=1, target_batch=0, seed=0)


def _loader(size: tuple[int, int], augment: AugmentationConfig) -> LoadSamples:
    labels = ray.put(LEDGER.empty_table())
    sizes = {SOURCE: size, TARGET: size}
    return LoadSamples(sizes=sizes, classes=class_set("synthetic"), labels=labels, seed=0, augment=augment)


def _bare_all(rows: list[dict[str, str]], size: tuple[int, int]) -> None:
    """What any loader must do at least: both files of each row decoded with Pillow, resized, and made arrays."""
    shape = (size[1], size[0])
    for row in rows:
        np.asarray(Image.open(row["image_uri"]).convert("RGB").resize(shape, Image.Resampling.BILINEAR))
        np.asarray(Image.open(row["label_uri"]).resize(shape, Image.Resampling.NEAREST))
