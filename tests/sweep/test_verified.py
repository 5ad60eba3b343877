"""Verification of a sweep: it names every file that is damaged or gone, in whatever of its directories."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from damage import flip, undo
from small_experiments import small, tree

from halo_ray.config import Config
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.storage import Storage
from halo_ray.sweep.directory import ENDED
from halo_ray.sweep.run import run_sweep
from halo_ray.sweep.space import SearchSpace
from halo_ray.sweep.status import write_stopped
from halo_ray.sweep.trials import SweepConfig
from halo_ray.verification.sweeps import verify_directory

OWN = ("halo_ray.json", "sweep.json", "base.yaml", "ended.json", "results.json", "results.csv")


@pytest.fixture(scope="session")
def swept(cluster: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A sweep of two seeds that has ended."""
    base = small(dataset, tmp_path_factory.mktemp("swept") / "sweep")
    training = replace(base.training, cache_features=True, augment=AugmentationConfig(color_jitter=0.0), control=False)
    base = replace(base, model=replace(base.model, frozen_backbone=True), training=training)
    run_sweep(base, space(base), SweepConfig())
    return base


def space(base: Config) -> SearchSpace:
    return SearchSpace.of(base, [], [], ["random"], 2)


@pytest.fixture
def copy(swept: Config, tmp_path: Path) -> Storage:
    shutil.copytree(swept.output_dir, tmp_path / "copy")
    return Storage(str(tmp_path / "copy"))


def names(storage: Storage) -> set[str]:
    """What is wrong."""
    return {each.place for each in verify_directory(storage.uri).wrong}


def test_nothing_is_wrong_with_a_sweep_that_has_ended(swept: Config, job: Callable[[str], ModuleType]) -> None:
    before = tree(swept.output_dir)
    findings = verify_directory(swept.output_dir)
    assert (findings.wrong, findings.notes) == ([], [])
    assert findings.checked["rounds"] == 4
    assert job("verify").main([swept.output_dir]) == 0
    assert tree(swept.output_dir) == before


def test_every_file_of_what_trials_share_is_named(copy: Storage) -> None:
    shared = set(copy.tree("shared"))
    markers = {name for name in shared if name.endswith("/stage.json")}
    assert {name.split("/")[1].rpartition("-")[0] for name in shared} >= {"inspection", "features", "pretrain"}
    damage_all(copy, shared - markers)
    assert names(copy) == shared - markers
    damage_all(copy, markers)
    assert names(copy) == markers
    delete_all(copy, markers)
    assert names(copy) == markers


def test_every_file_that_is_gone_from_what_trials_share_is_named(copy: Storage) -> None:
    files = {name for name in copy.tree("shared") if not name.endswith("/stage.json")}
    delete_all(copy, files)
    assert names(copy) == files


@pytest.mark.usefixtures("trials_verified_once")
@pytest.mark.parametrize("name", OWN)
def test_every_file_of_its_own_is_named(name: str, copy: Storage, job: Callable[[str], ModuleType]) -> None:
    flip(copy, name)
    assert names(copy) == {name}
    assert job("verify").main([copy.uri]) == 1
    copy.delete(name)
    assert names(copy) == {name}


def test_what_is_wrong_with_trials_is_named_from_the_sweep_on(copy: Storage) -> None:
    one, other = copy.directories("trials")
    flip(copy, f"trials/{one}/rounds/001/checkpoint/model.safetensors")
    copy.delete(f"trials/{other}/metrics.jsonl")
    flip(copy, f"trials/{other}/stages/pretrain.json")
    assert names(copy) == {
        f"trials/{one}/rounds/001/checkpoint/model.safetensors",
        f"trials/{other}/metrics.jsonl",
        f"trials/{other}/stages/pretrain.json",
    }


def test_trials_in_each_others_place_are_named(copy: Storage) -> None:
    one, other = (Path(copy.path(f"trials/{name}")) for name in copy.directories("trials"))
    one.rename(one.parent / "away")
    other.rename(one)
    (one.parent / "away").rename(other)
    assert {f"trials/{one.name}/config.yaml", f"trials/{other.name}/config.yaml"} <= names(copy)


def test_a_trial_that_is_gone_is_named(copy: Storage) -> None:
    one, _ = copy.directories("trials")
    copy.clear(f"trials/{one}")
    assert f"trials/{one}" in names(copy)


def test_the_marker_of_a_trials_end_is_missed(copy: Storage) -> None:
    """Without the sweep, a trial that has lost it is one that goes on."""
    one, _ = copy.directories("trials")
    copy.delete(f"trials/{one}/stages/report-2.json")
    assert names(copy) == {f"trials/{one}/stages/report-2.json"}


def test_what_says_that_a_trial_was_stopped_is_checked(copy: Storage) -> None:
    """In a sweep that is under way: nothing says yet how it has ended."""
    one, other = copy.directories("trials")
    copy.delete(ENDED)
    trial = copy.below(f"trials/{one}")
    for stage in ("report-2", *(f"rounds/002/{each}" for each in ("record", "evaluate", "train"))):
        trial.delete(f"stages/{stage}.json")
        undo(trial, stage)
    write_stopped(copy, one, 1)
    name = f"stopped/{one}.json"
    assert names(copy) == {ENDED}  # all trials are done
    assert "results.json" in {each.place for each in verify_directory(copy.uri).notes}  # which is behind them
    sound = copy.read(name)
    copy.write(f"stopped/{other}.json", sound)
    assert f"stopped/{other}.json" in names(copy)
    copy.delete(f"stopped/{other}.json")
    flip(copy, name)
    assert name in names(copy)


def test_a_sweep_that_has_just_begun_is_not_wrong(copy: Storage, tmp_path: Path) -> None:
    new = Storage(str(tmp_path / "new"))
    new.write("halo_ray.json", copy.read("halo_ray.json"))
    findings = verify_directory(new.uri)
    assert (findings.wrong, [each.place for each in findings.notes]) == ([], ["sweep.json"])


def damage_all(storage: Storage, files: Iterable[str]) -> None:
    for name in files:
        flip(storage, name)


def delete_all(storage: Storage, files: Iterable[str]) -> None:
    for name in files:
        storage.delete(name)
