"""Which trials of a sweep go on, against successive halving written out by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from halo_ray.sweep.scheduler import POINT, AshaWithinBudget
from halo_ray.sweep.space import FLOOR

GO_ON, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


@dataclass
class FakeTrial:
    """All that a scheduler looks at."""

    trial_id: str
    config: dict[str, Any]
    left: list[float] = field(default_factory=list)
    """mIoU of the rounds to come, 0 first."""


def trial(name: str, budget: float, acquisition: str = "halo", left: list[float] | None = None) -> FakeTrial:
    point = {"curvature": 1.0, "budget": budget, "acquisition": acquisition, "seed": 0}
    return FakeTrial(name, {POINT: point}, left or [])


def tell(scheduler: AshaWithinBudget, one: FakeTrial, number: int, miou: float) -> str:
    return scheduler.on_trial_result(None, one, {"round": number, "miou": miou})


def added(scheduler: AshaWithinBudget, *trials: FakeTrial) -> None:
    for one in trials:
        scheduler.on_trial_add(None, one)


class Halving:
    """Asynchronous successive halving as the paper has it: at each rung, among those that came before."""

    def __init__(self, factor: int) -> None:
        self._factor, self._rungs = factor, {}

    def poor(self, name: str, number: int, miou: float) -> bool:
        power = number
        while power > 1 and power % self._factor == 0:
            power //= self._factor
        if power != 1:
            return False
        before = self._rungs.setdefault(number, {})
        poor = bool(before) and miou < np.percentile(list(before.values()), 100 * (1 - 1 / self._factor))
        before[name] = miou
        return poor


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("rounds", [1, 2, 3, 5, 9])
def test_it_decides_as_halving_within_each_budget(rounds: int, factor: int) -> None:
    random, stopped, kept = np.random.default_rng(rounds), 0, 0
    scheduler = AshaWithinBudget(rounds, factor)
    budgets = (0.001, 0.01, 0.1)
    halving = {budget: Halving(factor) for budget in budgets}
    running = [
        trial(f"{number}", budget, acquisition, list(random.random(rounds + 1) + 10 * budget))
        for number, (budget, acquisition) in enumerate(
            (budget, acquisition) for budget in budgets for acquisition in ["halo"] * 12 + [FLOOR] * 3
        )
    ]
    added(scheduler, *running)
    while running:
        one = running[random.integers(len(running))]
        point, number = one.config[POINT], rounds + 1 - len(one.left)
        miou = one.left.pop(0)
        poor = halving[point["budget"]].poor(one.trial_id, number, miou)
        expected = STOP if poor and point["acquisition"] != FLOOR and number < rounds else GO_ON
        assert tell(scheduler, one, number, miou) == expected, (one, number)
        stopped += expected == STOP
        kept += poor and expected == GO_ON
        if expected == STOP or not one.left:
            scheduler.on_trial_complete(None, one, {"round": number, "miou": miou})
            running.remove(one)
    assert kept
    assert bool(stopped) == (rounds > 1)


def test_a_poor_trial_is_stopped_and_the_best_never() -> None:
    scheduler = AshaWithinBudget(rounds=4)
    trials = [trial(str(number), 0.01) for number in range(5)]
    added(scheduler, *trials)
    assert [tell(scheduler, one, 1, 0.5 + 0.01 * place) for place, one in enumerate(trials)] == [GO_ON] * 5
    poor = trial("poor", 0.01)
    added(scheduler, poor)
    assert tell(scheduler, poor, 0, 0.1) == GO_ON  # nothing was bought yet
    assert tell(scheduler, poor, 1, 0.1) == STOP


def test_a_small_budget_is_not_compared_with_a_large_one() -> None:
    scheduler = AshaWithinBudget(rounds=4)
    large, small = ([trial(f"{budget}-{number}", budget) for number in range(8)] for budget in (0.1, 0.001))
    added(scheduler, *large, *small)
    for place, one in enumerate(large):
        tell(scheduler, one, 1, 0.8 + 0.01 * place)
    said = [tell(scheduler, one, 1, 0.2 + 0.01 * place) for place, one in enumerate(small)]
    assert said == [GO_ON] * 8
    assert tell(scheduler, small[-1], 2, 0.3) == GO_ON


def test_the_floor_is_never_stopped_but_is_compared_with() -> None:
    scheduler = AshaWithinBudget(rounds=4)
    floor, poor = [trial(f"floor{number}", 0.01, FLOOR) for number in range(4)], trial("poor", 0.01)
    added(scheduler, *floor, poor)
    assert [tell(scheduler, one, 1, 0.9 - 0.1 * place) for place, one in enumerate(floor)] == [GO_ON] * 4
    assert tell(scheduler, poor, 1, 0.5) == STOP


def test_nobody_is_stopped_after_the_last_round() -> None:
    scheduler = AshaWithinBudget(rounds=2)
    trials = [trial(str(number), 0.01) for number in range(4)]
    added(scheduler, *trials)
    for one in trials:
        tell(scheduler, one, 1, 0.5)
    assert [tell(scheduler, one, 2, 0.9 - 0.2 * place) for place, one in enumerate(trials)] == [GO_ON] * 4


def test_what_is_said_again_counts_once() -> None:
    """A trial whose process died begins with the rounds that it had done."""
    scheduler, twin = AshaWithinBudget(rounds=4), AshaWithinBudget(rounds=4)
    for number, one in enumerate((scheduler, twin)):
        first, second, third = (trial(name, 0.01) for name in "abc")
        added(one, first, second, third)
        for _ in range(1 + 3 * number):
            assert tell(one, first, 1, 0.9) == GO_ON
        tell(one, second, 1, 0.5)
        # The median of 0.9 and 0.5 is 0.7; were 0.9 counted four times it would be 0.9.
        assert tell(one, third, 1, 0.8) == GO_ON


def test_a_trial_that_is_taken_away_is_forgotten() -> None:
    scheduler = AshaWithinBudget(rounds=2)
    one, other = trial("one", 0.01), trial("other", 0.01)
    added(scheduler, one, other)
    scheduler.on_trial_remove(None, one)
    assert tell(scheduler, other, 1, 0.1) == GO_ON
