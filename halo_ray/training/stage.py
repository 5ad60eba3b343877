"""A training stage on Ray Train: what its workers are given, and how it goes on after a failure."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.train import Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from halo_ray.annotations.ledger import Ledger
from halo_ray.checkpoint import load_state
from halo_ray.cluster import device_of, training_workers, uses_gpu
from halo_ray.config import identity
from halo_ray.data.inspection import source_classes
from halo_ray.data.samples import LoadSamples
from halo_ray.data.schedule import SOURCE, TARGET, training_schedule
from halo_ray.errors import InputError
from halo_ray.features import stored_features
from halo_ray.progress import StepBoard, progress, step_board
from halo_ray.secret import shown
from halo_ray.training.loop import TrainJob, train_loop_per_worker
from halo_ray.training.schedules import Schedule
from halo_ray.training.telemetry import LogConfig

if TYPE_CHECKING:  # the context holds a TrainingConfig
    from halo_ray.context import Context

Labels = Literal["none", "bought", "all"]


def train(
    context: Context, directory: str, *, start: str | None, number: int = 0, labels: Labels = "none"
) -> dict[str, Any]:
    """Trains the model of one round, or, in round 0, that which the rounds begin with.

    Args:
        directory: of the storage, for the checkpoint.
        start: checkpoint to begin with; None: the network as it is built.
        labels: of the pool: none, those bought up to this round, or all there are.

    Returns:
        JSON-able: ``checkpoint``, which is ``directory``, and what the loop returned.

    Raises:
        InputError: training cannot go on without a change; the message says which.
    """
    with step_board(shared=bool(_workers(context))) as board:
        job = _job(context, directory, start, number, labels, board)
        job.within.clear_others()
        print(_plan(job, _workers(context)), flush=True)
        with progress(f"{directory} train", job.steps, "step", board.least, context.gauges):
            result = _fit(context, job)
    job.within.clear()
    if job.device == "cuda":  # in the driver's own process, which holds on to memory that actors will want
        torch.cuda.empty_cache()
    for step in result.return_value["bad_steps"]:
        ids = ", ".join(job.samples(step))
        print(
            f"{directory}: step {step} was left out, since its gradient was NaN or infinite; samples {ids}", flush=True
        )
    return {"checkpoint": directory, **result.return_value}


def _job(
    context: Context, directory: str, start: str | None, number: int, labels: Labels, board: StepBoard
) -> TrainJob:
    config, storage, training = context.config, context.storage, context.config.training
    # What the user had already is round 0, and trained on from the start.
    bought = Ledger(storage).sparse_labels(number + 1 if labels == "bought" else 1)
    each = training.steps_of_rounds(config.acquisition.rounds)
    steps = training.pretrain_steps if not number else sum(each) if labels == "all" else each[number - 1]
    rows = _rows(context, number, labels, bought, steps)
    # A cold start without any label has nothing to pretrain on: its first model is the initial one.
    steps = steps if rows.num_rows else 0
    batch = rows.num_rows // max(steps, 1)
    goes_on = number > 0 and training.between_rounds == "continue" and labels != "all"
    before, seed, features = (
        sum(each[: max(number - 1, 0)]),
        context.config.round_seed(number),
        stored_features(context),
    )
    return TrainJob(
        storage=storage,
        directory=directory,
        key=_key(context, rows),
        start=start,
        keep_optimizer=goes_on and number > 1,
        model=context.model,
        about={
            "class_names": list(context.classes.classes),
            "colors": context.classes.palette().tolist(),
            "input_size": list(context.input_size),
        },
        training=training,
        rows=ray.put(rows),
        load=LoadSamples(
            sizes={SOURCE: config.data.source_size, TARGET: context.input_size},
            classes=context.classes,
            labels=ray.put(bought),
            seed=seed,
            augment=training.augment,
            dense_target=labels == "all",
            features=features,
            show_pixels=training.source_sampling.min_pixels // 2,  # DAFormer asks for half of it in a window
        ),
        features=features,
        steps=steps,
        batch=batch,
        schedule=Schedule(
            training.schedule, sum(each) if goes_on else max(steps, 1), training.warmup_steps, training.poly_power
        ),
        first_step=before if goes_on else 0,
        learning_rate=training.round_learning_rate if number else training.learning_rate,
        seed=seed,
        # In the driver's own process Ray assigns no device.
        device=None if _workers(context) else device_of(config.execution),
        checkpoint_steps=config.execution.checkpoint_steps,
        log=LogConfig(
            experiment=shown(storage.uri),
            stage=directory,
            run="pretrain" if not number else "control" if directory.endswith("/control") else "rounds",
            first_step=before,
            steps=steps,
            batch=batch,
            every=config.execution.log_steps,
            class_names=list(context.classes.classes),
            board=board,
        ),
    )


def _rows(context: Context, number: int, labels: Labels, bought: pa.Table, steps: int) -> pa.Table:
    """The samples of all steps (SCHEDULE)."""
    config, training = context.config, context.config.training
    source, target = _images(context, number, labels, bought)
    source_batch, target_batch = training.source_batch, training.target_batch
    if number == 0 and not target.num_rows:
        source_batch += target_batch
    return training_schedule(
        source,
        target,
        steps=steps,
        source_batch=source_batch,
        target_batch=target_batch,
        seed=context.config.round_seed(number),
        sampling=training.source_sampling,
        class_pixels=source_classes(context.storage) if source.num_rows and config.needs_class_statistics else None,
    )


def _images(context: Context, number: int, labels: Labels, bought: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Source and pool images (MANIFEST) to train on."""
    training, source, pool = context.config.training, context.splits.source, context.splits.pool
    if number and not training.uses_source:
        source = source.slice(0, 0)
    if labels == "all":
        if pool["label_uri"].null_count:
            missing = pool.filter(pc.is_null(pool["label_uri"]))["image_id"][0]
            raise InputError(f"training.protocol fully_supervised: pool image {missing} has no label: add it")
        return source, pool
    if labels == "bought" and training.losses.negative:  # which needs no labels
        return source, pool
    return source, pool.filter(pc.is_in(pool["image_id"], bought["image_id"]))


