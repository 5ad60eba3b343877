"""Learning-rate schedules as factors of the base rate."""

from __future__ import annotations


def poly_with_warmup(step: int, steps: int, *, warmup: int, power: float) -> float:
    """Linear rise over ``warmup`` steps, then (1 − step/steps)^power; never quite 0 at a step that is taken.

    Args:
        step: 0..steps−1.
    """
    rise = min(1.0, (step + 1) / (warmup + 1))
    return float(rise * (1 - step / steps) ** power)
