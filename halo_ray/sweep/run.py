"""A whole sweep, from its directory to its table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from halo_ray.config import Config
from halo_ray.errors import InputError
from halo_ray.root import Kind
from halo_ray.runtime import ray_session
from halo_ray.storage import Storage
from halo_ray.sweep.directory import ENDED, RESULTS, Ended, begin_sweep, open_sweep, read_ended, write_ended
from halo_ray.sweep.results import Cell, write_results
from halo_ray.sweep.space import TRIALS, SearchSpace, Space
from halo_ray.sweep.status import FINISHED, OPEN, STOPPED, settle, status, stopped_file
from halo_ray.sweep.store import check_store
from halo_ray.sweep.study import Study
from halo_ray.sweep.study_results import write_study
from halo_ray.sweep.study_runs import recorded_runs, restore_results, runs_elsewhere
from halo_ray.sweep.trials import SweepConfig, run_trials

AnySpace = TypeVar("AnySpace", bound=Space)
Found = TypeVar("Found")

Write = Callable[[Storage, Config, AnySpace, Collection[str]], Found]
"""Writes the results to the sweep's directory, given the names of trials that are known to be finished."""


def run_sweep(base: Config, space: SearchSpace, how: SweepConfig) -> list[Cell]:
    """Runs every trial of ``space`` around ``base`` that is not done, in base.output_dir, and writes what was found.

    Raises:
        InputError: the directory holds another sweep, a trial failed, or something must be fixed before any can begin.
    """
    base = _absolute(base)
    with open_sweep(base, "sweep") as storage:
        return _run(storage, base, space, how, "sweep", write_results)


def run_study(base: Config, study: Study, how: SweepConfig) -> dict[str, Any]:
    """The same for a study; gives what results.json holds. Trials that stand there need no directory any more.

    One that has a directory is checked and made whole as in a sweep: its records count, not what results.json repeats.
    """
    base = _absolute(base)
    with open_sweep(base, "study") as storage:
        restore_results(storage, base, study)
        known = runs_elsewhere(storage, recorded_runs(base, study))
        if known:
            said = f"{len(known)} of {len(study.points())} trials stand in {RESULTS} already, with these settings"
            print(f"{said}; that their images and weights were the same is taken for granted", flush=True)

        def write(storage: Storage, base: Config, _: Study, finished: Collection[str]) -> dict[str, Any]:
            return write_study(storage, base, study, known, finished)

        return _run(storage, base, replace(study, done=frozenset(known)), how, "study", write, known)


def _absolute(base: Config) -> Config:
    """Trials run in directories of their own."""
    return replace(base, output_dir=Storage(base.output_dir).uri)


def _run(
    storage: Storage,
    base: Config,
    space: AnySpace,
    how: SweepConfig,
    kind: Kind,
    write: Write[AnySpace, Found],
    known: Collection[str] = (),
) -> Found:
    """Runs what is not done and writes what was found; ``known`` are finished trials without a directory of theirs."""
    begin_sweep(storage, base, space, kind)
    trials = {trial.name: trial for trial in space.points()}
    # Damage, and a directory that holds another experiment, are named before any trial begins.
    before, ended = {name: status(base, trial) for name, trial in trials.items()}, read_ended(storage)
    if ended is not None and how.scheduler == "asha":
        _check_as_ended(storage, before, ended)
    check_store(storage, ended=ended is not None)
    finished = {name for name, stands in before.items() if stands == FINISHED}
    storage.delete(ENDED)  # whose digests must not outlive the results that are written now
    found = write(storage, base, space, finished)
    done = (FINISHED, STOPPED) if how.scheduler == "asha" else (FINISHED,)
    if any(stands not in done for stands in before.values()):
        try:
            with ray_session(base.execution):
                run_trials(base, space, how, storage)
        finally:
            found = write(storage, base, space, finished)
    now = {name: status(base, trial, finished) for name, trial in trials.items()}
    for name, stands in now.items():
        if stands == STOPPED:
            settle(base, trials[name])
    write_ended(storage, kind, dict.fromkeys(known, FINISHED) | now)
    return found


def _check_as_ended(storage: Storage, now: Mapping[str, str], ended: Ended) -> None:
    """What is lost is not made again: others would be stopped than were.

    Raises:
        InputError: a trial does not stand as it did when the sweep ended.
    """
    for name, stands in now.items():
        then = ended.trials.get(name, OPEN)
        if stands != then:
            lost = stopped_file(name) if then == STOPPED else f"{TRIALS}/{name}"
            raise InputError(
                f"{storage.uri}/{lost} is gone or damaged, since {ENDED} says that {name} was {then}: restore it from "
                "a copy, or finish all trials with --scheduler fifo"
            )
