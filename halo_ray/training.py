"""Training on Ray Train: data-parallel workers, each fed its share of a fixed schedule by Ray Data."""

from __future__ import annotations

import math
import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import geoopt
import pyarrow.compute as pc
import pyarrow.fs as pafs
import ray
import ray.train
import torch
from ray.actor import ActorProxy
from ray.data import ExecutionOptions
from ray.train import Checkpoint, DataConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model

from halo_ray.annotations.ledger import Ledger
from halo_ray.checkpoint import load_model, load_optimizer_state, write_checkpoint
from halo_ray.data.inspection import source_classes
from halo_ray.data.samples import LoadSamples, batch_to_tensors
from halo_ray.data.sampling import SourceSampling
from halo_ray.data.schedule import SOURCE, TARGET, training_schedule
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.losses import dense_cross_entropy, mean_over_workers, point_cross_entropy, summed
from halo_ray.models.build import ModelConfig, build_model, describe_model
from halo_ray.models.segmenter import Segmenter
from halo_ray.pipeline import arrow_batches, stream
from halo_ray.progress import StepBoard, progress, start_board
from halo_ray.runtime import training_workers, uses_gpu
from halo_ray.schedules import poly_with_warmup
from halo_ray.storage import Storage

if TYPE_CHECKING:  # the context holds a TrainingConfig
    from halo_ray.context import Context


