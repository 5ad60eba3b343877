"""Where an experiment runs: the Ray cluster it joins or starts, devices, and how many processes it uses."""

from __future__ import annotations

import gc
import logging
import math
import os
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from halo_ray.errors import InputError
from halo_ray.storage import Storage

NAMESPACE = "halo_ray"

CONNECT_SECONDS = 10
REST_SECONDS = 0.01

SCORING_THREADS = 1
"""Torch threads of an inference actor: fixed, because their number changes the last bits of a score."""

STREAM_THREAD = "iter_threaded"
"""Name of the threads in which Ray Data's batch iterators compute."""


@dataclass(frozen=True)
class ExecutionConfig:
    """Machines and processes; none of it changes what is bought, and all of it may change when a run is resumed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: GPUs where the cluster has any."""
    ray_address: str | None = None
    """Address of a running Ray cluster; null: the job's own (RAY_ADDRESS), else a private one on this machine."""
    num_workers: int | tuple[int, int] | None = None
    """Training processes, or [fewest, most] of them for a cluster that grows and shrinks; 0 trains in the driver's own
    (no start-up); null: one per GPU, 0 without GPUs."""
    cpus_per_worker: float = 0.5
    """CPUs that Ray reserves for a training process; loading data needs some beside."""
    min_actors: int = 1
    """The fewest inference actors (scoring, evaluation)."""
    max_actors: int = 2
    """The most inference actors."""
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
    """How often training is begun again, from its last checkpoint, after a worker or Ray Train's controller died."""
    log_steps: int = 20
    """Training steps between two entries in TensorBoard and on the metrics endpoint."""
    warn_share: float = 0.5
    """Warn before labels are spent where more of the embedding lies at the rim of the ball, or at its origin."""
    save_maps: Literal["none", "picked", "all"] = "none"
    """Keep radius, entropy and score maps (float16, .npz): of no image, of those with picks, or of all."""
    compare_functions: tuple[str, ...] = ()
    """Further acquisition functions that the same scoring pass computes: what each would have bought is stored beside
    the selection, nothing of it is bought."""
    verbose: bool = False
    """Show Ray's own log."""

    def __post_init__(self) -> None:
        for key in ("min_actors", "max_actors", "images_per_actor", "batch_images", "block_images"):
            if getattr(self, key) < 1:
                raise InputError(f"execution.{key} is {getattr(self, key)}: it must be at least 1")
        for key in ("cpus_per_worker", "cpus_per_actor"):
            if not 0 < getattr(self, key) < math.inf:
                raise InputError(f"execution.{key} is {getattr(self, key)}: it must be above 0")
        for key in ("checkpoint_steps", "max_failures"):
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
        if self.min_actors > self.max_actors:
            raise InputError(
                f"execution.min_actors {self.min_actors} is more than execution.max_actors {self.max_actors}"
            )


class RestBetweenSteps(ExecutionCallback):  # type: ignore[misc]
    """Lets Ray Data's scheduling loop rest between its steps.

    While its consumer is slower than its tasks the loop does not wait for anything: it took a third of a core from
    the training process it runs in. A step may start and finish many tasks, so the rest costs no throughput.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(REST_SECONDS)


@contextmanager
def ray_session(config: ExecutionConfig) -> Iterator[None]:
    """Joins the cluster, or starts a private one and ends it afterwards; an existing connection is used as it is.

    Raises:
        InputError: the cluster cannot be reached, or lacks the GPU or the CPUs that were asked for.
    """
    own = not ray.is_initialized()
    if own:
        _connect(config)
    try:
        if config.device == "cuda" and not ray.cluster_resources().get("GPU"):
            raise InputError("execution.device is cuda, but the Ray cluster has no GPU: use auto or cpu, or add one")
        if _address(config) is None:
            _check_machine(config)  # a cluster that is joined may still grow
        prepare_streams()
        yield
    except BaseException as error:
        _end_streams(error)
        raise
    finally:
        if own:
            ray.shutdown()


def prepare_streams() -> None:
    """Settings of Ray Data in this process."""
    context = ray.data.DataContext.get_current()
    # Order is part of the result (rows of a training schedule), bars are our own.
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    context.custom_execution_callback_classes = [RestBetweenSteps]


def uses_gpu(config: ExecutionConfig) -> bool:
    """Whether training and inference run on GPUs."""
    return config.device == "cuda" or (config.device == "auto" and bool(ray.cluster_resources().get("GPU")))


def _end_streams(error: BaseException) -> None:
    """Ends the threads of Ray Data iterators that ``error`` interrupted, while Ray is still there.

    They end when their iterator is let go, which the error's traceback holds on to. A thread that calls Ray after its
    end makes Ray kill the process on the spot: its exit code, and what it had to say, would be lost.
    """
    for link in _chain(error):
        traceback.clear_frames(link.__traceback__)
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == STREAM_THREAD:
            thread.join(timeout=CONNECT_SECONDS)


def check_shared(storage: Storage) -> None:
    """Raises InputError where another node of the cluster does not see a local ``storage``."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if len(nodes) < 2 or not storage.local:
        return
    name = f"seen-{uuid.uuid4().hex}"
    storage.write(name, b"")
    look = ray.remote(num_cpus=0)(lambda: Storage(storage.uri).exists(name))
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    seen = ray.get([look.options(scheduling_strategy=place).remote() for place in places])
    storage.filesystem.delete_file(storage.path(name))
    if not all(seen):
        raise InputError(
            f"output_dir {storage.uri} is not seen by {seen.count(False)} of {len(nodes)} nodes: name a shared "
            "filesystem or an object store"
        )


