"""Storage that fails for good at its n-th change, for every n: what is resumed ends as if nothing had been."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.data
from kills import results
from small_experiments import small_config

from halo_ray.atomic import NOBODY
from halo_ray.config import Config
from halo_ray.errors import InputError
from halo_ray.experiment import run_experiment
from halo_ray.patience import StorageError
from halo_ray.storage import Storage
from halo_ray.verification.verify import verify_experiment

QUICK = 9
"""Every so many-th change is tried where there is no time for all."""

MODES = "before", "half way"
"""After a change is before the next one."""


class Failing:
    """Fails at one change of the storages of this process, and at all that follow.

    Args:
        at: number of the change, from 1; 0: none fails.
        mode: whether it leaves something that is not whole.
    """

    def __init__(self, at: int, mode: str) -> None:
        self.changes, self._at, self._mode = 0, at, mode
        self.names: list[str] = []

    def do(self, name: str, operation: Callable[[], Any], half: Callable[[], object]) -> Any:
        self.changes += 1
        self.names.append(name)
        if self._at and self.changes >= self._at:
            if self.changes == self._at and self._mode == "half way":
                half()
            raise StorageError(f"{name}: the storage is gone")
        return operation()


@contextmanager
def failing(at: int, mode: str = "before") -> Iterator[Failing]:
    """Puts it below all storages, and below what Ray Data writes to them."""
    failure, change, write = Failing(at, mode), Storage._change, ray.data.Dataset.write_parquet

    def changing(storage: Storage, name: str, operation: Callable[[], Any]) -> Any:
        # What a process leaves that dies while it writes: a file of another name.
        path = Path(storage.path(name))
        unfinished = path.with_name(f".halo_ray-{storage._owner}-{0:012x}.tmp")

        def half() -> None:
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(b"half")

        return failure.do(name, lambda: change(storage, name, operation), half)

    def writing(dataset: ray.data.Dataset, path: str, **options: Any) -> None:
        def half() -> None:
            write(dataset, path, **options)
            files = sorted(Path(path).rglob("*.parquet"))
            files[0].unlink()
            files[-1].write_bytes(files[-1].read_bytes()[:100]) if len(files) > 1 else None

        failure.do("candidates", lambda: write(dataset, path, **options), half)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Storage, "_change", changing)
        patch.setattr(ray.data.Dataset, "write_parquet", writing)
        yield failure


@pytest.fixture(scope="module")
def config(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = small_config(dataset, tmp_path_factory.mktemp("crash") / "run")
    return replace(
        config,
        acquisition=replace(config.acquisition, budget=0.01, rounds=1),
        training=replace(config.training, control=False, pretrain_steps=2),
        execution=replace(config.execution, checkpoint_steps=1, lock_seconds=3600, block_images=3),
    )


@pytest.fixture(scope="module")
def undisturbed(cluster: None, config: Config) -> tuple[int, Any]:
    """How many changes an experiment makes, and its results."""
    with failing(0) as counting:
        run_experiment(config)
    found = results(Path(config.output_dir))
    shutil.rmtree(config.output_dir)
    return counting.changes, found


def disturbed(config: Config, at: int, mode: str, expected: Any, directory: Path) -> bool:
    """Whether there is such a change; runs up to it, goes on with a storage that works again, and compares."""
    config = replace(config, output_dir=str(directory))
    with failing(at, mode) as failure:
        try:
            run_experiment(config)
            return False
        except InputError as error:
            said = str(error)
    assert "the storage is gone" in said
    run_experiment(config)
    left = (path.relative_to(directory) for path in directory.rglob("*.tmp"))
    # Whoever writes before it holds the lock has no name that the next one knows.
    unfinished = [path for path in left if NOBODY not in path.name]
    assert not unfinished, f"change {at} ({failure.names[at - 1]}), {mode}"
    assert results(directory) == expected, f"change {at} ({failure.names[at - 1]}), {mode}"
    assert verify_experiment(str(directory)).wrong == []
    shutil.rmtree(directory)
    return True


def test_some_crash_points(config: Config, undisturbed: tuple[int, Any], tmp_path: Path) -> None:
    changes, expected = undisturbed
    assert changes > 40
    for number, at in enumerate(range(1 + changes % QUICK, changes + 1, QUICK)):
        assert disturbed(config, at, MODES[number % 2], expected, tmp_path / "run")


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", MODES)
def test_every_crash_point(config: Config, undisturbed: tuple[int, Any], mode: str, tmp_path: Path) -> None:
    changes, expected = undisturbed
    for at in range(1, changes + 1):
        # The changes of the end are those that give the lock back: the run itself is done.
        assert disturbed(config, at, mode, expected, tmp_path / "run") or at > changes - 2