def _workers(context: Context) -> int | tuple[int, int]:
    config = context.config
    return training_workers(config.execution, config.training.batches, config.most_workers)


def _key(context: Context, rows: pa.Table) -> str:
    """Names the configuration and the images, which fix the weights that a stage ends with."""
    told = json.dumps([identity(context.config), rows["image_id"].to_pylist()], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _plan(job: TrainJob, workers: int | tuple[int, int]) -> str:
    """What the stage will do, for the log."""
    training, step = job.training, _step(job)
    begin = f", from step {step} on," if step else ""
    if isinstance(workers, tuple):
        where = f"over {workers[0]} to {workers[1]} training processes"
    else:
        where = f"over {workers} training processes" if workers else "in the driver's process"
    parts = f", each in {training.accumulation} parts" if training.accumulation > 1 else ""
    return (
        f"{job.directory}: {job.steps} steps{begin} of {job.batch} images {where}{parts}; learning rate "
        f"{job.learning_rate:g}, of the head {job.learning_rate * training.head_factor:g}, whatever the number of "
        "processes"
    )


def _fit(context: Context, job: TrainJob) -> Result:
    """Runs the loop on Ray Train."""
    execution, storage, workers = context.config.execution, context.storage, _workers(context)
    gpu = job.device is None and uses_gpu(execution)
    storage.make(f"{job.directory}-run/ray")  # patiently, which Ray Train is not
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": execution.cpus_per_worker, **({"GPU": 1} if gpu else {})},
        ),
        # A name of its own for every attempt: Ray Train silently resumes a run whose name it finds.
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=storage.path(f"{job.directory}-run/ray"),
            storage_filesystem=storage.filesystem,
        ),
    )
    return trainer.fit()


def _step(job: TrainJob) -> int:
    """Steps that need not be taken again."""
    last = job.within.last()
    state = load_state(job.storage, last) if last else None
    return int(state["step"]) if state else 0
