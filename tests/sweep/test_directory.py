"""The directory of a sweep or study: what it goes on in, what it refuses untouched, and damage to its own files."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
from damage import reseal
from made_trials import begun, ran, was_stopped
from small_experiments import changed, kept
from studies import BUDGETS, CURVATURES, FUNCTIONS, ONE, written

from halo_ray import root
from halo_ray.config import Config, config_from_yaml, identity
from halo_ray.errors import InputError
from halo_ray.root import ROOT, begin_root, read_root
from halo_ray.storage import Storage, sealed
from halo_ray.sweep import run
from halo_ray.sweep.directory import BASE, ENDED, RESULTS, SWEEP, read_ended, write_ended
from halo_ray.sweep.results import write_results
from halo_ray.sweep.run import run_sweep
from halo_ray.sweep.space import SWEPT, SearchSpace
from halo_ray.sweep.status import FINISHED, OPEN, STOPPED, forget_stopped, read_stopped, status, stopped_file
from halo_ray.sweep.study import Study
from halo_ray.sweep.trials import SweepConfig

ODD = {
    "empty": b"",
    "object": b"{}",
    "list": b"[]",
    "null": b"null",
    "number": b"3",
    "text": b'"sweep"',
    "not finite": b'{"runs": NaN, "sha256": ""}',
    "deep": b"[" * 100_000,
    "deep and closed": b'{"runs": ' + b"[" * 900 + b"]" * 900 + b', "sha256": ""}',
    "sealed object": sealed({}),
    "sealed lists": sealed({key: [] for key in ("kind", "space", "fixed", "sweep", "trials", "files", "runs")}),
    "no text": b"\xff\xfe\x00",
}
"""Contents that are none of ours."""

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "half zeroed": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "bit": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "space": lambda data: data + b" ",
    **{name: lambda _, content=content: content for name, content in ODD.items()},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of files, which need not survive the loss of power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_the_same_sweep_goes_on_where_it_was(base: Config, space: SearchSpace) -> None:
    begun(base, space, "sweep")
    before = Path(base.output_dir, "sweep.json").read_bytes()
    again = SearchSpace.of(base, CURVATURES, reversed(BUDGETS), FUNCTIONS, 2)
    for key, value in (
        ("execution.max_actors", 7),
        ("execution.shared_stages", "/elsewhere"),
        ("data_root", "/moved"),
        ("data.on_bad_record", "skip"),
        *zip(SWEPT, (4, 0.1, 0.5, "entropy"), strict=True),  # which the space sets
    ):
        assert begun(changed(base, key, value), again, "sweep").uri == base.output_dir
    assert Path(base.output_dir, "sweep.json").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "there", "values"),
    [
        ("--curvature", "0.5, 1.0, 2.0", {"curvature": (0.5, 1.0)}),
        ("--budget", "0.002, 0.01", {"budget": (0.01, 0.002, 0.1)}),
        ("--acquisition", "halo, entropy, random", {"acquisition": ("halo",)}),
        ("--seeds", "2", {"seeds": 3}),
    ],
)
def test_another_space_is_refused_by_name(base: Config, space: SearchSpace, key: str, there: str, values: dict) -> None:
    begun(base, space, "sweep")
    settings = {"curvature": CURVATURES, "budget": BUDGETS, "acquisition": FUNCTIONS, "seeds": 2} | values
    with pytest.raises(InputError) as caught:
        begun(base, SearchSpace.of(base, **settings), "sweep")
    assert f"{key} (there {there})" in str(caught.value)
    assert base.output_dir in str(caught.value)
    others = {"--curvature", "--budget", "--acquisition", "--seeds"} - {key}
    assert not any(other in str(caught.value) for other in others)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.pretrain_steps", 7),
        ("model.embedding", 8),
        ("data.height", 64),
        ("acquisition.rounds", 5),
        ("acquisition.beta", 2.0),
        ("evaluation.flip", False),
    ],
)
def test_other_settings_are_refused_by_name(base: Config, space: SearchSpace, key: str, value: object) -> None:
    begun(base, space, "sweep")
    there = identity(base)[key]
    with pytest.raises(InputError) as caught:
        begun(changed(base, key, value), space, "sweep")
    assert f"{key} (there {there})" in str(caught.value)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize("key", ["acquisition.beta", "acquisition.image_cap"])
def test_settings_without_end_are_kept_too(base: Config, key: str) -> None:
    """.inf takes the best regions, or caps nothing."""
    base = changed(base, key, math.inf)
    space = SearchSpace.of(base, [], [], [], 1)
    for _ in range(2):
        begun(base, space, "sweep")
    with pytest.raises(InputError, match=key):
        begun(changed(base, key, 3.0), space, "sweep")


def test_of_two_that_begin_at_the_same_time_one_decides(
    base: Config, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Storage.create

    def late(storage: Storage, name: str, data: bytes) -> None:
        if name == SWEEP:
            other = {"kind": "sweep", "space": {**space.told(), "seeds": 7}, "fixed": {}}
            create(storage, name, sealed(other))
        create(storage, name, data)

    monkeypatch.setattr(Storage, "create", late)
    with pytest.raises(InputError, match=r"--seeds \(there 7\)"):
        begun(base, space, "sweep")


def test_base_yaml_holds_the_settings_of_the_last_run(base: Config, space: SearchSpace) -> None:
    for actors in (7, 3):
        now = changed(base, "execution.max_actors", actors)
        begun(now, space, "sweep")
        assert config_from_yaml(Path(base.output_dir, BASE).read_bytes(), BASE) == now


def test_other_software_is_said(
    base: Config, space: SearchSpace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(base, space, "sweep")
    begun(base, space, "sweep")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(root, "versions", lambda: {"torch": "99.1"})
    begun(base, space, "sweep")
    assert "torch 99.1" in capsys.readouterr().out


# What it refuses untouched.


def foreign_file(at: Path) -> None:
    (at / "notes.txt").write_text("mine")


def foreign_directory(at: Path) -> None:
    (at / "trials" / "mine").mkdir(parents=True)


def link(at: Path) -> None:
    (at.parent / "elsewhere").mkdir()
    (at.parent / "elsewhere" / "a.tmp").write_text("mine")
    (at / "stopped").symlink_to(at.parent / "elsewhere")


def dangling_link(at: Path) -> None:
    (at / "shared").symlink_to(at / "nowhere")


def pipe(at: Path) -> None:
    os.mkfifo(at / "sweep.json")


def listening(at: Path) -> None:
    here = os.getcwd()
    os.chdir(at)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("base.yaml")
    os.chdir(here)


def experiment(at: Path) -> None:
    begin_root(Storage(str(at)), "experiment")


def own_study(at: Path) -> None:
    config = Config(output_dir=str(at))
    begun(config, Study({"x": {}}, ()), "study")


def own_sweep(at: Path) -> None:
    config = Config(output_dir=str(at))
    begun(config, SearchSpace.of(config, [], [], [], 1), "sweep")


def results(at: Path) -> None:
    (at / RESULTS).write_bytes(sealed({"runs": []}))


def later(at: Path) -> None:
    (at / ROOT).write_bytes(sealed({"format": 2, "kind": "sweep", "versions": {}}))


FOREIGN = (foreign_file, foreign_directory, link, dangling_link, pipe, listening, experiment, later)


def everything(at: Path) -> dict[str, object]:
    """All that lies below a directory, whatever it is, and when it was changed."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(at.rglob("*"))
    }


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        *(("sweep", make) for make in (*FOREIGN, own_study, results)),
        *(("study", make) for make in (foreign_file, experiment, own_sweep)),
    ],
)
def test_a_directory_of_something_else_is_refused_untouched(
    kind: str,
    make: Callable[[Path], None],
    job: Callable[[str], ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    at = tmp_path / "world" / "out"
    at.mkdir(parents=True)
    make(at)
    before = everything(tmp_path / "world")
    file = written(tmp_path, ONE)
    options = ["--study", str(file)] if kind == "study" else ["--seeds", "1"]
    assert job("sweep").main(["--preset", "tiny", *options, "--output_dir", str(at)]) == 2
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert str(at) in said
    assert everything(tmp_path / "world") == before


@pytest.mark.parametrize("kind", ["sweep", "study"])
def test_what_may_lie_there_beforehand_stays(kind: str, base: Config, space: SearchSpace) -> None:
    at = Path(base.output_dir)
    (at / "lost+found").mkdir(parents=True)
    (at / ".hidden").write_text("mine")
    if kind == "study":
        (at / RESULTS).write_text("mine")
    before = everything(at)
    storage = begun(base, space if kind == "sweep" else Study({"x": {}}, ()), kind)
    assert read_root(storage) == kind
    now = everything(at)
    assert {name: now[name] for name in before} == before


# Damage.


@pytest.fixture
def two(base: Config, tmp_path: Path) -> SearchSpace:
    """A sweep that has ended: random is finished, halo was stopped after its first round."""
    space = SearchSpace.of(base, [], [], ["halo"], 1)
    storage = begun(base, space, "sweep")
    stopped, finished = space.points()
    was_stopped(base, stopped, [0.2, 0.3])
    ran(base, finished, [0.2, 0.4, 0.5, 0.6])
    write_results(storage, base, space)
    write_ended(storage, "sweep", {stopped.name: STOPPED, finished.name: FINISHED})
    return space


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("Ray is started for nothing")

    monkeypatch.setattr(run, "ray_session", never)


ASHA = SweepConfig(scheduler="asha")


def test_a_sweep_that_has_ended_stays_as_it_is(base: Config, two: SearchSpace) -> None:
    before = kept(base.output_dir)
    (cell,) = (cell for cell in run_sweep(base, two, ASHA) if cell.acquisition == "random")
    assert cell.miou == 0.6
    assert kept(base.output_dir) == before


@pytest.mark.parametrize("name", [RESULTS, "results.csv", "sweep.png", BASE])
def test_what_is_derived_is_made_again(name: str, base: Config, two: SearchSpace) -> None:
    before, file = kept(base.output_dir), Path(base.output_dir, name)
    for damaged in (b"", file.read_bytes()[:50], None):
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        run_sweep(base, two, ASHA)
        assert kept(base.output_dir) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage: str, base: Config, two: SearchSpace) -> None:
    for name in (ROOT, SWEEP, ENDED, stopped_file(two.points()[0].name)):
        file = Path(base.output_dir, name)
        sound = file.read_bytes()
        file.write_bytes(DAMAGES[damage](sound))
        before = kept(base.output_dir)
        with pytest.raises(InputError) as caught:
            run_sweep(base, two, ASHA)
        assert str(file) in str(caught.value)
        assert len(str(caught.value)) < 1000
        assert kept(base.output_dir) == before
        file.write_bytes(sound)


def test_what_is_gone_is_named(base: Config, two: SearchSpace) -> None:
    stopped, finished = (point.name for point in two.points())
    for name in (ROOT, SWEEP, stopped_file(stopped), f"trials/{finished}", f"trials/{stopped}"):
        path = Path(base.output_dir, name)
        path.rename(path.parents[1] / "away")
        before = kept(base.output_dir)
        with pytest.raises(InputError) as caught:
            run_sweep(base, two, ASHA)
        assert name in str(caught.value)
        assert kept(base.output_dir) == before
        Path(path.parents[1], "away").rename(path)
    whole = kept(base.output_dir)
    Path(base.output_dir, ENDED).unlink()  # which the trials give again
    run_sweep(base, two, ASHA)
    assert kept(base.output_dir) == whole


def test_nothing_is_taken_from_another_sweep_or_trial(base: Config, two: SearchSpace, tmp_path: Path) -> None:
    other = changed(base, "output_dir", str(tmp_path / "other"))
    space = SearchSpace.of(other, [], [], ["halo"], 2)
    begun(other, space, "sweep")
    stopped = [point for point in space.points() if point.acquisition == "halo"]
    for point in stopped:
        was_stopped(other, point, [0.2, 0.3])
    write_ended(Storage(other.output_dir), "sweep", {})
    mine, name = stopped_file(two.points()[0].name), stopped_file(stopped[1].name)
    assert (tmp_path / "other" / mine).is_file()
    for namesake, place in ((name, mine), (SWEEP, SWEEP), (ENDED, ENDED)):
        file = Path(base.output_dir, place)
        sound = file.read_bytes()
        file.write_bytes((tmp_path / "other" / namesake).read_bytes())
        with pytest.raises(InputError, match=base.output_dir):
            run_sweep(base, two, ASHA)
        file.write_bytes(sound)
    for change in ({"experiment": "0" * 32}, {"round": 2}, {"round": "1"}, {"round": -1}):
        sound = Path(base.output_dir, mine).read_bytes()
        reseal(Storage(base.output_dir), mine, lambda found, change=change: found.update(change))
        with pytest.raises(InputError, match=mine):
            run_sweep(base, two, ASHA)
        Path(base.output_dir, mine).write_bytes(sound)


def test_a_stopped_trial_goes_on_without_the_scheduler_that_stopped_it(
    base: Config, two: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what else lies beside the files that say so stays."""
    stopped, finished = two.points()
    (Path(base.output_dir) / "stopped/mine.json").write_text("mine")

    def go_on(config: Config, space: SearchSpace, how: SweepConfig, storage: Storage) -> None:
        assert read_ended(storage) is None
        forget_stopped(storage, space.points())
        assert [status(config, point) for point in (stopped, finished)] == [OPEN, FINISHED]
        ran(config, stopped, [0.2, 0.3, 0.4, 0.7])

    monkeypatch.setattr(run, "ray_session", lambda _: nullcontext())
    monkeypatch.setattr(run, "run_trials", go_on)
    cells = run_sweep(base, two, SweepConfig())
    assert {cell.acquisition: cell.miou for cell in cells} == {"halo": 0.7, "random": 0.6}
    assert [path.name for path in Path(base.output_dir, "stopped").iterdir()] == ["mine.json"]
    ended = read_ended(Storage(base.output_dir))
    assert ended is not None
    assert set(ended.trials.values()) == {FINISHED}


def test_what_repeats_the_records_of_a_stopped_trial_is_made_again(base: Config, two: SearchSpace) -> None:
    """It was killed at any time: perhaps between them and its marker."""
    stopped, _ = two.points()
    file = Path(base.output_dir, "trials", stopped.name, "metrics.jsonl")
    sound = file.read_bytes()
    file.write_bytes(sound + json.dumps({"round": 2}).encode())
    run_sweep(base, two, ASHA)
    assert file.read_bytes() == sound
    assert read_stopped(Storage(base.output_dir), stopped.name) == 1


def test_damage_to_a_stopped_trial_is_named(base: Config, two: SearchSpace) -> None:
    stopped, _ = two.points()
    file = Path(base.output_dir, "trials", stopped.name, "classes.json")
    file.write_bytes(b"{}")
    with pytest.raises(InputError, match=str(file)):
        run_sweep(base, two, ASHA)
