"""The Ray cluster that an experiment joins or starts, and the errors that come out of it."""

from __future__ import annotations

import gc
import logging
import os
import re
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback

from halo_ray.cluster import keep_stream_actors_here, uses_gpu, wait_for_node
from halo_ray.errors import AnswersNeededError, InputError
from halo_ray.execution import ExecutionConfig

# Without it matrix products are not repeatable. For every process that computes alike, and before CUDA starts there.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

NAMESPACE = "halo_ray"

CONNECT_SECONDS = 10
REST_SECONDS = 0.01

IDLE_PROCESSES = 8
"""Processes for tasks that a private cluster keeps from one stage to the next, which must not import everything again;
Ray itself keeps one for each CPU."""

SCORING_THREADS = 1
"""Torch threads of an inference actor: fixed, because their number changes the last bits of a score."""

STREAM_THREAD = "iter_threaded"
"""Name of the threads in which Ray Data's batch iterators compute."""


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
        wait_for_node(config)
        if joined_address(config) is None:
            _check_machine(config)  # a cluster that is joined may still grow
        elif own:
            keep_stream_actors_here()
        prepare_streams()
        yield
    except BaseException as error:
        end_streams(error)
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


def end_streams(error: BaseException) -> None:
    """Ends the threads of Ray Data iterators that ``error`` interrupted, while Ray is still there.

    They end when their iterator is let go, which the error's traceback holds on to. A thread that calls Ray after its
    end makes Ray kill the process on the spot: its exit code, and what it had to say, would be lost.
    """
    for link in chain(error):
        traceback.clear_frames(link.__traceback__)
    gc.collect()
    for thread in threading.enumerate():
        if thread.name == STREAM_THREAD:
            thread.join(timeout=CONNECT_SECONDS)


def check_own_process(config: ExecutionConfig, keys: Sequence[str] = ("num_workers", "max_actors")) -> None:
    """Raises InputError where one of the settings has this process compute on a GPU that it does not have."""
    if not uses_gpu(config) or _has_gpu():
        return
    for key in keys:
        if getattr(config, key) == 0:
            raise InputError(
                f"execution.{key} is 0, which computes in the driver's own process, but there is no GPU where that "
                "runs: raise it, or set execution.device to cpu"
            )


@contextmanager
def inference_here() -> Iterator[None]:
    """This process computes as an inference actor does while the body runs, and then again as it did."""
    import torch  # as below

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    strict_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    measures = torch.backends.cudnn.benchmark
    torch.set_num_threads(SCORING_THREADS)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = measures
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict, warn_only=strict_warns)
        if torch.cuda.is_available():  # or actors and training would miss what nobody uses
            torch.cuda.empty_cache()


def _check_machine(config: ExecutionConfig) -> None:
    """Raises InputError where processes would wait for ever for CPUs or GPUs that this machine does not have."""
    cpus, gpus = (ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU"))
    workers = config.num_workers or 0
    fewest = {
        "num_workers": (workers[0] if isinstance(workers, tuple) else workers, "cpus_per_worker"),
        "min_actors": (min(config.min_actors, config.max_actors), "cpus_per_actor"),
    }
    if uses_gpu(config) and fewest["num_workers"][0] > gpus:
        raise InputError(
            f"execution.num_workers is {fewest['num_workers'][0]}, each with a GPU, but this machine has {gpus:g}: "
            "lower it, or set execution.device to cpu"
        )
    for key, (number, each) in fewest.items():
        taken = number * getattr(config, each)
        if taken + 1 > cpus:
            raise InputError(
                f"execution.{key} times execution.{each} takes {taken:g} of {cpus:g} CPUs, but one must be left to "
                "load data: lower one of them"
            )


def joined_address(config: ExecutionConfig) -> str | None:
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
    address = joined_address(config)
    where = f"at {address}" if address else "on this machine"
    advice = "check execution.ray_address"
    try:
        _knock(address)
        if address:  # something listens there, and Ray does not say when it was the token
            advice += ", and that RAY_AUTH_MODE and the token (RAY_AUTH_TOKEN, ~/.ray/auth_token) are the cluster's"
        with _quiet_stderr(not config.verbose):
            _init(config, address, level)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        said = f"no Ray cluster {where} ({str(error).splitlines()[0]}): {advice}"
        raise InputError(_other_versions(where, error) or said) from error


def _other_versions(where: str, error: Exception) -> str | None:
    """What to say where Ray refuses since the cluster runs another Ray or Python; it takes six lines itself."""
    versions = re.findall(r"(?:Ray|Python): (\S+)", str(error))
    if not str(error).startswith("Version mismatch") or len(versions) != 4:
        return None
    there, own = (f"Ray {ray_version} on Python {python}" for ray_version, python in (versions[:2], versions[2:]))
    return f"the Ray cluster {where} runs {there}, this process {own}: install the cluster's versions here"


def _init(config: ExecutionConfig, address: str | None, level: int) -> None:
    if address:
        ray.init(address=address, namespace=NAMESPACE, logging_level=level, log_to_driver=config.verbose)
    else:
        os.environ.setdefault("RAY_num_workers_soft_limit", str(max(IDLE_PROCESSES, os.cpu_count() or 1)))
        # Ray Train's controller asks the dashboard's State API what to clean up; without workers nothing does.
        ray.init(
            address="local",
            namespace=NAMESPACE,
            include_dashboard=bool(config.num_workers) or _has_gpu(),
            logging_level=level,
            log_to_driver=config.verbose,
        )


def _has_gpu() -> bool:
    import torch  # which the coordinator's process does without

    return bool(torch.cuda.is_available())


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
    for link in chain(error):
        if isinstance(link, InputError):
            # Ray hands errors on as instances of a derived class that prints the remote traceback, and Ray Data adds
            # lines of its own to the message, which is one.
            kind = AnswersNeededError if isinstance(link, AnswersNeededError) else InputError
            return kind(str(getattr(link, "cause", link)).partition("\n")[0])
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
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
