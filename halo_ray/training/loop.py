"""The training loop that every worker of Ray Train runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.train.collective import broadcast_from_rank_zero

from halo_ray.checkpoint import load_model, load_optimizer_state, load_state, write_checkpoint
from halo_ray.data.features import Features
from halo_ray.data.samples import LoadSamples, batch_to_tensors
from halo_ray.data.schedule import worker_share
from halo_ray.errors import InputError
from halo_ray.models.build import ModelConfig, build_model, describe_model
from halo_ray.models.segmenter import Segmenter
from halo_ray.pipeline import arrow_batches, stream
from halo_ray.runtime import prepare_streams
from halo_ray.storage import Storage
from halo_ray.training.bad_steps import BadSteps
from halo_ray.training.checkpoints import CheckpointsWithin
from halo_ray.training.config import TrainingConfig
from halo_ray.training.losses import Losses
from halo_ray.training.optimizers import Optimizers
from halo_ray.training.schedules import Schedule
from halo_ray.training.telemetry import LogConfig, open_log
from halo_ray.training.worker import Worker, explained

BLOCK_SAMPLES = 16
"""Samples that one task loads: small blocks keep Ray Data's scheduling loop busy in the trainer's own process."""


@dataclass(frozen=True)
class TrainJob:
    """What a training process must know of a stage."""

    storage: Storage
    directory: str
    """Of the storage, for the checkpoint."""
    key: str
    """Names all that fixes the stage's weights."""
    start: str | None
    """Checkpoint to start from; None: the network as it is built."""
    keep_optimizer: bool
    """Go on with the optimizers of ``start`` too."""
    model: ModelConfig
    about: dict[str, Any]
    """What the checkpoint says of the model beside its architecture: class names, input size."""
    training: TrainingConfig
    rows: ray.ObjectRef[pa.Table]
    """SCHEDULE of the stage."""
    load: LoadSamples
    features: Features | None
    steps: int
    batch: int
    """Images of a step over all workers."""
    schedule: Schedule
    first_step: int
    """Step of ``schedule`` at which the stage begins."""
    learning_rate: float
    seed: int
    device: str | None
    """None: the one that Ray Train gave the worker."""
    checkpoint_steps: int
    """Steps between two checkpoints within the stage; 0: none."""
    log: LogConfig

    @property
    def within(self) -> CheckpointsWithin:
        """The checkpoints of this stage while it is not done."""
        return CheckpointsWithin(self.storage, self.directory, self.key)

    def samples(self, step: int) -> list[str]:
        """Image ids of a step, over all workers."""
        rows: pa.Table = ray.get(self.rows)
        ids: list[str] = rows["image_id"].slice(step * self.batch, self.batch).to_pylist()
        return ids


@dataclass
class Run:
    """What training changes."""

    model: Segmenter
    optimizers: Optimizers
    description: dict[str, Any]
    step: int = 0
    bad_steps: Sequence[int] = ()


def train_loop_per_worker(job: TrainJob) -> dict[str, Any]:
    """One training stage; every worker runs this, each with its share of every step's batch.

    Returns:
        JSON-able: the last step's ``loss``, None where it was no number; the ``bad_steps`` that were left out; the
        ``batch`` of a step and the ``samples_per_second``, over all workers.
    """
    config = job.training
    worker = Worker.join(config, job.device, job.seed)
    with explained(config, job.load):
        run = _begin(job, worker)
        network = worker.distribute(run.model)
        losses = Losses(config.losses, worker.world_size, worker.sum)
        bad = BadSteps(run.model, run.bad_steps, run.step)
        with (
            open_log(job.log, job.storage, worker, losses, run.model.curvature) as log,
            _batches(job, worker, run.step) as batches,
        ):
            for step, batch in enumerate(batches, start=run.step):
                worker.seed_step(step)
                bad.begin()
                rate = run.optimizers.set_factor(job.schedule.factor(job.first_step + step))
                parts = [batch_to_tensors(part, worker.device, job.features) for part in _parts(batch, config)]
                counts = losses.counts(sample for part in parts for sample in part)
                for part in parts:
                    with worker.accumulating(network, last=part is parts[-1]):
                        with worker.autocast():
                            said = [network(sample.images) for sample in part]
                        loss, means = losses([each.logits for each in said], part, counts, len(parts))
                        loss.backward()  # type: ignore[no-untyped-call]
                    log.add(means, said, part)
                norm = run.optimizers.clip(config.clip_norm)
                if bad.is_good(norm, step):
                    run.optimizers.step()
                elif bad.in_row == config.stop_after_bad_steps:
                    raise _stop(job, run, worker, bad, step)
                run.optimizers.zero_grad()
                log.step(step, rate, norm)
                if job.checkpoint_steps and (step + 1) % job.checkpoint_steps == 0:
                    log.flush()
                    _save_within(job, run, worker, step + 1, bad.steps)
            speed = log.samples_per_second
    if worker.sum(torch.tensor(0.0 if _finite(run.model) else 1.0, device=worker.device)) > 0:
        raise _stop(job, run, worker, bad, job.steps - 1)
    if worker.rank == 0:
        _write(job, run, job.directory, job.steps, bad.steps)
    return {"loss": log.loss, "bad_steps": bad.steps, "batch": job.batch, "samples_per_second": speed}


