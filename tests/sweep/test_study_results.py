"""What a study found: its tables, and the file from which it goes on."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from small_experiments import changed, entries, kept, small_config
from studies import FOUR, written

from halo_ray.annotations.ledger import Ledger
from halo_ray.config import Config, config_to_yaml
from halo_ray.data.classes import class_set
from halo_ray.errors import InputError
from halo_ray.results import read_metrics
from halo_ray.storage import Storage, sealed
from halo_ray.sweep import run as running
from halo_ray.sweep.directory import RESULTS
from halo_ray.sweep.study import Case, Study, read_study
from halo_ray.sweep.study_results import bought_text, study_text, table_text
from halo_ray.sweep.study_runs import recorded_runs
from halo_ray.sweep.trials import SweepConfig
from halo_ray.verification.sweeps import verify_directory

Again = tuple[Storage, Callable[[], object]]


def made_up(mious: dict[tuple[str, float], list[float]], study: Study) -> dict:
    """What results.json would hold of those mIoUs after the last round, seed by seed."""
    runs = [
        {"variant": variant, "budget": budget, "seed": seed, "miou": [0.1, miou]}
        for (variant, budget), values in mious.items()
        for seed, miou in enumerate(values)
        if not math.isnan(miou)
    ]
    return {"tables": [asdict(table) for table in study.tables], "runs": runs}


def test_a_table_holds_means_and_intervals_of_paired_differences(study: Study) -> None:
    random, best = np.random.default_rng(0).random((2, 3))
    mious = {("random", 0.01): [*random], ("best", 0.01): [*best], ("best", 0.02): [0.5, math.nan, 0.25]}
    text = table_text(made_up(mious, study), "main")

    def said(values: np.ndarray, sign: str = "") -> str:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        return f"{100 * np.mean(values):{sign}.1f} ± {50 * (high - low):.1f}"

    *_, head, _, first, second = text.splitlines()
    assert head.split() == ["variant", "1", "%", "2", "%"]
    assert first.split("  ")[0] == "random"
    assert said(random) in first
    assert first.endswith(" -")
    assert f"{said(best)} ({said(best - random, '+')})" in second
    assert text.splitlines()[0].endswith("; 4 of 12 trials are missing")
    assert second.endswith(said(np.array([0.5, 0.25])))  # nothing to compare it with


def test_seeds_beyond_those_of_a_table_do_not_count_in_it(study: Study) -> None:
    mious = {("best", 0.02): [0.5, 0.9, 0.9], ("flat", 0.02): [0.25]}
    line = table_text(made_up(mious, study), "changes").splitlines()
    assert line[-2].split() == ["best", "50.0"]
    assert line[-1].split() == ["flat", "25.0", "(-25.0)"]


@pytest.fixture(scope="module")
def ran(
    cluster: None, dataset: Path, job: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """The base of a study that was run from the command line."""
    directory = tmp_path_factory.mktemp("study")
    base = changed(small_config(dataset, directory / "out"), "training.control", False)
    (directory / "base.yaml").write_text(config_to_yaml(base))
    options = ["--config", str(directory / "base.yaml"), "--study", str(written(directory, FOUR))]
    assert job("sweep").main([*options, "--output_dir", base.output_dir]) == 0
    return base


def test_what_a_study_found_is_what_its_trials_recorded(ran: Config) -> None:
    storage = Storage(ran.output_dir)
    found = storage.read_json(RESULTS)
    assert {run["variant"] for run in found["runs"]} == set(FOUR["variants"])
    assert len(found["runs"]) == 7
    for each in found["runs"]:
        trial = Storage(ran.output_dir).below(f"trials/{Case(each['variant'], each['budget'], each['seed'], {}).name}")
        rows = read_metrics(trial)
        assert each["miou"] == pytest.approx([row["miou"] for row in rows], abs=1e-6)
        assert each["versions"] == rows[-1]["versions"]
        assert each["last"]["class_radius"] == pytest.approx(rows[-1]["class_radius"], abs=1e-6)
        rounds = 0 if each["variant"] in ("source", "full") else ran.acquisition.rounds
        labels = Ledger(trial).read(rounds + 1, ["label"], first=1)["label"].to_pylist()
        names = [*class_set(ran.data.class_set).classes]
        assert each["bought"] == {name: labels.count(number) for number, name in enumerate(names)} | {
            "void": labels.count(255)
        }
        assert each["pixels"] == (6 * 72 * 100 if each["variant"] == "full" else len(labels))
    assert storage.read("results.txt").decode() == study_text(found) + "\n"
    assert "fence" in bought_text(found)
    assert storage.read("study.png").startswith(b"\x89PNG")


def test_what_stands_in_the_results_is_not_run_again(
    ran: Config, job: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study grows from its results alone; a trial with other settings of the same name is another."""
    found = Storage(ran.output_dir).read_json(RESULTS)
    base = changed(ran, "output_dir", str(tmp_path / "grown"))
    storage = Storage(base.output_dir)
    storage.write(RESULTS, Storage(ran.output_dir).read(RESULTS))
    (tmp_path / "base.yaml").write_text(config_to_yaml(base))
    tree = json.loads(json.dumps(FOUR))
    tree["variants"]["full"]["training.losses.source"] = 2
    options = ["--config", str(tmp_path / "base.yaml"), "--study", str(written(tmp_path, tree))]
    options += ["--output_dir", base.output_dir]
    assert job("sweep").main(options) == 0
    assert f"6 of 7 trials stand in {RESULTS} already, with these settings" in capsys.readouterr().out
    now = storage.read_json(RESULTS)
    assert [run for run in now["runs"] if run["variant"] != "full"] == [
        run for run in found["runs"] if run["variant"] != "full"
    ]
    (full,) = (run for run in now["runs"] if run["variant"] == "full")
    assert now["other_runs"] == [run for run in found["runs"] if run["variant"] == "full"]
    assert full["settings"] not in {run["settings"] for run in found["runs"]}
    assert [path.name.partition("-")[0] for path in Path(base.output_dir, "trials").iterdir()] == ["full"]
    assert job("sweep").main(options) == 0  # nothing is left
    assert storage.read_json(RESULTS) == now

    written(tmp_path, FOUR)  # as it was: nothing is to be run again, and nothing is lost
    assert job("sweep").main(options) == 0
    again = storage.read_json(RESULTS)
    assert again["runs"] == found["runs"]
    assert again["other_runs"] == [full]

    tree["variants"]["full"]["training.losses.source"] = 3
    written(tmp_path, tree)
    assert job("sweep").main(options) == 2
    assert "trials/full-" in capsys.readouterr().err
    assert storage.read_json(RESULTS) == again


