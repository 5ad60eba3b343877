"""Time every stage of an experiment on a few of its images and a few steps, in a directory that is deleted again."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow.fs as pafs

from halo_ray.acquisition.budget import RoundPlan, plan_budget
from halo_ray.annotations.annotate import annotate
from halo_ray.annotations.config import AnnotationConfig
from halo_ray.annotations.oracles import GROUND_TRUTH, GUESS
from halo_ray.config import Config
from halo_ray.context import Context, open_experiment
from halo_ray.data.classes import class_set
from halo_ray.data.manifest import SPLITS, Splits, list_splits, sizes
from halo_ray.evaluation import evaluate
from halo_ray.execution import ExecutionConfig
from halo_ray.features import compute_features
from halo_ray.pipeline import actors_for, inspect_splits
from halo_ray.scoring import score_pool
from halo_ray.selection import select_regions
from halo_ray.stages import Stages
from halo_ray.storage import Storage
from halo_ray.training.stage import train

IMAGES = 48
"""The fewest images of each split that are timed."""

BATCHES_PER_ACTOR = 4
"""Batches that each inference actor has to compute at the least."""

STEPS = 40
"""Training steps that are timed, the first quarter of which counts as start-up: it waits for data and memory."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a stage: some in any case, and some for each image or step."""

    fixed: float
    each: float

    def of(self, count: int) -> float:
        """Seconds for so many images or steps."""
        return self.fixed + self.each * count


@dataclass
class Measured:
    """What was found on the sample."""

    images: dict[str, int]
    """Of each split, all there are."""
    rounds: list[RoundPlan]
    pool_pixels: int
    exact: bool
    """Whether the sizes of all pool images are known; else those of the sample stand for all."""
    costs: dict[str, Cost] = field(default_factory=dict)
    """By stage; "evaluate" with one model, "evaluate two" with two."""
    checkpoint: int = 0
    """Bytes."""
    each: dict[str, float] = field(default_factory=dict)
    """Bytes for each image: candidates and maps of a round, features of all splits."""


def measure(config: Config, start: Cost) -> Measured:
    """Times the stages on a sample; nothing of that is kept.

    People are not asked, nor is an oracle of the user's own: the model's guess stands for their answers.

    Args:
        start: of the connection to Ray, which stands.

    Raises:
        InputError: something must be mended before the experiment could run.
    """
    listed = list_splits(config.data, config.data_root, config.seed, pool_labels=config.needs_pool_labels)
    looked_at = _sample(listed, config.execution)
    sample, inspection = _inspected(config, looked_at)
    found = _whole(config, listed, sample)
    found.costs |= {"start": start, "inspect": inspection}
    storage, name = Storage(config.output_dir), f".plan-{uuid.uuid4().hex[:8]}"
    try:
        with open_experiment(_scratch(config, found, looked_at, sample, storage.below(name).uri)) as context:
            _time_stages(config, context, found)
    finally:
        storage.clear(name)
    return found


def _inspected(config: Config, sample: Splits) -> tuple[Splits, Cost]:
    """The usable images of a sample, and what it costs to look at them.

    Raises:
        InputError: one of them is not usable, and data.on_bad_record is "fail".
    """
    execution, classes = config.execution, class_set(config.data.class_set)
    unknown = [split for split in SPLITS if getattr(sample, split)["height"].null_count]
    if not unknown:
        return sample, Cost(0, 0)
    taken: list[tuple[int, float]] = []
    # Once more with the fewest: the first time, processes started too.
    for splits in (few := _first(sample, _few), few, sample):
        start = time.monotonic()
        usable, inspection = inspect_splits(splits, classes, execution)
        taken.append((_count(splits, unknown), time.monotonic() - start))
    inspection.settle(config.data.on_bad_record)
    each = fitted(taken[1:]).each
    return usable, Cost(max(taken[0][1] - each * taken[0][0], 0), each)


def _sample(listed: Splits, execution: ExecutionConfig) -> Splits:
    """The first images of each split, as many as keep all actors busy that a stage has for it."""
    batches = execution.batch_images * BATCHES_PER_ACTOR
    return _first(listed, lambda images: max(IMAGES, actors_for(images, execution) * batches))


def _first(splits: Splits, count: Callable[[int], int]) -> Splits:
    """The first images of each split; ``count`` gives how many of so many."""
    tables = {split: getattr(splits, split) for split in SPLITS}
    return Splits(**{split: table.slice(0, count(table.num_rows)) for split, table in tables.items()})


def _count(splits: Splits, which: Sequence[str] = SPLITS) -> int:
    """All images of the splits."""
    return sum(getattr(splits, split).num_rows for split in which)


