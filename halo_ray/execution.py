"""Machines and processes that an experiment runs on: what a user may set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from halo_ray.errors import InputError


@dataclass(frozen=True)
class ExecutionConfig:
    """Machines and processes; none of it changes what is bought, and all of it may change when a run is resumed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs where the cluster has any, or says that it can add some."""
    ray_address: str | None = None
    """Address of a running Ray cluster; null: the job's own (RAY_ADDRESS), else a private one on this machine."""
    num_workers: int | tuple[int, int] | None = None
    """Training processes, or [fewest, most] of them for a cluster that grows and shrinks; 0 trains in the driver's own
    (no start-up); null: one per GPU, without GPUs 0, or 1 where the driver's node is not to compute."""
    cpus_per_worker: float = 0.5
    """CPUs that Ray reserves for a training process; loading data needs some beside."""
    min_actors: int = 1
    """The fewest inference actors (scoring, evaluation)."""
    max_actors: int = 2
    """The most inference actors; 0 computes in the driver's own process (no start-up), which pays for few images. The
    trials of a sweep on GPUs have one at the least."""
    images_per_actor: int = 256
    """An inference actor is added for every so many images: it must load torch and the model first."""
    cpus_per_actor: float = 0.5
    """CPUs that Ray reserves for an inference actor; it computes on one thread."""
    batch_images: int = 8
    """Images sent to an inference actor at once; it computes them one by one."""
    block_images: int = 8
    """Images in a block of a Ray Data stream."""
    checkpoint_steps: int = 500
    """Training steps after which a stage's state is stored, from which a killed run goes on; 0: at its end only."""
    max_failures: int = 3
    """How often a stage is begun again, training from its last checkpoint, after processes or nodes died; also how
    often inference actors may die at the same images."""
    log_steps: int = 20
    """Training steps between two entries in TensorBoard and on the metrics endpoint."""
    warn_share: float = 0.5
    """Warn before labels are spent where more of the embedding lies at the rim of the ball, or at its origin."""
    save_maps: Literal["none", "picked", "all"] = "none"
    """Keep radius, entropy and score maps (float16, .npz): of no image, of those with picks, or of all."""
    compare_functions: tuple[str, ...] = ()
    """Further acquisition functions that the same scoring pass computes: what each would have bought is stored beside
    the selection, nothing of it is bought."""
    shared_stages: str | None = None
    """Directory or URI that experiments share: what one has computed already (inspection, features, pretraining, the
    twin, the first scoring pass), others with the same settings of it take from there; null: nothing is shared."""
    node_seconds: float = 1200
    """Longest wait for the first node that a cluster's autoscaler adds."""
    storage_seconds: float = 120
    """How long reading or writing the experiment is tried again when its storage fails (full, busy, away, forbidden);
    after that the run stops, and the same command goes on."""
    lock_seconds: float = 120
    """How long to wait for a run elsewhere that works on the same experiment; after so many seconds without a sign of
    life it counts as dead and its work is taken over."""
    verbose: bool = False
    """Show Ray's own log."""

    def __post_init__(self) -> None:
        for key in ("min_actors", "images_per_actor", "batch_images", "block_images"):
            if getattr(self, key) < 1:
                raise InputError(f"execution.{key} is {getattr(self, key)}: it must be at least 1")
        for key in ("cpus_per_worker", "cpus_per_actor", "node_seconds", "storage_seconds", "lock_seconds"):
            if not 0 < getattr(self, key) < math.inf:
                raise InputError(f"execution.{key} is {getattr(self, key)}: it must be above 0")
        for key in ("max_actors", "checkpoint_steps", "max_failures"):
            if getattr(self, key) < 0:
                raise InputError(f"execution.{key} is {getattr(self, key)}: it must be 0 or more")
        if not 0 <= self.warn_share <= 1:
            raise InputError(f"execution.warn_share is {self.warn_share}: it must lie between 0 and 1")
        if self.log_steps < 1:
            raise InputError(f"execution.log_steps is {self.log_steps}: it must be at least 1")
        if isinstance(self.num_workers, tuple) and not 1 <= self.num_workers[0] <= self.num_workers[1]:
            raise InputError(
                f"execution.num_workers is {list(self.num_workers)}: a range begins with 1 or more and does not fall"
            )
        if isinstance(self.num_workers, int) and self.num_workers < 0:
            raise InputError(f"execution.num_workers is {self.num_workers}: it must be 0 or more")
        if self.min_actors > self.max_actors > 0:
            raise InputError(
                f"execution.min_actors {self.min_actors} is more than execution.max_actors {self.max_actors}"
            )
