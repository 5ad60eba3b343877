"""Which trials go on: ASHA among the trials of one budget."""

from __future__ import annotations

from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from halo_ray.sweep.space import FLOOR

POINT = "point"
"""Key of Ray Tune's trial configuration that holds the name of a trial and what it sets, as a dictionary."""


class AshaWithinBudget(FIFOScheduler):  # type: ignore[misc]
    """Asynchronous successive halving (Li et al. 2020) by mIoU after each round, for each budget alone.

    A small budget gives a lower mIoU than a large one whatever is chosen: nothing can be compared across budgets.
    The floor takes part and is never stopped; nor is a trial after its last round.

    Args:
        rounds: of every trial.
        reduction_factor: one in so many trials goes on after 1, reduction_factor, reduction_factor², ... rounds.
    """

    def __init__(self, rounds: int, reduction_factor: int = 2) -> None:
        super().__init__()
        self._rounds, self._factor = rounds, reduction_factor
        self._halving: dict[float, ASHAScheduler] = {}

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        said: str = self._of(trial).on_trial_result(tune_controller, trial, result)
        keeps = trial.config[POINT]["acquisition"] == FLOOR or result["round"] >= self._rounds
        go_on: str = TrialScheduler.CONTINUE
        return go_on if keeps else said

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: Trial) -> ASHAScheduler:
        budget = trial.config[POINT]["budget"]
        if budget not in self._halving:
            self._halving[budget] = ASHAScheduler(
                time_attr="round",
                metric="miou",
                mode="max",
                max_t=self._rounds + 1,
                grace_period=1,
                reduction_factor=self._factor,
            )
        return self._halving[budget]
