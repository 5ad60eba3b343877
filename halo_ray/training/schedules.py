"""Learning-rate schedules as factors of the base rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """A linear rise over ``warmup`` steps times a decay over all ``steps``; never quite 0 at a step that is taken.

    The decay is (1 − step/steps)^power (poly) or (1 + cos(π step/steps))/2 (cosine).
    """

    decay: Literal["poly", "cosine"]
    steps: int
    warmup: int
    power: float = 0.9

    def factor(self, step: int) -> float:
        """Of the base rate at ``step`` in 0..steps−1."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        done = step / self.steps
        return rise * ((1 - done) ** self.power if self.decay == "poly" else (1 + math.cos(math.pi * done)) / 2)
