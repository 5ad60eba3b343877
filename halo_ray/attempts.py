"""Begin a stage again where processes or nodes died under it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ray import exceptions
from ray.train import TrainingFailedError

from halo_ray.cluster import remove_orphaned_groups
from halo_ray.errors import InputError, one_line
from halo_ray.patience import FIRST_WAIT
from halo_ray.runtime import chain, end_streams, input_error

T = TypeVar("T")

MACHINES = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.ObjectLostError,
    exceptions.OutOfMemoryError,
    exceptions.OutOfDiskError,
    exceptions.ObjectStoreFullError,
    exceptions.RpcError,
    exceptions.RaySystemError,
    exceptions.GetTimeoutError,
    exceptions.RuntimeEnvSetupError,
    exceptions.TaskUnschedulableError,
    exceptions.ActorUnschedulableError,
    exceptions.TaskPlacementGroupRemoved,
    exceptions.ActorPlacementGroupRemoved,
    # Of a storage, while Ray itself reads or writes there.
    OSError,
)
"""What a machine does, and not the code or the data: another attempt may succeed."""

# A training process that survives another one says only that its connection broke.
INTERRUPTIONS = (*MACHINES, TrainingFailedError)

LONGEST_WAIT = 30.0
"""Seconds between two attempts."""

SHOWN = 300
"""Characters of an error that are shown."""


def attempted(name: str, work: Callable[[], T], max_failures: int) -> T:
    """What ``work()`` returns, begun again after interruptions; it must go on from what is committed.

    Args:
        name: of the stage.
        max_failures: how often to begin again.

    Raises:
        InputError: interrupted once more, or one that work() raised.
    """
    for failures in range(max_failures + 1):
        try:
            return work()
        except Exception as error:
            said = input_error(error)
            if said is not None:
                raise said from error
            if not _is_interruption(error):
                raise
            why = one_line(error)[:SHOWN]
            if failures == max_failures:
                if not _is_interruption(error, MACHINES):
                    raise  # it was the code
                raise InputError(
                    f"{name} was interrupted {failures + 1} times (execution.max_failures {max_failures}), at last "
                    f"since {why}: look after the machines; the same command goes on from what is committed"
                ) from error
            print(
                f"{name} was interrupted ({why}); it goes on, attempt {failures + 2} of {max_failures + 1}", flush=True
            )
            end_streams(error)
        remove_orphaned_groups()
        time.sleep(min(FIRST_WAIT * 4**failures, LONGEST_WAIT))
    raise AssertionError("the last attempt returns or raises")


def _is_interruption(error: Exception, kinds: tuple[type[Exception], ...] = INTERRUPTIONS) -> bool:
    return any(isinstance(link, kinds) for link in chain(error))
