"""Two ways of doing one thing, measured in one process: the ratio of their times and of their memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Comparison(NamedTuple):
    """Medians over the repetitions."""

    ours: float
    """Seconds."""
    other: float
    """Seconds."""
    ratio: float
    """``other`` over ``ours``, taken within each repetition, so that a slow moment of the machine hits both."""


def compare(ours: Callable[[], object], other: Callable[[], object], *, repeats: int, device: str) -> Comparison:
    """Times both, ``repeats`` times, after one call of each that is not counted; they take turns in going first."""
    _seconds(ours, device)
    _seconds(other, device)
    pairs = []
    for number in range(repeats):
        if number % 2:
            second, first = _seconds(other, device), _seconds(ours, device)
        else:
            first, second = _seconds(ours, device), _seconds(other, device)
        pairs.append((first, second))
    return Comparison(
        ours=statistics.median(a for a, _ in pairs),
        other=statistics.median(b for _, b in pairs),
        ratio=statistics.median(b / a for a, b in pairs),
    )


def median_seconds(function: Callable[[], object], repeats: int, device: str) -> float:
    """Seconds of a call, the median of ``repeats`` after one that is not counted."""
    _seconds(function, device)
    return statistics.median(_seconds(function, device) for _ in range(repeats))


def extra_memory(function: Callable[[], object], device: str) -> int | None:
    """Bytes that a call holds at its peak beyond what was held before, its result included; None where unknown."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        _RESET.write_text("5")  # Linux: the peak of resident memory begins anew
    except OSError:
        return None
    before = _resident("VmRSS")
    function()
    return _resident("VmHWM") - before


def _seconds(function: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _resident(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