def test_results_are_found_wherever_the_weights_lie(ran: Config, tmp_path: Path) -> None:
    study = read_study(written(tmp_path, FOUR), ran)
    elsewhere = changed(ran, "model.backbone", f"/elsewhere/{ran.model.backbone}/")
    assert recorded_runs(elsewhere, study) == recorded_runs(ran, study) != {}
    assert recorded_runs(changed(ran, "model.backbone", "/elsewhere/mobilenet-v2"), study) == {}


RUN = {
    "variant": "best",
    "budget": 0.01,
    "seed": 0,
    "settings": "",
    "miou": [0.5],
    "pixels": 1,
    "images": 1,
    **{key: {} for key in ("bought", "first", "last", "seconds", "versions")},
}
HELD = {"base": {}, "variants": {}, "tables": [], "runs": [RUN], "other_runs": []}


def without(key: str) -> dict:
    return {name: value for name, value in HELD.items() if name != key}


@pytest.mark.parametrize(
    "data",
    [
        *(json.dumps(each).encode() for each in (HELD, {}, [], None, 3)),
        sealed({}),
        *(sealed(without(key)) for key in HELD),
        *(
            sealed({**HELD, "runs": runs})
            for runs in ([3], {}, None, [{}], [{**RUN, "miou": 3}], [{**RUN, "seed": "0"}])
        ),
        sealed(HELD)[:-20],
        sealed(HELD).replace(b"0.5", b"0.6"),
        b"[" * 100_000,
    ],
)
def test_results_of_something_else_are_named(data: bytes, base: Config, study: Study) -> None:
    storage = Storage(base.output_dir)
    storage.write(RESULTS, sealed(HELD))
    assert recorded_runs(base, study) == {}  # of another hash
    storage.write(RESULTS, data)
    with pytest.raises(InputError, match=re.escape(f"{storage.uri}/{RESULTS} is ")):
        recorded_runs(base, study)
    assert storage.read(RESULTS) == data


