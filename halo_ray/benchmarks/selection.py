"""The coordinator at scale: the exact cut of more candidates than a machine holds, and the messages of a large pool."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from halo_ray.acquisition.bound import histogram
from halo_ray.acquisition.threshold import Selection
from halo_ray.benchmarks.measured import MeasuredCoordinator, Simulated
from halo_ray.benchmarks.measurement import Line
from halo_ray.benchmarks.settings import check
from halo_ray.coordinator import Report
from halo_ray.errors import InputError
from halo_ray.execution import ExecutionConfig
from halo_ray.runtime import ray_session


@dataclass(frozen=True)
class SelectionBenchmark:
    """The exact cut over simulated candidates, and how the running bound grows with the pool."""

    candidates: int = 10**9
    """Simulated candidates of the cut."""
    images: int = 10**6
    """Images that they belong to, and images of the largest pool of the table."""
    share: float = 0.001
    """Share of the candidates that is chosen."""
    part: int = 10**6
    """Candidates of a task."""
    batch: int = 64
    """Images in a message."""
    image_candidates: int = 20
    """Candidates of an image in the messages."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"share is {self.share}: it lies above 0, at most 1")
        check(self, {"candidates": 1, "images": 1, "part": 1, "batch": 1, "image_candidates": 1})


def benchmark_selection(settings: SelectionBenchmark) -> Iterator[Line]:
    """Lines of the report, as they are measured."""
    with ray_session(ExecutionConfig()):
        yield from _cut(settings)
        yield "images of the pool   message bytes an image   coordinator's CPU, s   its memory, MB   bound"
        images = 1000
        while images < settings.images:
            yield _messages(settings, images)
            images *= 10
        yield _messages(settings, settings.images)


def _cut(settings: SelectionBenchmark) -> Iterator[str]:
    per_image = max(settings.candidates // settings.images, 1)
    in_part = max(settings.part // per_image, 1)
    starts = range(0, settings.images, in_part)
    parts = [(number, start, min(start + in_part, settings.images)) for number, start in enumerate(starts)]
    total = settings.images * per_image
    wanted = max(int(total * settings.share), 1)
    actor = ray.remote(num_cpus=0)(MeasuredCoordinator).remote(settings.images, wanted)
    _, before = ray.get(actor.usage.remote())
    begin = time.monotonic()
    selection: Selection = ray.get(actor.select.remote(Simulated(per_image), parts))
    seconds = time.monotonic() - begin
    cpu, memory = ray.get(actor.usage.remote())
    ray.kill(actor)
    yield (
        f"{total:.0e} candidates of {settings.images} images in {len(parts)} tasks, {wanted} chosen: {seconds:.0f} s; "
        f"the coordinator {cpu:.1f} s of CPU, {memory / 1e6:.0f} MB at its peak ({before / 1e6:.0f} MB before)"
    )
    assert selection.cut is not None
    yield f"  checked by counting: {_check(settings, parts, per_image, wanted, selection)}"


def _check(
    settings: SelectionBenchmark,
    parts: list[tuple[int, int, int]],
    per_image: int,
    wanted: int,
    selection: Selection,
) -> str:
    """Counts each image's candidates above the threshold and at it, apart from the search, and shares the ties out."""
    assert selection.cut is not None
    threshold, read = np.float32(selection.cut[0]), Simulated(per_image)

    def count(part: tuple[int, int, int]) -> tuple[Any, Any]:
        scores = read(part).scores.reshape(-1, per_image)
        return (scores > threshold).sum(1), (scores == threshold).sum(1)

    task = ray.remote(count)
    found = ray.get([task.remote(part) for part in parts])
    above, ties = (np.concatenate(each) for each in zip(*found, strict=True))
    expected = above + np.diff(np.minimum(ties.cumsum(), wanted - above.sum()), prepend=0)
    shares = np.zeros(settings.images, np.int64)
    shares[selection.rows] = selection.counts
    if not (0 < wanted - above.sum() <= ties.sum() and np.array_equal(shares, expected)):
        raise AssertionError(f"the cut at {threshold} is not that of the {wanted} best candidates")
    return f"{above.sum()} above the threshold, {ties.sum()} at it, {shares.sum()} chosen: every image's share is exact"


def _messages(settings: SelectionBenchmark, images: int) -> str:
    wanted = max(images * settings.image_candidates // 8, 1)
    actor = ray.remote(num_cpus=0)(MeasuredCoordinator).remote(images, wanted)
    ray.get(actor.usage.remote())

    def report(start: int) -> int:
        size = 0
        for first in range(start, min(start + 100 * settings.batch, images), settings.batch):
            random = np.random.default_rng(first)
            messages = {}
            for row in range(first, min(first + settings.batch, images)):
                scores = np.sort(random.random(settings.image_candidates, np.float32) ** 4)
                messages[row] = {"halo": Report(histogram(scores), pruned=0)}
            size += len(ray.cloudpickle.dumps(messages))
            ray.get(actor.add.remote(messages))
        return size

    task = ray.remote(report)
    size = sum(ray.get([task.remote(start) for start in range(0, images, 100 * settings.batch)]))
    cpu, memory = ray.get(actor.usage.remote())
    bound = ray.get(actor.bounds.remote())["halo"]
    ray.kill(actor)
    return f"{images:>18}   {size / images:>22.0f}   {cpu:>20.1f}   {memory / 1e6:>14.0f}   {bound:.3f}"
