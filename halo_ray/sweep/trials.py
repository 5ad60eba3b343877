"""The trials of a sweep: what they share first, then every one of them, on Ray Tune."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any, Literal

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial as TuneTrial

from halo_ray.bounds import Range
from halo_ray.cluster import ANYWHERE, autoscales, device_of, most, training_workers
from halo_ray.config import Config
from halo_ray.context import finished_rounds
from halo_ray.errors import InputError, one_line
from halo_ray.execution import MOST_PROCESSES
from halo_ray.experiment import prepare_experiment, run_experiment
from halo_ray.results import read_metrics
from halo_ray.runtime import input_error, joined_address
from halo_ray.storage import Storage
from halo_ray.sweep.scheduler import POINT, AshaWithinBudget
from halo_ray.sweep.space import Space, Trial, configure
from halo_ray.sweep.status import FINISHED, STOPPED, forget_stopped, read_stopped, status, write_stopped
from halo_ray.visibility import check_shared

DRIVER = {"memory": 2**20}
"""What Ray reserves for a trial's own process: nearly nothing, as for the driver of a job. What computes reserves for
itself, and CPUs that waiting trials held would be missing there."""


@dataclass(frozen=True)
class SweepConfig:
    """How a sweep runs; may change when it is resumed."""

    scheduler: Literal["fifo", "asha"] = "fifo"
    """asha stops trials that are poor among those of their budget; fifo runs all to the end."""
    max_concurrent_trials: int | None = None
    """Trials at the same time; null: as many as the cluster's GPUs or CPUs have room for."""

    def __post_init__(self) -> None:
        Range(1, MOST_PROCESSES).check("--max_concurrent_trials", self.max_concurrent_trials)


def run_trials(base: Config, space: Space, how: SweepConfig, storage: Storage) -> None:
    """Runs all trials that are not done, in the directory of their sweep; Ray must be connected.

    Raises:
        InputError: a trial failed, or something must be mended before any can begin.
    """
    if base.annotation.asks_people:
        raise InputError(
            "annotation.oracle is files: a sweep cannot wait for people; sweep with ground_truth, and run single "
            "experiments with files"
        )
    check_shared(storage, base.execution)
    base, together = _sized(base, how)
    _prepare(base, space, together)
    _tune(base, space, how, together, storage)


def _sized(base: Config, how: SweepConfig) -> tuple[Config, int]:
    """The configuration with what the cluster decides filled in, alike for all trials, and how many run together.

    The pools of trials that run together must leave a CPU to load data, or all of them wait for ever.

    Raises:
        InputError: more are asked for than there is room for.
    """
    execution, wanted, device = base.execution, how.max_concurrent_trials, device_of(base.execution)
    workers = training_workers(execution, base.training.batches, base.most_workers)
    if device == "cuda":
        workers = workers or 1  # a trial's own process has no GPU reserved
        execution = replace(execution, max_actors=max(execution.max_actors, 1))
        room = fit = int(min(most("GPU"), sys.maxsize)) // (workers[0] if isinstance(workers, tuple) else workers)
    else:
        largest = workers[1] if isinstance(workers, tuple) else workers
        actors = min(execution.min_actors, execution.max_actors)
        reserved = max(largest * execution.cpus_per_worker, actors * execution.cpus_per_actor)
        room = int((most("CPU") - 1) / reserved) if reserved else sys.maxsize
        # What computes in the trial's own process reserves nothing, and needs CPUs all the same.
        fit = room if workers else min(room, int(most("CPU") / base.training.threads))
    if wanted and wanted > max(room, 1) and not autoscales():
        raise InputError(
            f"--max_concurrent_trials is {wanted}, but the Ray cluster has room for {max(room, 1)} trials at the same "
            "time: lower it"
        )
    together, actors = wanted or max(fit, 1), execution.max_actors
    if device == "cpu":
        actors = min(actors, max(int((most("CPU") - 1) / execution.cpus_per_actor / together), 1))
    execution = replace(
        execution,
        device=device,
        num_workers=workers,
        max_actors=actors,
        min_actors=min(execution.min_actors, max(actors, 1)),
        # Trials do not see the driver's RAY_ADDRESS: on a cluster that may grow they must not count what is there.
        ray_address=joined_address(execution),
    )
    return replace(base, execution=execution), together


def _prepare(base: Config, space: Space, together: int) -> None:
    """Computes what trials share, each thing once: what is common to most first, then all curvatures and seeds."""
    configs = []
    for leader, others in space.leaders(base):
        config = configure(base, leader)
        functions = tuple(dict.fromkeys((*config.execution.compare_functions, *others)))
        configs.append(replace(config, execution=replace(config.execution, compare_functions=functions)))
    todo = [config for config in configs if finished_rounds(config) is None]
    if not todo:
        return
    seeds = {config.seed: config for config in reversed(configs)}
    for config in [seeds[seed] for seed in sorted(seeds)] if base.training.cache_features else configs[:1]:
        _all_of([config], 1, only_features=True)
    print(f"preparing what trials share: {len(todo)} pretrained models", flush=True)
    _all_of(todo, together, only_features=False)


