"""The coordinator at scale: the exact cut of more candidates than a machine holds, and the messages of a large pool."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import ray

from halo_ray.acquisition.bound import histogram
from halo_ray.acquisition.threshold import Selection, order_keys
from halo_ray.benchmarks.measured import MeasuredCoordinator, Simulated
from halo_ray.benchmarks.settings import check
from halo_ray.coordinator import Report
from halo_ray.runtime import ExecutionConfig, ray_session


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
        check(self, {"candidates": 1, "images": 1, "part": 1, "batch": 1, "image_candidates": 1})


def benchmark_selection(settings: SelectionBenchmark) -> Iterator[str]:
    """Lines of the report, as they are measured."""
    with ray_session(ExecutionConfig()):
        yield from _cut(settings)
        yield "images of the pool   bytes a message   messages' CPU s   coordinator's memory, MB   bound"
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
    yield f"  checked by counting: {_check(settings, parts, per_image, selection)}"


def _check(
    settings: SelectionBenchmark, parts: list[tuple[int, int, int]], per_image: int, selection: Selection
) -> str:
    """Counts, apart from the search, what lies above the threshold and at it; and a part's shares one by one."""
    assert selection.cut is not None
    threshold = np.float32(selection.cut[0])
    read = Simulated(per_image)

    def count(part: tuple[int, int, int]) -> tuple[int, int]:
        scores = read(part).scores
        return int((scores > threshold).sum()), int((scores >= threshold).sum())

    task = ray.remote(count)
    found = np.array(ray.get([task.remote(part) for part in parts]))
    above, at_least = found.sum(0).tolist()
    chosen = int(selection.counts.sum())
    first = read(parts[0])
    order = order_keys(first.scores) >= order_keys(np.array([threshold], np.float32))[0]
    expected = np.bincount(first.rows[order], minlength=parts[0][2])
    shares = np.zeros_like(expected)
    mine = selection.rows < parts[0][2]
    shares[selection.rows[mine]] = selection.counts[mine]
    off = int((expected - shares).clip(0).sum())
    right = above < chosen <= at_least and (shares <= expected).all() and off <= at_least - chosen
    return f"{above} above the threshold, {at_least} with ties, {chosen} chosen: {'exact' if right else 'WRONG'}"


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
    return f"{images:>18}   {size / images:>9.0f} an image   {cpu:>15.1f}   {memory / 1e6:>24.0f}   {bound:.3f}"