BLOCK_SAMPLES = 32
"""Samples that one task loads: small blocks keep Ray Data's scheduling loop busy in the trainer's own process."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained, before the first round and in each."""

    pretrain_steps: int = 250
    """Optimizer steps on the source domain before the first round."""
    round_steps: int = 80
    """Optimizer steps in each round."""
    source_batch: int = 4
    """Source images in a step, over all workers; pretraining uses source_batch + target_batch."""
    target_batch: int = 4
    """Pool images with bought pixels in a step, over all workers."""
    target_weight: float = 1.0
    """Weight of the loss on bought pixels; that on source pixels has weight 1."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Riemannian Adam or Riemannian SGD with momentum 0.9 (geoopt)."""
    learning_rate: float = 2e-3
    """Largest learning rate of the backbone in pretraining."""
    round_learning_rate: float = 1e-3
    """Largest learning rate of the backbone in a round."""
    head_factor: float = 1.0
    """The decoder, the feature reweighting and the classifier learn so many times as fast."""
    weight_decay: float = 1e-4
    """L2 weight decay."""
    warmup_steps: int = 20
    """Steps of linear rise of the learning rate, in every stage."""
    poly_power: float = 0.9
    """Exponent of the polynomial decay that follows."""
    augment: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How much training images are changed at random"""
    source_sampling: SourceSampling = field(default_factory=SourceSampling)
    """How source images are drawn"""
    control: bool = True
    """Also train a twin on the same source images and steps without any bought label, to show what the labels gave."""
    threads: int = 2
    """Torch threads of a training process; another number changes the last bits of the weights."""

    def __post_init__(self) -> None:
        for key in ("pretrain_steps", "round_steps", "source_batch", "target_batch", "threads"):
            if getattr(self, key) < 1:
                raise InputError(f"training.{key} is {getattr(self, key)}: it must be at least 1")
        for key in ("learning_rate", "round_learning_rate", "head_factor"):
            if not (getattr(self, key) > 0 and math.isfinite(getattr(self, key))):
                raise InputError(f"training.{key} is {getattr(self, key)}: it must be a number above 0")
        for key in ("target_weight", "weight_decay", "warmup_steps", "poly_power"):
            if not (getattr(self, key) >= 0 and math.isfinite(getattr(self, key))):
                raise InputError(f"training.{key} is {getattr(self, key)}: it must be a number of at least 0")


@dataclass(frozen=True)
class TrainJob:
    """What a training process must know."""

    storage_uri: str
    checkpoint: str | None
    """Directory of the storage to start from; None: the pretrained backbone and a random head."""
    model: ModelConfig
    classes: int
    training: TrainingConfig
    steps: int
    batch: int
    """Images of a step on one worker."""
    learning_rate: float
    seed: int
    device: str | None
    """None: the one that Ray Train gave the worker."""
    board: ActorProxy[StepBoard]


def train_loop_per_worker(job: TrainJob) -> None:
    """One training stage; every worker runs this and sees its own share of each step's batch."""
    torch.manual_seed(job.seed)
    torch.set_num_threads(job.training.threads)
    rank, device = ray.train.get_context().get_world_rank(), torch.device(job.device or get_device())
    model = _start(job)
    description = describe_model(job.model, job.classes, model)
    optimizer = _optimizer(model.to(device), job)
    network = prepare_model(model.train())
    shard = ray.train.get_dataset_shard(_share_name(rank))
    loss = torch.zeros(())
    with arrow_batches(shard, job.batch) as batches:
        for step, batch in enumerate(batches):
            _set_learning_rate(optimizer, step, job)
            parts = batch_to_tensors(batch, device)
            said = [network(part.images).logits for part in parts]
            dense = [dense_cross_entropy(logits, part.labels) for logits, part in zip(said, parts, strict=True)]
            bought = [point_cross_entropy(logits, *part.points) for logits, part in zip(said, parts, strict=True)]
            loss = mean_over_workers(*summed(dense))
            loss = loss + job.training.target_weight * mean_over_workers(*summed(bought))
            if not torch.isfinite(loss):
                raise InputError(f"the training loss became {loss.item()} at step {step}: lower training.learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            job.board.set.remote(rank, step + 1)
    checkpoint = None
    if rank == 0:
        directory = tempfile.mkdtemp(prefix="halo_ray-")
        write_checkpoint(Path(directory), description, model, optimizer)
        checkpoint = Checkpoint(directory)
    ray.train.report({"loss": loss.item()}, checkpoint=checkpoint, delete_local_checkpoint_after_upload=True)


def check_workers(config: TrainingConfig, workers: int) -> None:
    """Raises InputError where ``workers`` training processes cannot share the batches of ``config`` equally."""
    for key in ("source_batch", "target_batch"):
        if getattr(config, key) % max(workers, 1):
            raise InputError(
                f"training.{key} {getattr(config, key)} is no multiple of the {workers} training workers: change it or "
                "execution.num_workers"
            )


def train(context: Context, directory: str, *, start: str | None, labelled: int = 0, seed: int) -> dict[str, Any]:
    """Trains from the checkpoint ``start`` on the source and on the pixels bought in rounds 1..``labelled``.

    Args:
        directory: of the storage, for the checkpoint.
        start: None pretrains on the source alone.
        seed: fixes the sequence of source images; runs that share it see the same.

    Returns:
        JSON-able: ``checkpoint``, which is ``directory``, and the last ``loss``.
    """
    config, storage, job_config = context.config, context.storage, context.config.training
    workers = training_workers(config.execution, job_config.source_batch, job_config.target_batch)
    labels = Ledger(storage).sparse_labels(labelled + 1)
    source, pool = context.splits.source, context.splits.pool
    target = pool.filter(pc.is_in(pool["image_id"], labels["image_id"]))
    steps = job_config.pretrain_steps if start is None else job_config.round_steps
    source_batch, target_batch = job_config.source_batch, job_config.target_batch
    if start is None and not target.num_rows:
        source_batch += target_batch
    sampling = job_config.source_sampling
    schedule = training_schedule(
        source,
        target,
        # A cold start without any label has nothing to pretrain on: its first model is the initial one.
        steps=steps if source.num_rows or target.num_rows else 0,
        source_batch=source_batch,
        target_batch=target_batch,
        workers=max(workers, 1),
        seed=seed,
        sampling=sampling,
        class_pixels=source_classes(storage) if source.num_rows and config.needs_class_statistics else None,
    )
    load = LoadSamples(
        sizes={SOURCE: config.data.source_size, TARGET: context.input_size},
        classes=context.classes,
        labels=ray.put(labels),
        seed=seed,
        augment=job_config.augment,
        show_pixels=sampling.min_pixels // 2,  # DAFormer asks for half of it in a window
    )
    batch = max(schedule[0].num_rows // steps, 1)
    board, gpu = start_board(), uses_gpu(config.execution)
    job = TrainJob(
        storage_uri=storage.uri,
        checkpoint=start,
        model=context.model,
        classes=len(context.classes.classes),
        training=job_config,
        steps=steps,
        batch=batch,
        learning_rate=job_config.learning_rate if start is None else job_config.round_learning_rate,
        seed=seed,
        # In the driver's own process Ray assigns no device.
        device=None if workers else "cuda" if gpu else "cpu",
        board=board,
    )
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config=job,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu and workers > 0,
            resources_per_worker={"CPU": config.execution.cpus_per_worker, **({"GPU": 1} if gpu and workers else {})},
        ),
        # A name of its own for every attempt: Ray Train silently resumes a run whose name it finds.
        run_config=RunConfig(
            name=uuid.uuid4().hex, storage_path=storage.path(f"{directory}-run"), storage_filesystem=storage.filesystem
        ),
        # A dataset per worker instead of a split: which worker gets which row is part of the schedule.
        datasets={_share_name(rank): stream(table, BLOCK_SAMPLES, load) for rank, table in enumerate(schedule)},
        dataset_config=DataConfig(datasets_to_split=[], execution_options=ExecutionOptions(preserve_order=True)),
    )
    storage.clear(f"{directory}-run")
    with progress(f"{directory} train", steps, "step", lambda: ray.get(board.least.remote())):
        result = trainer.fit()
    ray.kill(board)
    if result.checkpoint is None or result.metrics is None:
        raise RuntimeError(f"training of {directory} ended without a checkpoint")
    _keep(result.checkpoint, storage, directory)
    storage.clear(f"{directory}-run")
    return {"checkpoint": directory, "loss": result.metrics["loss"]}