def _all_of(configs: list[Config], together: int, *, only_features: bool) -> None:
    """Prepares the experiments in processes of their own, so many at the same time."""
    options = {"num_cpus": 0, "max_retries": 3, "scheduling_strategy": ANYWHERE}
    task = ray.remote(**options)(_prepare_one)
    waiting, running = list(configs), set[Any]()
    try:
        while waiting or running:
            while waiting and len(running) < together:
                running.add(task.remote(os.getcwd(), waiting.pop(0), only_features))
            done, rest = ray.wait(list(running))
            running = set(rest)
            ray.get(done)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _prepare_one(directory: str, config: Config, only_features: bool) -> None:
    _enter(directory)
    prepare_experiment(config, only_features=only_features)


def _enter(directory: str) -> None:
    """Goes where the driver is, if this node has that: relative paths of the configuration begin there."""
    if os.path.isdir(directory):
        os.chdir(directory)


def _tune(base: Config, space: Space, how: SweepConfig, together: int, storage: Storage) -> None:
    points = {point.name: point for point in space.points()}
    asha = how.scheduler == "asha"
    if not asha:
        forget_stopped(storage, points.values())
    watch = _Watch(base, storage, points)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # a banner that verbose=0 does not silence
    trainable = tune.with_resources(
        tune.with_parameters(_trial, directory=os.getcwd(), base=base, points=points, replay=asha),
        PlacementGroupFactory([DRIVER], strategy="PACK"),
    )
    # Ray Tune pickles its callbacks and filesystem, whose credentials must not lie beside the results. What it keeps
    # there is of no use later: trials continue from their experiments.
    with TemporaryDirectory(prefix="halo_ray-tune-") as own:
        results = Tuner(
            trainable,
            param_space={POINT: tune.grid_search([{"name": name, **vars(point)} for name, point in points.items()])},
            tune_config=TuneConfig(
                scheduler=AshaWithinBudget(base.rounds) if asha else None,
                max_concurrent_trials=together,
                # The next trial finds torch loaded.
                reuse_actors=True,
            ),
            run_config=RunConfig(
                name="trials",
                storage_path=own,
                failure_config=FailureConfig(max_failures=base.execution.max_failures),
                callbacks=[watch],
                verbose=0,
            ),
        ).fit()
    errors = [error for error in results.errors if error is not None]
    if errors:
        said = input_error(errors[0]) or f"a process failed ({one_line(errors[0])[-300:]})"
        raise InputError(f"{len(errors)} of {len(points)} trials failed; the first: {said}")
    # Ray Tune returns as if nothing had been when it is interrupted.
    open_ones = [point for point in points.values() if status(base, point) not in (FINISHED, STOPPED)]
    if open_ones:
        raise InputError(f"{len(open_ones)} of {len(points)} trials are not done: the same command continues them")


def _trial(params: Mapping[str, Any], directory: str, base: Config, points: Mapping[str, Trial], replay: bool) -> None:
    """What Ray Tune runs for each point.

    Args:
        directory: of the driver; Ray Tune has gone to one of its own.
        replay: a trial that was stopped before says again what it reached, for others to be compared with.
    """
    _enter(directory)
    point = points[params[POINT]["name"]]
    config = configure(base, point)
    last = read_stopped(Storage(base.output_dir), point.name) if replay else None
    if last is not None:
        for metrics in read_metrics(Storage(config.output_dir)):
            if metrics["round"] <= last:
                _report(metrics)
        return
    run_experiment(config, on_round=_report)


def _report(metrics: Mapping[str, Any]) -> None:
    tune.report({name: metrics[name] for name in ("round", "miou", "pixels", "budget_spent")})


class _Watch(Callback):  # type: ignore[misc]
    """Says how trials go, and stores which were stopped: a resumed sweep must not begin them again."""

    def __init__(self, base: Config, storage: Storage, points: Mapping[str, Trial]) -> None:
        self._base, self._storage, self._points = base, storage, points

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        point = self._points[trial.config[POINT]["name"]]
        print(f"{point.name}: round {result['round']}, mIoU {100 * result['miou']:.1f} %", flush=True)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        point, last = self._points[trial.config[POINT]["name"]], trial.last_result
        done = f"{1 + sum(other.status == TuneTrial.TERMINATED for other in trials)} of {len(self._points)} trials"
        if finished_rounds(configure(self._base, point)) is not None:
            print(f"{point.name}: finished; {done}", flush=True)
            return
        if read_stopped(self._storage, point.name) is None:  # else it was a replay, which may have been cut short
            write_stopped(self._storage, point.name, last["round"])
        print(f"{point.name}: stopped after round {last['round']}; {done}", flush=True)
