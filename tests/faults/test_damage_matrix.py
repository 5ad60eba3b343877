"""Every file of what has ended in every state of damage: verify names it, a resume refuses or changes nothing.

What was found is kept below HALO_RAY_MATRIX (default: the system's temporary directory), so that a run that was
interrupted goes on; cells of other code are run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from annotator import answer
from damage_matrix import DAMAGES, damaged, files, is_named, put
from small_experiments import small_config
from studies import written

from halo_ray.annotations.config import AnnotationConfig
from halo_ray.annotations.desk import Desk
from halo_ray.config import Config
from halo_ray.context import finished_rounds
from halo_ray.data.classes import class_set
from halo_ray.errors import AnswersNeededError, InputError
from halo_ray.experiment import run_experiment
from halo_ray.storage import Storage
from halo_ray.sweep.run import run_study, run_sweep
from halo_ray.sweep.space import SearchSpace
from halo_ray.sweep.study import read_study
from halo_ray.sweep.trials import SweepConfig
from halo_ray.verification.sweeps import verify_directory

ROOT = Path(__file__).parents[2]

TIMED = "seconds", "sha256"
"""Keys of a marker that differ from run to run."""

LAST = re.compile(r"(^|/)stages/report-\d+\.json$")
"""The marker after which nothing comes."""

STUDY = {
    "variants": {"halo": {}, "random": {"acquisition.function": "random"}},
    "tables": {"main": {"variants": ["halo", "random"], "seeds": 1, "reference": "random"}},
}


@dataclass(frozen=True)
class Kind:
    """What is damaged."""

    config: Config
    command: Callable[[Config], object]
    """What the user types to begin it, and to go on."""
    first: Callable[[Config], object] | None = None
    """The same with what people do meanwhile."""


def experiment(config: Config) -> None:
    if finished_rounds(config) is None:
        run_experiment(config)


def sweep(config: Config) -> None:
    run_sweep(config, SearchSpace.of(config, [], [], ["halo"], 1), SweepConfig())


def study(config: Config) -> None:
    directory = Path(config.output_dir).parent
    run_study(config, read_study(written(directory, STUDY), config), SweepConfig())


def asked(config: Config, labels: Path) -> None:
    """Runs, fills in most templates and a list, and answers the rest on the page, until nothing more is asked."""
    classes = class_set(config.data.class_set)
    while True:
        try:
            run_experiment(config)
            return
        except AnswersNeededError:
            folders = sorted(Path(config.output_dir).glob("requests/round-*"))
        left = answer(folders[-1], labels, left_out=0.3, wrong=0)["left out"]
        desk = Desk(Storage(config.output_dir), len(folders), classes)
        for region_id in left:
            desk.answer("me", region_id, classes.classes[0])


def kinds(dataset: Path, root: Path) -> dict[str, Kind]:
    plain = small_config(dataset, root / "run")
    plain = replace(plain, execution=replace(plain.execution, save_maps="picked", compare_functions=("entropy",)))
    frozen = replace(plain.model, frozen_backbone=True)
    augment = replace(plain.training.augment, color_jitter=0)
    cached = replace(plain.training, cache_features=True, augment=augment, control=False)
    short = replace(
        plain,
        acquisition=replace(plain.acquisition, rounds=1),
        training=replace(plain.training, control=False),
        execution=replace(plain.execution, save_maps="none", compare_functions=()),
    )
    people = replace(short, acquisition=plain.acquisition, annotation=AnnotationConfig(oracle="files"))
    return {
        "plain": Kind(plain, experiment),
        "features": Kind(replace(plain, model=frozen, training=cached), experiment),
        "people": Kind(people, experiment, lambda config: asked(config, dataset / "night/labels")),
        "sweep": Kind(replace(short, model=frozen, training=cached), sweep),
        "study": Kind(short, study),
    }


def content(directory: Path) -> dict[str, Any]:
    """All files that are not exempt, timings left out."""
    found: dict[str, Any] = {}
    for name in files(directory):
        data = (directory / name).read_bytes()
        found[name] = hashlib.sha256(data).hexdigest()
        told = None
        with suppress(ValueError):  # it is still damaged
            told = json.loads(data) if name.endswith(".json") else None
        if isinstance(told, dict) and "seconds" in told:
            found[name] = {key: value for key, value in told.items() if key not in TIMED}
    return found


def code() -> str:
    """Names the code that is tested."""
    every = sorted((ROOT / "halo_ray").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in every)).hexdigest()[:16]


def resumed(kind: Kind) -> str:
    """What the same command does: "refused", or "went on"."""
    try:
        kind.command(kind.config)
    except InputError:
        return "refused"
    return "went on"


def run_cell(kind: Kind, whole: Path, twin: Path, name: str, damage: str, expected: dict[str, Any]) -> str:
    """Empty if all is well; else what is not."""
    data = damaged(damage, name, whole, twin)
    if data == (whole / name).read_bytes():
        return ""
    copy = Path(kind.config.output_dir)
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    put(data, copy / name)
    wrong = []
    findings = verify_directory(str(copy))
    # An experiment without its last marker has not ended yet, which is no fault.
    places = {found.place for found in (*findings.wrong, *(note for note in findings.notes if LAST.search(note.place)))}
    if not is_named(name, places):
        wrong.append(f"verify names {sorted(places)}")
    if resumed(kind) == "went on" and (now := content(copy)) != expected:
        differ = sorted(name for name in {*now, *expected} if now.get(name) != expected.get(name))
        wrong.append(f"the resume ends with other {', '.join(differ)}")
    return "; ".join(wrong)


@pytest.mark.faults
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("name", ["plain", "features", "people", "sweep", "study"])
def test_every_file_in_every_damage(
    name: str, cluster: None, built_once: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("matrix")
    kind = kinds(dataset, root)[name]
    begin = kind.first or kind.command
    # Damaged copies lie where the whole one was made: its configuration says where that is.
    begin(kind.config)
    whole = Path(kind.config.output_dir).rename(root / "whole")
    twin = root / "twin"
    if name in ("plain", "features", "people"):
        begin(replace(kind.config, seed=1, output_dir=str(twin)))
    expected = content(whole)
    kept = Path(os.environ.get("HALO_RAY_MATRIX", tempfile.gettempdir())) / f"damage-{name}-{code()}.jsonl"
    done = {tuple(row[:2]): row[2] for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    with kept.open("a") as file:
        for cell in ((file_name, damage) for file_name in files(whole) for damage in DAMAGES):
            if cell not in done:
                done[cell] = run_cell(kind, whole, twin, *cell, expected)
                file.write(json.dumps([*cell, done[cell]]) + "\n")
                file.flush()
    print(f"{name}: {len(done)} cells")
    assert {cell: what for cell, what in done.items() if what} == {}
