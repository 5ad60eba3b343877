"""Sweeps that never ran, and their trials: the markers and records that a run would leave, and nothing else."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from halo_ray.acquisition.budget import plan_budget
from halo_ray.config import Config, config_to_yaml
from halo_ray.report.layout import FILES, REPORT
from halo_ray.results import derived, recorded
from halo_ray.root import Kind, begin_root
from halo_ray.stage_order import prerequisites, report_stage
from halo_ray.stages import BEGIN, Stages
from halo_ray.storage import Storage, digest_of, round_directory, sealed
from halo_ray.stored_config import CLASSES, CONFIG, PLAN, signed_config
from halo_ray.sweep.directory import begin_sweep, open_sweep
from halo_ray.sweep.space import TRIALS, Space, Trial, configure
from halo_ray.sweep.status import write_stopped

SIZES = [(100, 100)] * 5
"""Of the pool's images."""


def begun(base: Config, space: Space, kind: Kind) -> Storage:
    """The directory of a sweep or study that a run has begun, or refused to go on in, and left."""
    with open_sweep(base, kind) as storage:
        begin_sweep(storage, base, space, kind)
    return Storage(storage.uri)


def ran(base: Config, trial: Trial, mious: list[float]) -> None:
    """Leaves a trial as an experiment does: with one mIoU for each round, 0 first; finished if there is one for all."""
    config = configure(base, trial)
    Storage(base.output_dir).clear(f"{TRIALS}/{trial.name}")
    storage = Storage(config.output_dir)
    plan, experiment = plan_budget(config.acquisition, SIZES), digest_of(trial.name)[:32]
    begin_root(storage, "experiment")
    storage.write(CONFIG, signed_config(config_to_yaml(config), experiment))
    rounds = [asdict(each) for each in plan]
    storage.write_sealed(PLAN, {"experiment": experiment, "budget": config.acquisition.budget, "rounds": rounds})
    storage.write_sealed(CLASSES, {})
    stages, finished = Stages(storage), len(mious) == config.rounds + 1
    stages.commit(BEGIN, experiment, {}, [CLASSES], 0.0)
    for name in prerequisites(config, config.rounds):
        at, _, kind = name.rpartition("/")
        number = int(at.rpartition("/")[2]) if at else 0
        report = name == report_stage(config.rounds)
        if name == BEGIN or number >= len(mious) or (name.startswith("report-") and not (report and finished)):
            continue
        stages.run(name, dict if kind != "record" else lambda number=number: _row(number, mious[number], plan))
    for name, data in (derived(recorded(stages)) if mious else {}).items():
        storage.write(name, data)
    if finished:
        storage.write(f"{REPORT}/{FILES}", sealed({"experiments": [experiment], "files": {}}))


def was_stopped(base: Config, trial: Trial, mious: list[float]) -> None:
    """Leaves a trial as the scheduler does that stops it."""
    ran(base, trial, mious)
    write_stopped(Storage(base.output_dir), trial.name, len(mious) - 1)


def _row(number: int, miou: float, plan: list[Any]) -> dict[str, Any]:
    bought = 9 * sum(each.regions for each in plan[:number])
    pixels = sum(height * width for height, width in SIZES)
    checkpoint = f"{round_directory(number)}/checkpoint"
    return {"round": number, "miou": miou, "pixels": bought, "budget_spent": bought / pixels, "checkpoint": checkpoint}