def _few(images: int) -> int:
    return max(images // 6, 1)


def _whole(config: Config, listed: Splits, sample: Splits) -> Measured:
    """What is known of the whole experiment without looking at more."""
    exact, pool = not listed.pool["height"].null_count, sizes(sample.pool)
    known = sizes(listed.pool) if exact else [pool[place % len(pool)] for place in range(listed.pool.num_rows)]
    return Measured(
        images={split: getattr(listed, split).num_rows for split in SPLITS},
        rounds=plan_budget(config.acquisition, known) if config.rounds else [],
        pool_pixels=sum(height * width for height, width in known),
        exact=exact,
    )


def _scratch(config: Config, found: Measured, looked_at: Splits, sample: Splits, directory: str) -> Config:
    """The same experiment on the images looked at, with one round that buys as much of a usable one as planned."""
    training, acquisition = config.training, replace(config.acquisition, rounds=1)
    few = {split: replace(getattr(config.data, split), count=getattr(looked_at, split).num_rows) for split in SPLITS}
    if found.rounds:
        regions = round(found.rounds[0].regions * sample.pool_pixels / found.pool_pixels)
        acquisition = replace(acquisition, budget=max(regions, 1), budget_unit="regions")
    annotation = config.annotation
    if annotation.oracle != GROUND_TRUTH:
        annotation = AnnotationConfig(oracle=GUESS)
    return replace(
        config,
        output_dir=directory,
        annotation=annotation,
        data=replace(config.data, known_labels=None, on_bad_record="skip", **few),
        training=replace(
            training, pretrain_steps=min(training.pretrain_steps, STEPS), round_steps=STEPS, control=False
        ),
        acquisition=acquisition,
        execution=replace(config.execution, log_steps=STEPS // 4, checkpoint_steps=0, shared_stages=None),
    )


def _time_stages(config: Config, context: Context, found: Measured) -> None:
    """Runs the stages of the scratch experiment and notes what they cost; ``config`` is the whole one."""
    stages, storage = Stages(context.storage), context.storage
    if config.training.cache_features:
        many, few = _with_actors(context, max(found.images.values())), _first(context.splits, _few)
        start = time.monotonic()
        compute_features(replace(many, splits=few))
        short = time.monotonic() - start
        stages.run("features", compute_features, many)
        count = _count(context.splits)
        found.costs["features"] = fitted([(_count(few), short), (count, stages.seconds("features"))])
        found.each["features"] = size_of(storage, "features") / count
    model = _timed_training(context, stages, found, "pretrain", "pretrain/checkpoint", start=None)
    found.checkpoint = size_of(storage, model)
    validation = found.images["validation"]
    for name, models in {"evaluate": [model], "evaluate two": [model, model]}.items():
        if len(models) == 1 or config.training.trains_twin:
            found.costs[name] = _timed_evaluation(_with_actors(context, validation), name, models)
    if config.rounds:
        scoring = _with_actors(context, found.images["pool"])
        scored = stages.run("rounds/001/score", score_pool, scoring, 1, model)
        speed = scored["audit"][config.acquisition.function]["images_per_second"]
        found.costs["score"] = _cost(stages.seconds("rounds/001/score"), speed, context.splits.pool.num_rows)
        for kind in ("candidates", "maps"):
            found.each[kind] = size_of(storage, f"rounds/001/{kind}") / context.splits.pool.num_rows
        chosen = stages.run("rounds/001/select", select_regions, context, 1, **scored)
        asked = chosen["selection"], chosen["candidates"]
        stages.run("rounds/001/annotate", annotate, context, 1, *asked, model)
        for kind in ("select", "annotate"):
            found.costs[kind] = Cost(stages.seconds(f"rounds/001/{kind}"), 0)
    if config.rounds or config.training.protocol == "fully_supervised":
        how: dict[str, Any] = {"start": model, "number": 1, "labels": "bought" if config.rounds else "all"}
        _timed_training(context, stages, found, "train", "rounds/001/checkpoint", **how)
    if config.data.known_labels and not config.has_source and "train" in found.costs:  # which are not in the sample
        found.costs["pretrain"] = found.costs["train"]


def _timed_training(context: Context, stages: Stages, found: Measured, kind: str, directory: str, **how: Any) -> str:
    name = kind if kind == "pretrain" else f"rounds/001/{kind}"
    result = stages.run(name, train, context, directory, **how)
    training, seconds = context.config.training, stages.seconds(name)
    steps = training.pretrain_steps if kind == "pretrain" else STEPS
    speed = result["samples_per_second"]  # after the first entry in the log
    if result["batch"]:
        found.costs[kind] = _cost(seconds, speed and speed / result["batch"], steps)
    else:  # there is nothing to pretrain on, and the model is only built
        found.costs[kind] = Cost(seconds, 0)
    return str(result["checkpoint"])


def _timed_evaluation(context: Context, label: str, models: list[str]) -> Cost:
    taken = []
    for splits in (_first(context.splits, _few), context.splits):
        start = time.monotonic()
        evaluate(replace(context, splits=splits), label, *models)
        taken.append((splits.validation.num_rows, time.monotonic() - start))
    return fitted(taken)


def fitted(taken: Sequence[tuple[int, float]]) -> Cost:
    """The cost of a stage that took so many seconds for so many images; first for a few, then for more."""
    (few, short), (many, long) = taken
    if few == many:
        return Cost(0, long / many)
    each = max((long - short) / (many - few), 0)
    return Cost(max(long - each * many, 0), each)


def _cost(seconds: float, per_second: float | None, count: int) -> Cost:
    """Of a stage that took ``seconds``, ``count`` of which went by at a known speed once it was running."""
    if not per_second:
        return Cost(0, seconds / max(count, 1))
    return Cost(max(seconds - count / per_second, 0), 1 / per_second)


def _with_actors(context: Context, images: int) -> Context:
    """With as many inference actors as the stage has for so many images."""
    execution = context.config.execution
    actors = actors_for(images, execution)
    if not actors:
        return context
    execution = replace(execution, min_actors=actors, max_actors=actors, images_per_actor=1)
    return replace(context, config=replace(context.config, execution=execution))


def size_of(storage: Storage, name: str) -> int:
    """Bytes of all files below a directory; 0 where it is not there."""
    selector = pafs.FileSelector(storage.path(name), allow_not_found=True, recursive=True)
    return sum(info.size for info in storage.filesystem.get_file_info(selector) if info.is_file)
