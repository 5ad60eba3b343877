"""A figure of a benchmark: the line that it prints, and what the table of all benchmarks shows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Against = Literal["official procedure", "bare loop"]
"""The straightforward implementation of the official code's procedure, or the least that any program must do: plain
PyTorch, Pillow or Python, without Ray."""


@dataclass(frozen=True)
class Measurement:
    """Ours beside another way of doing the same."""

    line: str
    """As the benchmark prints it alone."""
    what: str
    ours: float
    other: float
    unit: str
    """Of both: s, or so many things a second (images/s)."""
    ratio: float
    """How many times as fast ours is."""
    against: Against
    memory: float | None = None
    """MiB that ours takes at its peak."""
    other_memory: float | None = None

    def __str__(self) -> str:
        return self.line


Line = str | Measurement
"""What a benchmark yields."""
