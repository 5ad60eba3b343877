"""How the trials of a sweep stand."""

from __future__ import annotations

from collections.abc import Container, Iterable

from halo_ray.config import Config
from halo_ray.context import finished_rounds
from halo_ray.lock import locked
from halo_ray.results import outdated, recorded
from halo_ray.seals import check_experiment
from halo_ray.stages import Stages
from halo_ray.storage import Storage
from halo_ray.sweep.space import TRIALS, Trial, configure

FINISHED, STOPPED, OPEN = "finished", "stopped", "open"
"""Of a trial: all rounds are done, the scheduler stopped it, or it was not begun, failed or was interrupted."""

STOPPED_TRIALS = "stopped"
"""Directory that says which trials were stopped, with a file for each."""


def stopped_file(name: str) -> str:
    """Says that the trial of that name was stopped before its last round, and after which."""
    return f"{STOPPED_TRIALS}/{name}.json"


def write_stopped(storage: Storage, name: str, number: int) -> None:
    """Says in a sweep's directory that a trial was stopped after that round."""
    experiment = Stages(storage.below(f"{TRIALS}/{name}")).experiment
    storage.write_sealed(stopped_file(name), {"trial": name, "experiment": experiment, "round": number})


def read_stopped(storage: Storage, name: str) -> int | None:
    """The round after which a trial was stopped; None where it was not.

    Raises:
        InputError: what says so is damaged or another trial's, or the trial has no record of that round.
    """
    file = stopped_file(name)
    if not storage.exists(file):
        return None
    found, stages = storage.read_sealed(file), Stages(storage.below(f"{TRIALS}/{name}"))
    if (found.get("trial"), found.get("experiment")) != (name, stages.experiment):
        raise storage.damaged(file, f"it is not that of {TRIALS}/{name}")
    number = found.get("round")
    if not isinstance(number, int) or not 0 <= number < len(recorded(stages)):
        raise storage.damaged(file, f"{TRIALS}/{name} has no record of round {number}")
    return number


def forget_stopped(storage: Storage, trials: Iterable[Trial]) -> None:
    """Lets trials that were stopped go on."""
    for trial in trials:
        storage.delete(stopped_file(trial.name))


def status(base: Config, trial: Trial, finished: Container[str] = ()) -> str:
    """How a trial stands: FINISHED, STOPPED or OPEN; what counts of it was read then, but for that of an open one.

    Args:
        finished: names of trials that are known to be, and are not read.

    Raises:
        InputError: its directory holds another experiment, or something of it is damaged.
    """
    if trial.name in finished:
        return FINISHED
    config = configure(base, trial)
    if finished_rounds(config) is not None:
        return FINISHED
    if read_stopped(Storage(base.output_dir), trial.name) is None:
        return OPEN
    check_experiment(Storage(config.output_dir), config, config.rounds)
    return STOPPED


def settle(base: Config, trial: Trial) -> None:
    """Writes what repeats the records of a stopped trial, which was killed at any time, where it does not."""
    config = configure(base, trial)
    storage = Storage(config.output_dir, config.execution.storage_seconds)
    if outdated(storage):
        with locked(storage, config.execution.lock_seconds) as held:
            for name, data in outdated(held).items():
                held.write(name, data)
