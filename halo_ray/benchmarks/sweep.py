"""A sweep, against the same trials one after another that share nothing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from halo_ray.acquisition.budget import AcquisitionConfig
from halo_ray.benchmarks.measurement import Line, Measurement
from halo_ray.benchmarks.settings import check
from halo_ray.config import Config
from halo_ray.data.manifest import DataConfig
from halo_ray.data.readers import SplitConfig
from halo_ray.execution import ExecutionConfig
from halo_ray.experiment import run_experiment
from halo_ray.models.build import ModelConfig
from halo_ray.results import read_metrics
from halo_ray.runtime import ray_session
from halo_ray.storage import Storage
from halo_ray.sweep.results import table
from halo_ray.sweep.run import run_sweep
from halo_ray.sweep.space import SearchSpace, configure
from halo_ray.sweep.trials import SweepConfig
from halo_ray.training.config import TrainingConfig


@dataclass(frozen=True)
class SweepBenchmark:
    """Wall time of whole experiments on a few rendered scenes; Ray's start is left out on both sides."""

    curvature: tuple[float, ...] = (0.5, 1.0)
    """Curvatures of the ball."""
    budget: tuple[float, ...] = (0.005, 0.01, 0.02)
    """Shares of the pool."""
    acquisition: tuple[str, ...] = ("halo", "random")
    """Acquisition functions; random is added."""
    seeds: int = 1
    """Number of seeds."""
    pretrain_steps: int = 200
    """Steps before the first round; every round has two fifths of them."""
    max_concurrent_trials: int | None = None
    """Trials of the sweep at the same time; null: as many as there is room for."""

    def __post_init__(self) -> None:
        check(self, {"seeds": 1, "pretrain_steps": 5})


def benchmark_sweep(settings: SweepBenchmark) -> Iterator[Line]:
    """Lines of the report, as they are measured."""
    with tempfile.TemporaryDirectory(prefix="halo_ray-") as directory:
        base = _base(settings, Path(directory, "sweep"))
        space = SearchSpace.of(base, settings.curvature, settings.budget, settings.acquisition, settings.seeds)
        points = space.points()
        with ray_session(base.execution):
            start = time.perf_counter()
            cells = run_sweep(base, space, SweepConfig(max_concurrent_trials=settings.max_concurrent_trials))
            shared = time.perf_counter() - start
            yield f"sweep of {len(points)} trials: {shared:.0f} s"
            start = time.perf_counter()
            alone = {}
            for number, point in enumerate(points):
                config = configure(base, point)
                execution = replace(config.execution, shared_stages=None)
                alone[point] = run_experiment(
                    replace(config, output_dir=str(Path(directory, f"{number}")), execution=execution)
                )
            seconds = time.perf_counter() - start
        yield f"the same trials one after another, each with stages of its own: {seconds:.0f} s"
        line, what = f"ratio {seconds / shared:.2f}", f"a sweep of {len(points)} trials, of its trials one by one"
        yield Measurement(line, what, shared, seconds, "s", seconds / shared, "bare loop")
        pretrained = len({path.parent.parent for path in Path(directory).glob("sweep/trials/*/tensorboard/pretrain")})
        yield f"pretrained models: {pretrained} in the sweep, {len(points)} without"
        same = sum(
            [row["miou"] for row in read_metrics(Storage(configure(base, point).output_dir))]
            == [row["miou"] for row in rows]
            for point, rows in alone.items()
        )
        yield f"trials with the same mIoU in every round: {same} of {len(points)}"
        yield table(cells, space)


def _base(settings: SweepBenchmark, directory: Path) -> Config:
    scene = SplitConfig(height=64, width=128)
    return Config(
        output_dir=str(directory),
        data=DataConfig(
            source=replace(scene, scenes=16),
            pool=replace(scene, scenes=12),
            validation=replace(scene, scenes=8, first=100_000),
            height=64,
            width=128,
        ),
        model=ModelConfig(embedding=16, decoder_width=32),
        acquisition=AcquisitionConfig(rounds=2),
        training=TrainingConfig(
            pretrain_steps=settings.pretrain_steps,
            round_steps=settings.pretrain_steps * 2 // 5,
            source_batch=2,
            target_batch=2,
            warmup_steps=2,
            control=False,
            threads=1,  # two trials on two cores would wait for each other at every step
        ),
        execution=ExecutionConfig(num_workers=0, max_actors=0),
    )
