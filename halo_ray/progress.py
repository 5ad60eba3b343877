"""Progress of a stage: a bar on a terminal, a line now and then elsewhere; both with rate and time left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.actor import ActorProxy
from ray.exceptions import RayError
from tqdm import tqdm

from halo_ray.cluster import here
from halo_ray.gauges import Gauges

POLL_SECONDS = 0.5
LINE_SECONDS = 10.0
JOIN_SECONDS = 5.0


@contextmanager
def progress(
    label: str, total: int, unit: str, done: Callable[[], int], gauges: Gauges | None = None
) -> Iterator[None]:
    """Shows how far ``done()`` has come towards ``total`` while the body runs; called in a thread of its own.

    Args:
        gauges: of an experiment, which show the share that is done too.
    """
    start = time.monotonic()
    stop = threading.Event()
    terminal = sys.stdout.isatty() and sys.stderr.isatty()
    interval = POLL_SECONDS if terminal else LINE_SECONDS

    def show(count: int, end: str) -> None:
        text = tqdm.format_meter(
            count, total, time.monotonic() - start, prefix=label, unit=unit, ncols=90 if terminal else 0
        )
        print(("\r" if terminal else "") + text, end=end, file=sys.stderr, flush=True)

    def poll() -> None:
        while not stop.wait(interval):
            try:
                count = done()
            except RayError:  # the stage itself says what is wrong
                continue
            if gauges is not None:
                gauges.set("progress", count / max(total, 1), stage=label)
            if terminal or count < total:  # the last line is the end's
                show(count, "" if terminal else "\n")

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=JOIN_SECONDS)
    if gauges is not None:
        gauges.set("progress", 1, stage=label)
    show(total, "\n")


class StepBoard:
    """The step that each training process has reached, for whoever shows it."""

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}

    def set(self, rank: int, step: int, processes: int) -> None:
        self._steps = {other: done for other, done in self._steps.items() if other < processes} | {rank: step}

    def least(self) -> int:
        return min(self._steps.values(), default=0)


class SharedStepBoard(StepBoard):
    """One for training processes that are not the driver's own."""

    def __init__(self, actor: ActorProxy[StepBoard]) -> None:
        self._actor = actor

    def set(self, rank: int, step: int, processes: int) -> None:
        self._actor.set.remote(rank, step, processes)  # nobody waits for it

    def least(self) -> int:
        return int(ray.get(self._actor.least.remote()))


@contextmanager
def step_board(*, shared: bool) -> Iterator[StepBoard]:
    """A board while the body runs."""
    if not shared:
        yield StepBoard()
        return
    # It takes no CPU from the work.
    actor = ray.remote(num_cpus=0, scheduling_strategy=here())(StepBoard).remote()
    try:
        yield SharedStepBoard(actor)
    finally:
        ray.kill(actor)
