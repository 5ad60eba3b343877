"""One run at a time works in the directory of a sweep or study, and none makes it another's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from made_trials import begun, ran
from small_experiments import changed, kept

from halo_ray import lock
from halo_ray.config import Config
from halo_ray.context import open_experiment
from halo_ray.errors import InputError
from halo_ray.lock import locked
from halo_ray.root import ROOT, Kind, begin_root, check_root
from halo_ray.storage import Storage
from halo_ray.sweep import run
from halo_ray.sweep.directory import read_ended
from halo_ray.sweep.run import run_study, run_sweep
from halo_ray.sweep.space import SearchSpace
from halo_ray.sweep.study import Study
from halo_ray.sweep.trials import SweepConfig
from halo_ray.verification.sweeps import verify_sweep

HOW = SweepConfig()

DRIVER = """
import sys
from contextlib import nullcontext
from made_trials import ran
from halo_ray.config import Config
from halo_ray.execution import ExecutionConfig
from halo_ray.sweep import run
from halo_ray.sweep.space import SearchSpace
from halo_ray.sweep.study import Study, Table
from halo_ray.sweep.trials import SweepConfig

def work(base, space, how, storage):
    print("works", flush=True)
    sys.stdin.readline()

base = Config(output_dir=sys.argv[1], execution=ExecutionConfig(lock_seconds=1))
run.ray_session, run.run_trials = lambda _: nullcontext(), work
run.run_sweep(base, SearchSpace.of(base, [], [], ["halo"], 1), SweepConfig())
"""
"""Runs a sweep whose trials do nothing until a line comes."""


@pytest.fixture
def base(base: Config) -> Config:
    return changed(base, "execution.lock_seconds", 1.0)


@pytest.fixture
def space(base: Config) -> SearchSpace:
    return SearchSpace.of(base, [], [], ["halo"], 1)


def finish(base: Config, space: SearchSpace) -> None:
    for point in space.points():
        ran(base, point, [0.2, 0.4, 0.5, 0.6])


def experiment(base: Config) -> None:
    with open_experiment(base):
        raise AssertionError("it was opened")


def sweep(base: Config) -> None:
    run_sweep(base, SearchSpace.of(base, [], [], [], 1), HOW)


def study(base: Config) -> None:
    run_study(base, Study({"x": {}}, ()), HOW)


@pytest.fixture
def driver(base: Config) -> Callable[[], subprocess.Popen[str]]:
    """Starts a process that runs the sweep, and returns when its trials run."""

    def start() -> subprocess.Popen[str]:
        path = os.pathsep.join(["tests", os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, base.output_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": path},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "works\n"
        return process

    return start


@pytest.mark.parametrize("command", [sweep, study])
def test_where_another_run_works_a_sweep_is_refused(command: Callable[[Config], None], base: Config) -> None:
    with (
        locked(Storage(base.output_dir), 1.0),
        pytest.raises(InputError, match=f"{base.output_dir} is being worked on"),
    ):
        command(base)
    assert list(Path(base.output_dir).iterdir()) == []


@pytest.mark.parametrize(
    ("command", "kind"), [(experiment, "sweep"), (experiment, "study"), (sweep, "experiment"), (study, "experiment")]
)
def test_what_another_run_begins_meanwhile_stays_its(
    command: Callable[[Config], None], kind: Kind, base: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that has found the directory empty waits for the lock, and its holder begins something else."""
    storage, said = Storage(base.output_dir), list[str]()

    def wait() -> None:
        try:
            command(changed(base, "execution.lock_seconds", 60.0))
        except InputError as error:
            said.append(str(error))

    waiting = threading.Thread(target=wait)
    with locked(storage, 60) as held:
        waiting.start()
        printed = ""
        while "is held by" not in printed:
            assert waiting.is_alive(), said
            waiting.join(0.05)
            printed += capsys.readouterr().out
        begin_root(held, kind)
    waiting.join()
    assert f"{base.output_dir} holds a" in said[0]
    assert f"{kind}, not a" in said[0]
    assert check_root(storage, kind)
    assert {path.name for path in Path(base.output_dir).iterdir()} == {ROOT, "lock"}


def test_a_root_file_is_never_replaced(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    begin_root(storage, "sweep")
    before = storage.read(ROOT)
    begin_root(storage, "sweep")
    with pytest.raises(InputError, match="holds a sweep, not an experiment"):
        begin_root(storage, "experiment")
    assert storage.read(ROOT) == before


def test_a_sweep_that_was_taken_for_dead_writes_no_results_over_those_of_its_successor(
    base: Config, space: SearchSpace, driver: Callable[[], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver was only stopped, as seen from another machine."""
    process = driver()
    process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(lock, "_boot", lambda: "another machine")
    finish(base, space)
    run_sweep(base, space, HOW)
    before = kept(base.output_dir)
    for point in space.points():
        ran(base, point, [0.2, 0.3])  # what it would find now
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate("\n", timeout=60)
    finish(base, space)
    assert "InputError: another run has taken" in said
    assert kept(base.output_dir) == before


def test_a_sweep_that_was_killed_is_taken_over_at_once(
    base: Config, space: SearchSpace, driver: Callable[[], subprocess.Popen[str]]
) -> None:
    process = driver()
    storage = Storage(base.output_dir)
    assert "lock/00000001.json" in {note.place for note in verify_sweep(storage).notes}
    process.kill()
    process.communicate()
    finish(base, space)
    assert run_sweep(changed(base, "execution.lock_seconds", 300.0), space, HOW)
    assert read_ended(storage) is not None
    assert json.loads(storage.read("lock/00000002.json"))["released"]


def test_trials_run_while_their_sweep_holds_its_directory(
    base: Config, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(config: Config, space: SearchSpace, how: SweepConfig, storage: Storage) -> None:
        finish(config, space)
        for point in space.points():
            with locked(storage.below(f"trials/{point.name}"), 1.0) as trial:
                trial.write("mine", b"")
        assert not json.loads(storage.read("lock/00000002.json"))["released"]

    begun(base, space, "sweep")
    monkeypatch.setattr(run, "ray_session", lambda _: nullcontext())
    monkeypatch.setattr(run, "run_trials", work)
    run_sweep(base, space, HOW)
    assert read_ended(Storage(base.output_dir)) is not None
