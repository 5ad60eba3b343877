"""A whole sweep, from its directory to its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from halo_ray.config import Config
from halo_ray.runtime import ray_session
from halo_ray.storage import Storage
from halo_ray.sweep.results import Cell, write_results
from halo_ray.sweep.space import SearchSpace, Space, open_sweep, status
from halo_ray.sweep.study import Study
from halo_ray.sweep.study_results import RESULTS, recorded_runs, refuse_study, write_study
from halo_ray.sweep.trials import SweepConfig, run_trials

AnySpace = TypeVar("AnySpace", bound=Space)
Found = TypeVar("Found")


def run_sweep(base: Config, space: SearchSpace, how: SweepConfig) -> list[Cell]:
    """Runs every trial of ``space`` around ``base`` that is not done, in base.output_dir, and writes what was found.

    Raises:
        InputError: the directory holds another sweep, a trial failed, or something must be mended before any can begin.
    """
    refuse_study(Storage(base.output_dir))
    return _run(base, space, how, write_results)


def run_study(base: Config, study: Study, how: SweepConfig) -> dict[str, Any]:
    """The same for a study; gives what results.json holds. Trials that stand there need no directory any more."""
    known = recorded_runs(base, study)
    if Storage(base.output_dir).exists(RESULTS):
        said = f"{len(known)} of {len(study.points())} trials stand in {RESULTS} already, with these settings"
        print(f"{said}; that their images and weights were the same is taken for granted", flush=True)
    rest = replace(study, done=frozenset(known))
    return _run(base, rest, how, lambda base, _: write_study(base, study, known))


def _run(base: Config, space: AnySpace, how: SweepConfig, write: Callable[[Config, AnySpace], Found]) -> Found:
    # Trials run in directories of their own.
    base = replace(base, output_dir=Storage(base.output_dir).uri)
    storage, points = open_sweep(base, space), space.points()
    for point in points:
        status(base, point)  # names a directory that holds another experiment, before any trial begins
    try:
        if points:  # or Ray would start for nothing
            with ray_session(base.execution):
                run_trials(base, space, how, storage)
    finally:
        found = write(base, space)
    return found
