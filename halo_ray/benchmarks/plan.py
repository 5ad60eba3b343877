"""What the planner says that a run will take, against what it takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from halo_ray.benchmarks.measurement import Line
from halo_ray.benchmarks.settings import check
from halo_ray.config import parse_config
from halo_ray.experiment import run_experiment
from halo_ray.planning.plan import plan_experiment, plan_text


@dataclass(frozen=True)
class PlanBenchmark:
    """Predicted and real wall time of an experiment, Ray's start included."""

    config: str = "jobs/presets/camvid_day_to_dusk.yaml"
    """YAML file of the experiment, such as one of jobs/presets."""
    data_root: str = ""
    """Directory or URI below which the images lie; empty: what the file says."""
    rounds: int = 0
    """Only so many rounds; 0: what the file says."""

    def __post_init__(self) -> None:
        check(self, {"rounds": 0})


def benchmark_plan(settings: PlanBenchmark) -> Iterator[Line]:
    """Lines of the report, as they are measured."""
    config = parse_config(["--config", settings.config], Path(settings.config).parent)
    if settings.data_root:
        config = replace(config, data_root=settings.data_root)
    if settings.rounds:
        config = replace(config, acquisition=replace(config.acquisition, rounds=settings.rounds))
    with tempfile.TemporaryDirectory(prefix="halo_ray-") as directory:
        config = replace(config, output_dir=directory)
        start = time.perf_counter()
        plan = plan_experiment(config)
        yield plan_text(plan)
        yield f"planned in {time.perf_counter() - start:.0f} s"
        start = time.perf_counter()
        rows = run_experiment(config)
        real = time.perf_counter() - start
    stages: dict[str, float] = {}
    for row in rows:
        for name, seconds in row["seconds"].items():
            stages[name] = stages.get(name, 0) + seconds
    for stage in plan.stages:
        if stage.name in stages:
            yield f"{stage.name}: predicted {stage.seconds:.0f} s, real {stages[stage.name]:.0f} s"
    yield f"all: predicted {plan.seconds:.0f} s, real {real:.0f} s, ratio {plan.seconds / real:.2f}"