def _stop(job: TrainJob, run: Run, worker: Worker, bad: BadSteps, step: int) -> InputError:
    """What is wrong after too many bad steps; the weights as they were before those are stored."""
    before = step + 1 - bad.in_row
    if not job.within.has(before):
        _save_within(job, run, worker, before, bad.before(before))
    worker.sum(torch.zeros((), device=worker.device))  # the first worker to raise ends the others
    last = job.within.last() or job.start or "none before this stage"
    when = f"in {bad.in_row} steps in a row, from step {before} to step {step}" if bad.in_row else f"by step {step}"
    return InputError(
        f"the training loss became NaN or infinite {when} with samples {', '.join(job.samples(step))}: lower "
        "training.learning_rate or set training.clip_norm, in another output_dir where a stage is done already; the "
        f"last good checkpoint is {last}"
    )


def _begin(job: TrainJob, worker: Worker) -> Run:
    """The network and its optimizers as the stage's last checkpoint left them, or as they were before it."""
    storage = job.storage
    # All must see the same, also where another's checkpoint appears meanwhile.
    last = broadcast_from_rank_zero(job.within.last())
    source = last or job.start
    model = build_model(job.model, len(job.about["class_names"])) if source is None else load_model(storage, source)
    description = describe_model(job.model, len(job.about["class_names"]), model) | job.about
    model.to(worker.device, worker.dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers = Optimizers(model, job.training, job.learning_rate)
    if source is not None and (last or job.keep_optimizer):
        optimizers.load_state_dict(load_optimizer_state(storage, source))
    state = (load_state(storage, last) if last else None) or {"step": 0, "bad_steps": []}
    return Run(model, optimizers, description, state["step"], state["bad_steps"])


@contextmanager
def _batches(job: TrainJob, worker: Worker, step: int) -> Iterator[Iterator[pa.Table]]:
    """This worker's share of each step's samples from ``step`` on."""
    prepare_streams()
    rows: pa.Table = ray.get(job.rows)
    if step == job.steps:
        yield iter(())
        return
    parts = worker.world_size * job.training.accumulation
    if job.batch < parts:  # fewer images than planned: a round may have bought nothing
        raise InputError(
            f"{job.directory}: a step has {job.batch} images for {worker.world_size} training workers times "
            f"training.accumulation {job.training.accumulation}: lower execution.num_workers or training.accumulation"
        )
    own = worker_share(rows.slice(step * job.batch), job.batch, worker.rank, worker.world_size)
    with arrow_batches(stream(own, BLOCK_SAMPLES, job.load), own.num_rows // (job.steps - step)) as batches:
        yield batches


def _parts(batch: pa.Table, config: TrainingConfig) -> list[pa.Table]:
    """The samples of a step in as many parts as they are computed in, each with its part of both domains."""
    return [batch.take(list(range(first, batch.num_rows, config.accumulation))) for first in range(config.accumulation)]


def _finite(model: Segmenter) -> bool:
    return all(bool(value.isfinite().all()) for value in model.state_dict().values())


def _save_within(job: TrainJob, run: Run, worker: Worker, step: int, bad_steps: list[int]) -> None:
    """Worker 0 stores a checkpoint of a stage that is not done, if its weights are numbers, and deletes old ones."""
    if worker.rank == 0 and _finite(run.model):
        _write(job, run, job.within.name(step), step, bad_steps)
        job.within.clear_old()


def _write(job: TrainJob, run: Run, name: str, step: int, bad_steps: list[int]) -> None:
    state = {"step": step, "bad_steps": bad_steps, "key": job.key}
    write_checkpoint(job.storage, name, run.description, run.model, run.optimizers.state_dict(), state)