@pytest.fixture
def again(ran: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Again:
    """A copy of the study, and what runs it again; nothing of it is open, so Ray is not started."""
    shutil.copytree(ran.output_dir, tmp_path / "copy")
    base = changed(ran, "output_dir", str(tmp_path / "copy"))

    def never(*args: object) -> None:
        raise AssertionError("Ray is started")

    monkeypatch.setattr(running, "ray_session", never)
    study = read_study(written(tmp_path, FOUR), base)
    return Storage(base.output_dir), lambda: running.run_study(base, study, SweepConfig())


def test_a_study_that_has_ended_stays_as_it_is(again: Again) -> None:
    storage, run_again = again
    run_again()
    before = kept(storage.uri)
    for name in (RESULTS, "results.txt", "study.png", "ended.json", "base.yaml"):
        storage.delete(name)
        run_again()
        assert kept(storage.uri) == before
    storage.clear("trials")  # which its results make needless
    run_again()
    assert kept(storage.uri) == {name: digest for name, digest in before.items() if not name.startswith("trials/")}


def test_results_that_trials_do_not_give_again_are_missed(again: Again) -> None:
    storage, run_again = again
    sound = storage.read(RESULTS)
    other = storage.unsealed(RESULTS, sound)
    other["other_runs"] = [{**other["runs"][0], "settings": "of another study"}]
    storage.write(RESULTS, sealed(other))
    with pytest.raises(InputError, match=RESULTS):
        run_again()
    storage.delete(RESULTS)
    storage.clear(
        next(name for name in storage.directories("trials") if name.startswith("full-"))
        and "trials/" + next(name for name in storage.directories("trials") if name.startswith("full-"))
    )
    with pytest.raises(InputError, match=RESULTS):
        run_again()
    assert not storage.exists(RESULTS)
    storage.write(RESULTS, sound)
    run_again()
    assert storage.read(RESULTS) == sound


@pytest.mark.usefixtures("trials_verified_once")
def test_verification_names_each_file_of_a_study(again: Again) -> None:
    storage, _ = again
    findings = verify_directory(storage.uri)
    assert (findings.wrong, findings.notes) == ([], [])
    sound = {name: storage.read(name) for name in ("halo_ray.json", "sweep.json", "ended.json", "base.yaml", RESULTS)}
    sound["results.txt"] = storage.read("results.txt")
    for name, data in sound.items():
        for damaged in (data[: len(data) // 2], None):
            if damaged is None:
                storage.delete(name)
            else:
                storage.write(name, damaged)
            assert name in {each.place for each in verify_directory(storage.uri).wrong}
        storage.write(name, data)
    found = storage.read_sealed(RESULTS)
    found["runs"][0]["miou"][-1] += 0.01
    storage.write_sealed(RESULTS, found)
    assert [each.place for each in verify_directory(storage.uri).wrong].count(
        RESULTS
    ) == 2  # its digest, and the trial's record


def test_trials_share_one_pretrained_model(ran: Config) -> None:
    assert entries(Path(ran.output_dir, "shared"))["pretrain"] == 1
