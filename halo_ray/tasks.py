"""Calls that are made in Ray tasks where starting those is worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from halo_ray.cluster import ANYWHERE

CALLS_AT_HOME = 16
"""So many calls are made in the process itself: tasks would take longer to start."""


def each(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], common: Any) -> list[Any]:
    """The results of calls, in their order, that have their last argument in common."""
    if len(calls) <= CALLS_AT_HOME:
        return [function(*call, common) for call in calls]
    task, shared = ray.remote(scheduling_strategy=ANYWHERE)(function), ray.put(common)
    results: list[Any] = ray.get([task.remote(*call, shared) for call in calls])
    return results