def training_workers(config: ExecutionConfig, batches: Sequence[int], most: int) -> int | tuple[int, int]:
    """Training processes, or the fewest and most of them; 0 for the driver's own.

    Where none are asked for, as many GPUs as divide all ``batches``, and no more than ``most``.
    """
    if config.num_workers is not None:
        return config.num_workers
    gpus = int(ray.cluster_resources().get("GPU", 0)) if uses_gpu(config) else 0
    numbers = range(1, min(gpus, most) + 1)
    return max((n for n in numbers if all(batch % n == 0 for batch in batches)), default=0)


def _check_machine(config: ExecutionConfig) -> None:
    """Raises InputError where processes would wait for ever for CPUs or GPUs that this machine does not have."""
    cpus, gpus = (ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU"))
    for number, each in (("num_workers", "cpus_per_worker"), ("min_actors", "cpus_per_actor")):
        wanted = getattr(config, number) or 0
        fewest = wanted[0] if isinstance(wanted, tuple) else wanted
        if uses_gpu(config) and number == "num_workers" and fewest > gpus:
            raise InputError(
                f"execution.num_workers is {fewest}, each with a GPU, but this machine has {gpus:g}: lower it, or set "
                "execution.device to cpu"
            )
        taken = fewest * getattr(config, each)
        if taken + 1 > cpus:
            raise InputError(
                f"execution.{number} times execution.{each} takes {taken:g} of {cpus:g} CPUs, but one must be left to "
                "load data: lower one of them"
            )


def _address(config: ExecutionConfig) -> str | None:
    """The cluster to join; None: a private one."""
    return config.ray_address or os.environ.get("RAY_ADDRESS") or None


def _connect(config: ExecutionConfig) -> None:
    if not config.verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # A cluster without a GPU would otherwise be told so, at length, by every process.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
    level = logging.INFO if config.verbose else logging.ERROR
    address = _address(config)
    try:
        _knock(address)
        with _quiet_stderr(not config.verbose):
            _init(config, address, level)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at {address}" if address else "on this machine"
        raise InputError(
            f"no Ray cluster {where} ({str(error).splitlines()[0]}): check execution.ray_address"
        ) from error


def _init(config: ExecutionConfig, address: str | None, level: int) -> None:
    if address:
        ray.init(address=address, namespace=NAMESPACE, logging_level=level, log_to_driver=config.verbose)
    else:
        # Ray Train's controller asks the dashboard's State API what to clean up; without workers nothing does.
        ray.init(
            address="local",
            namespace=NAMESPACE,
            include_dashboard=bool(config.num_workers),
            logging_level=level,
            log_to_driver=config.verbose,
        )


def _knock(address: str | None) -> None:
    """Raises OSError where nothing listens at ``address`` (HOST:PORT or ray://HOST:PORT); Ray tries for minutes."""
    place = urlsplit(address if address and "://" in address else f"ray://{address}")
    if address and place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), timeout=CONNECT_SECONDS).close()


@contextmanager
def _quiet_stderr(quiet: bool) -> Iterator[None]:
    """Drops what native code writes to stderr: Ray announces its log level there whatever that level is."""
    if not quiet:
        yield
        return
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def input_error(error: BaseException) -> InputError | None:
    """The InputError that a failure in some Ray process came from, if any."""
    for link in _chain(error):
        if isinstance(link, InputError):
            # Ray hands errors on as instances of a derived class that prints the remote traceback, and Ray Data adds
            # lines of its own to the message, which is one.
            return InputError(str(getattr(link, "cause", link)).partition("\n")[0])
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it came from, in this process and in others."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__cause__, link.__context__, getattr(link, "cause", None)]
        waiting += list(getattr(link, "worker_failures", {}).values())
