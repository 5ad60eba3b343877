"""What training says while it runs: progress, TensorBoard event files, and gauges on Ray's metrics endpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from halo_ray.data.samples import Samples
from halo_ray.event_files import EventFiles
from halo_ray.gauges import Gauges
from halo_ray.geometry_health import RadiusStatistics, radii, radius_of_classes
from halo_ray.models.segmenter import Segmentation
from halo_ray.progress import POLL_SECONDS, StepBoard
from halo_ray.storage import Storage
from halo_ray.training.losses import Losses
from halo_ray.training.worker import Worker

GAUGES = {
    "samples_per_second": "Training samples a second, over all workers.",
    "loss": "Training loss, with its weights.",
    "learning_rate": "Largest learning rate of all weights.",
    "gradient_norm": "L2 norm of the gradient, before it was clipped.",
    "radius_mean": "Mean radius of the embedding, on worker 0.",
    "radius_at_rim": "Share of the embedding at the rim of the ball, on worker 0.",
    "radius_at_origin": "Share of the embedding at the origin of the ball, on worker 0.",
    "radius_of_class": "Mean radius of the embedding of labelled source pixels of a class, on worker 0.",
}
"""By their names after halo_ray_; their tags are the experiment, the stage and the class."""


@dataclass(frozen=True)
class LogConfig:
    """What a stage's log is called, and how often it is written."""

    experiment: str
    stage: str
    """The stage's tag, and the name of its run in TensorBoard without the round."""
    run: str
    first_step: int
    """Step of that run at which the stage begins."""
    steps: int
    """Of the stage; the last one has an entry too."""
    batch: int
    """Samples of a step over all workers."""
    every: int
    """Steps between two entries."""
    class_names: list[str]
    board: StepBoard


class StageLog:
    """Writes an entry for every so many steps; every worker must take part, the first one writes."""

    def __init__(self, config: LogConfig, worker: Worker, losses: Losses, curvature: float, files: EventFiles | None):
        self.loss: float | None = None
        """As it was last written; None where it was no number."""
        self._config, self._worker, self._losses, self._curvature, self._files = (
            config,
            worker,
            losses,
            curvature,
            files,
        )
        self._gauges = Gauges(GAUGES if files else {}, config.experiment, ("stage", "class"))
        self._timed: tuple[float, int] | None = None
        self._steps = 0
        self._means: dict[str, Tensor] = {}
        self._since, self._shown = (time.perf_counter(), 0), 0.0

    def add(self, means: dict[str, Tensor], said: Sequence[Segmentation], part: Sequence[Samples]) -> None:
        """Takes note of a part of a step."""
        self._means = {name: mean + self._means.get(name, 0) for name, mean in means.items()}
        self._last = said, part

    def step(self, step: int, rate: float, norm: Tensor) -> None:
        """Ends a step."""
        self._steps += 1
        now = time.monotonic()
        if now - self._shown > POLL_SECONDS:
            self._config.board.set(self._worker.rank, step + 1, self._worker.world_size)
            self._shown = now
        if (step + 1) % self._config.every == 0 or step + 1 == self._config.steps:
            self._write(step, rate, norm)
        self._means = {}

    @property
    def samples_per_second(self) -> float | None:
        """Over all workers, from the first entry on, after which loading and start-up are behind; None before it."""
        if self._timed is None or self._steps == self._timed[1]:
            return None
        return self._speed(self._timed)

    def flush(self) -> None:
        if self._files:
            self._files.flush()

    def _write(self, step: int, rate: float, norm: Tensor) -> None:
        means = {name: float(self._worker.sum(mean)) for name, mean in self._means.items()}
        loss = self._losses.weighted(means)
        self.loss = loss if math.isfinite(loss) else None
        if self._timed is None:
            self._timed = time.perf_counter(), self._steps
        if not self._files:
            return
        values = {
            "samples_per_second": self._speed(self._since),
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": float(norm),
            **self._radii(),
        }
        self._since = time.perf_counter(), self._steps
        for name, value in values.items():
            self._set(name, value)
        self._files.scalars(self._config.first_step + step, values | {f"loss/{k}": v for k, v in means.items()})

    def _speed(self, since: tuple[float, int]) -> float:
        begin, steps = since
        return (self._steps - steps) * self._config.batch / (time.perf_counter() - begin)

    def _radii(self) -> dict[str, float]:
        said, part = self._last
        h = said[0].embedding.detach()
        if not h.isfinite().all():
            return {}
        found = RadiusStatistics.of(h, self._curvature)
        if part[0].sources:
            r = radii(h[: part[0].sources], self._curvature)
            names = self._config.class_names
            of_class = radius_of_classes(r, part[0].labels[: part[0].sources], len(names))
            for name, value in zip(names, of_class, strict=True):
                if not math.isnan(value):
                    self._set("radius_of_class", value, name)
        return {"radius_mean": found.mean, "radius_at_rim": found.at_rim, "radius_at_origin": found.at_origin}

    def _set(self, name: str, value: float, class_name: str = "") -> None:
        self._gauges.set(name, value, **{"stage": self._config.stage, "class": class_name})


@contextmanager
def open_log(
    config: LogConfig, storage: Storage, worker: Worker, losses: Losses, curvature: float
) -> Iterator[StageLog]:
    """The log of a stage while the body runs."""
    files = EventFiles(storage, config.run) if worker.rank == 0 else None
    try:
        yield StageLog(config, worker, losses, curvature, files)
    finally:
        if files:
            files.close()
