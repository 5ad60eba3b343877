"""What an experiment will take, reckoned from what was measured on a sample."""

from __future__ import annotations

import time
from dataclasses import dataclass

from halo_ray.acquisition.budget import region_pixels
from halo_ray.cluster import training_workers, uses_gpu
from halo_ray.config import Config
from halo_ray.pipeline import actors_for
from halo_ray.planning.measure import Cost, Measured, measure
from halo_ray.runtime import ray_session
from halo_ray.text_table import text_table
from halo_ray.training.checkpoints import KEPT


@dataclass(frozen=True)
class StagePlan:
    """What a kind of stage will take over the whole experiment."""

    name: str
    times: int
    seconds: float
    """Wall clock, all times together."""
    gpus: int
    """Held while it runs."""


@dataclass(frozen=True)
class Plan:
    """What an experiment will take."""

    stages: list[StagePlan]
    regions: list[int]
    """Of each round."""
    region_pixels: int
    pool_pixels: int
    exact: bool
    """Whether regions follow from the sizes of all pool images, or from those of a sample."""
    storage: dict[str, float]
    """Bytes by what they hold."""

    @property
    def seconds(self) -> float:
        """Wall clock of the whole experiment."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        """Hours that GPUs are held, added up."""
        return sum(stage.seconds * stage.gpus for stage in self.stages) / 3600


def plan_experiment(config: Config) -> Plan:
    """Times a sample of every stage and reckons the whole; nothing is left in output_dir, nothing is spent.

    Raises:
        InputError: something must be mended before the experiment could run.
    """
    start = time.monotonic()
    with ray_session(config.execution):
        found = measure(config, Cost(time.monotonic() - start, 0))
        gpu = uses_gpu(config.execution)
        workers = training_workers(config.execution, config.training.batches, config.most_workers)
        many = workers[1] if isinstance(workers, tuple) else max(workers, 1)
        return reckon(config, found, workers=many if gpu else 0, gpu=gpu)


def reckon(config: Config, found: Measured, *, workers: int, gpu: bool) -> Plan:
    """The plan that follows from what was measured.

    Args:
        workers: training processes, each with a GPU; 0 without.
        gpu: whether inference actors hold a GPU each.
    """
    training, costs = config.training, found.costs
    bought, twins = len(found.rounds), len(found.rounds) if training.trains_twin else 0
    steps = training.steps_of_rounds(config.acquisition.rounds)
    twin = None
    if twins:  # it has the source part of each step
        twin = Cost(costs["train"].fixed, costs["train"].each * training.source_batch / sum(training.batches))

    def inference(split: str) -> int:
        return max(actors_for(found.images[split], config.execution), 1) if gpu else 0

    every = sum(found.images.values())
    pool, validation = found.images["pool"], found.images["validation"]
    judged = 1 if training.protocol != "fully_supervised" else 2
    rows = [
        StagePlan("start", 1, costs["start"].of(1), 0),
        StagePlan("inspect", 1, costs["inspect"].of(every), 0),
    ]
    if "features" in costs:
        rows.append(StagePlan("features", 1, costs["features"].of(every), inference("pool")))
    rows.append(StagePlan("pretrain", 1, costs["pretrain"].of(training.pretrain_steps), workers))
    for name, split in {"score": "pool", "select": "", "annotate": ""}.items():
        if bought:
            seconds = bought * costs[name].of(pool)
            rows.append(StagePlan(name, bought, seconds, inference(split) if split else 0))
    if bought:
        rows.append(StagePlan("train", bought, sum(costs["train"].of(each) for each in steps), workers))
    elif training.protocol == "fully_supervised":
        rows.append(StagePlan("train", 1, costs["train"].of(sum(steps)), workers))
    if twin is not None:
        rows.append(StagePlan("control", twins, sum(twin.of(each) for each in steps), workers))
    rounds = costs["evaluate two" if twins else "evaluate"].of(validation) * bought
    rows.append(
        StagePlan(
            "evaluate", judged + bought, judged * costs["evaluate"].of(validation) + rounds, inference("validation")
        )
    )
    return Plan(
        stages=rows,
        regions=[each.regions for each in found.rounds],
        region_pixels=region_pixels(config.acquisition),
        pool_pixels=found.pool_pixels,
        exact=found.exact,
        storage={
            # Those within a stage are deleted when it is done.
            "checkpoints": found.checkpoint * (judged + bought + twins + KEPT),
            "candidates": found.each.get("candidates", 0) * pool * bought,
            "maps": found.each.get("maps", 0) * pool * bought,
            "features": found.each.get("features", 0) * every,
        },
    )


def plan_text(plan: Plan) -> str:
    """The plan for people: hours by stage, what each round buys, and what is stored."""
    lines = [["stage", "times", "hours", "GPU-hours"]]
    for stage in plan.stages:
        hours = stage.seconds / 3600
        lines.append([stage.name, str(stage.times), _hours(hours), _hours(hours * stage.gpus)])
    lines.append(["all", "", _hours(plan.seconds / 3600), _hours(plan.gpu_hours)])
    text = text_table(lines)
    text = [*text[:-1], text[1], text[-1], ""]
    about = "" if plan.exact else "about "
    for number, regions in enumerate(plan.regions, start=1):
        pixels = regions * plan.region_pixels
        share = 100 * pixels / plan.pool_pixels
        text.append(f"round {number}: {about}{regions} regions, {pixels} pixels, {share:.4f} % of the pool")
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in plan.storage.items() if size)
    return "\n".join([*text, f"storage: {_bytes(sum(plan.storage.values()))} ({parts})"])


def _hours(hours: float) -> str:
    return "0" if not hours else f"{hours:.1f}" if hours >= 10 else f"{hours:.2g}"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
