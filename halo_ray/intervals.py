"""How sure a mean over few runs is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def half_interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean, after Student's t; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def percent(mean: float, interval: float | None, sign: str = "") -> str:
    """A mean in [0, 1] and half its interval, in percent: 51.3 ± 0.4; ``sign`` is + for differences."""
    shown = round(100 * mean, 1) + 0.0  # no -0.0
    return f"{shown:{sign}.1f}" + ("" if interval is None else f" ± {100 * interval:.1f}")
