"""Machines and processes that an experiment runs on: what a user may set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from halo_ray.bounds import COUNT, YEAR, Range, check_ranges
from halo_ray.errors import InputError

MOST_PROCESSES = 10_000

Seconds = Annotated[float, Range(0.1, YEAR)]
ShareOfCpus = Annotated[float, Range(0.001, MOST_PROCESSES)]


@dataclass(frozen=True)
class ExecutionConfig:
    """Machines and processes; none of it changes what is bought, and all of it may change when a run is resumed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs where the cluster has any, or says that it can add some."""
    ray_address: str | None = None
    """Address of a running Ray cluster; null: the job's own (RAY_ADDRESS), else a private one on this machine."""
    num_workers: Annotated[int | tuple[int, int] | None, Range(0, MOST_PROCESSES)] = None
    """Training processes, or [fewest, most] of them for a cluster that grows and shrinks; 0 trains in the driver's own
    (no start-up); null: one per GPU, without GPUs 0, or 1 where the driver's node is not to compute."""
    cpus_per_worker: ShareOfCpus = 0.5
    """CPUs that Ray reserves for a training process; loading data needs some beside."""
    min_actors: Annotated[int, Range(1, MOST_PROCESSES)] = 1
    """The fewest inference actors (scoring, evaluation)."""
    max_actors: Annotated[int, Range(0, MOST_PROCESSES)] = 2
    """The most inference actors; 0 computes in the driver's own process (no start-up), which pays for few images. The
    trials of a sweep on GPUs have one at the least."""
    images_per_actor: Annotated[int, Range(1, COUNT)] = 256
    """An inference actor is added for every so many images: it must load torch and the model first."""
    cpus_per_actor: ShareOfCpus = 0.5
    """CPUs that Ray reserves for an inference actor; it computes on one thread."""
    batch_images: Annotated[int, Range(1, COUNT)] = 8
    """Images sent to an inference actor at once; it computes them one by one."""
    block_images: Annotated[int, Range(1, COUNT)] = 8
    """Images in a block of a Ray Data stream."""
    checkpoint_steps: Annotated[int, Range(0, COUNT)] = 500
    """Training steps after which a stage's state is stored, from which a killed run goes on; 0: at its end only."""
    max_failures: Annotated[int, Range(0, COUNT)] = 3
    """How often a stage is begun again, training from its last checkpoint, after processes or nodes died; also how
    often inference actors may die at the same images."""
    log_steps: Annotated[int, Range(1, COUNT)] = 20
    """Training steps between two entries in TensorBoard and on the metrics endpoint."""
    warn_share: Annotated[float, Range(0, 1)] = 0.5
    """Warn before labels are spent where more of the embedding lies at the rim of the ball, or at its origin."""
    save_maps: Literal["none", "picked", "all"] = "none"
    """Keep radius, entropy and score maps (float16, .npz): of no image, of those with picks, or of all."""
    compare_functions: tuple[str, ...] = ()
    """Further acquisition functions that the same scoring pass computes: what each would have bought is stored beside
    the selection, nothing of it is bought."""
    shared_stages: str | None = None
    """Directory or URI that experiments share: what one has computed already (inspection, features, pretraining, the
    twin, the first scoring pass), others with the same settings of it take from there; null: nothing is shared."""
    node_seconds: Seconds = 1200
    """Longest wait for the first node that a cluster's autoscaler adds."""
    storage_seconds: Seconds = 120
    """How long reading or writing the experiment is tried again when its storage fails (full, busy, away, forbidden);
    after that the run stops, and the same command goes on."""
    lock_seconds: Seconds = 120
    """How long to wait for a run elsewhere that works on the same experiment; after so many seconds without a sign of
    life it counts as dead and its work is taken over."""
    verbose: bool = False
    """Show Ray's own log."""

    def __post_init__(self) -> None:
        check_ranges(self, "execution.")
        if isinstance(self.num_workers, tuple) and not 1 <= self.num_workers[0] <= self.num_workers[1]:
            raise InputError(
                f"execution.num_workers is {list(self.num_workers)}: a range begins with 1 or more and does not fall"
            )
        if self.min_actors > self.max_actors > 0:
            raise InputError(
                f"execution.min_actors {self.min_actors} is more than execution.max_actors {self.max_actors}"
            )