def _start(job: TrainJob) -> Segmenter:
    if job.checkpoint is None:
        return build_model(job.model, job.classes)
    return load_model(Storage(job.storage_uri), job.checkpoint)


def _optimizer(model: Segmenter, job: TrainJob) -> torch.optim.Optimizer:
    """Riemannian, so that the classifier's points stay on the ball; continues where the checkpoint stopped."""
    groups: list[dict[str, Any]] = []
    for name, part in model.named_children():
        rate = job.learning_rate * (1 if name == "backbone" else job.training.head_factor)
        trained = [p for p in part.parameters() if p.requires_grad]
        groups += [{"params": trained, "lr": rate, "base_lr": rate}] if trained else []
    decay = job.training.weight_decay
    optimizer: torch.optim.Optimizer
    if job.training.optimizer == "adam":
        optimizer = geoopt.optim.RiemannianAdam(groups, weight_decay=decay)
    else:
        optimizer = geoopt.optim.RiemannianSGD(groups, lr=job.learning_rate, momentum=0.9, weight_decay=decay)
    if job.checkpoint is not None:
        optimizer.load_state_dict(load_optimizer_state(Storage(job.storage_uri), job.checkpoint))
        for group, fresh in zip(optimizer.param_groups, groups, strict=True):
            group["base_lr"] = fresh["base_lr"]
    return optimizer


def _set_learning_rate(optimizer: torch.optim.Optimizer, step: int, job: TrainJob) -> None:
    factor = poly_with_warmup(step, job.steps, warmup=job.training.warmup_steps, power=job.training.poly_power)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def _share_name(rank: int) -> str:
    return f"worker-{rank}"


def _keep(checkpoint: Checkpoint, storage: Storage, name: str) -> None:
    """Copies a checkpoint into the storage and drops it where it was."""
    storage.clear(name)
    storage.filesystem.create_dir(storage.path(name), recursive=True)
    source = checkpoint.filesystem or pafs.LocalFileSystem()
    pafs.copy_files(
        checkpoint.path, storage.path(name), source_filesystem=source, destination_filesystem=storage.filesystem
    )
    if isinstance(source, pafs.LocalFileSystem):
        shutil.rmtree(checkpoint.path, ignore_errors=True)
