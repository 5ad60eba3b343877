"""How many trials run together, and what each may take: never so much that none can go on."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import ray
from small_experiments import changed, small_config

from halo_ray.annotations.config import AnnotationConfig
from halo_ray.config import Config
from halo_ray.errors import InputError
from halo_ray.storage import Storage
from halo_ray.sweep.space import SearchSpace
from halo_ray.sweep.trials import SweepConfig, _sized, run_trials

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def base(tmp_path: Path) -> Config:
    return changed(small_config(tmp_path, tmp_path / "sweep"), "execution.max_actors", 8)


def on(monkeypatch: pytest.MonkeyPatch, **resources: float) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)


def test_people_are_not_waited_for(base: Config, tmp_path: Path) -> None:
    config = replace(base, annotation=AnnotationConfig(oracle="files"))
    space = SearchSpace(curvature=(1.0,), budget=(0.01,), acquisition=("random",), seeds=1)
    with pytest.raises(InputError, match=r"annotation\.oracle is files: a sweep cannot wait for people"):
        run_trials(config, space, SweepConfig(), Storage(str(tmp_path / "sweep")))
    assert not list(tmp_path.iterdir())


def test_pools_and_workers_leave_a_cpu_to_load_data(base: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, workers, actors in product((2, 3, 8, 64), (0, 1, (1, 2)), (0.25, 0.5)):
        on(monkeypatch, CPU=float(cpus))
        config = replace(base, execution=replace(base.execution, num_workers=workers, cpus_per_actor=actors))
        sized, together = _sized(config, SweepConfig())
        execution = sized.execution
        largest = workers[1] if isinstance(workers, tuple) else workers
        taken = max(largest * execution.cpus_per_worker, execution.max_actors * execution.cpus_per_actor)
        assert together >= 1
        assert together * taken + 1 <= cpus


def test_what_trains_in_a_trials_own_process_counts_too(base: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, threads in product((2, 8, 64), (1, 2, 4)):
        on(monkeypatch, CPU=float(cpus))
        _, together = _sized(changed(base, "training.threads", threads), SweepConfig())
        assert together == max(1, min(cpus // threads, (cpus - 1) * 2))


def test_more_trials_than_there_is_room_for_are_refused(base: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, CPU=2.0)
    assert _sized(base, SweepConfig(max_concurrent_trials=2))[1] == 2
    with pytest.raises(InputError, match=r"--max_concurrent_trials is 4.* room for 2 trials"):
        _sized(base, SweepConfig(max_concurrent_trials=4))


def test_all_trials_are_told_what_the_driver_has_found(base: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, CPU=16.0, GPU=4.0)
    undecided = replace(base, execution=replace(base.execution, num_workers=None, device="auto"))
    sized, together = _sized(undecided, SweepConfig())
    assert (sized.execution.device, sized.execution.num_workers, together) == ("cuda", 2, 2)  # batches of 2 and 2
    alone, together = _sized(changed(undecided, "execution.num_workers", 0), SweepConfig())
    assert (alone.execution.num_workers, together) == (1, 4)  # its own process has no GPU of its own
    on(monkeypatch, CPU=16.0)
    sized, _ = _sized(undecided, SweepConfig())
    assert (sized.execution.device, sized.execution.num_workers) == ("cpu", 0)


def test_trials_that_compute_in_their_own_process_have_a_core_each(
    base: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = replace(base, execution=replace(base.execution, max_actors=0))
    for cpus, threads in product((1, 2, 8, 64), (1, 2, 4)):
        on(monkeypatch, CPU=float(cpus))
        sized, together = _sized(changed(alone, "training.threads", threads), SweepConfig())
        assert (sized.execution.max_actors, together) == (0, max(1, cpus // threads))
    on(monkeypatch, CPU=16.0, GPU=4.0)
    sized, together = _sized(changed(alone, "execution.device", "auto"), SweepConfig())
    assert (sized.execution.max_actors, together) == (1, 4)  # its own process has no GPU of its own
