"""What a study found: its tables, and the file from which it goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from small_experiments import changed, entries, small_config
from studies import FOUR, written

from halo_ray.annotations.ledger import Ledger
from halo_ray.config import Config, config_to_yaml
from halo_ray.data.classes import class_set
from halo_ray.errors import InputError
from halo_ray.results import read_metrics
from halo_ray.storage import Storage
from halo_ray.sweep.study import Case, Study, read_study
from halo_ray.sweep.study_results import RESULTS, bought_text, recorded_runs, study_text, table_text


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
    for run in found["runs"]:
        trial = Storage(ran.output_dir).below(f"trials/{Case(run['variant'], run['budget'], run['seed'], {}).name}")
        rows = read_metrics(trial)
        assert run["miou"] == pytest.approx([row["miou"] for row in rows], abs=1e-6)
        assert run["versions"] == rows[-1]["versions"]
        assert run["last"]["class_radius"] == pytest.approx(rows[-1]["class_radius"], abs=1e-6)
        rounds = 0 if run["variant"] in ("source", "full") else ran.acquisition.rounds
        labels = Ledger(trial).read(rounds + 1, ["label"], first=1)["label"].to_pylist()
        names = [*class_set(ran.data.class_set).classes]
        assert run["bought"] == {name: labels.count(number) for number, name in enumerate(names)} | {
            "void": labels.count(255)
        }
        assert run["pixels"] == (6 * 72 * 100 if run["variant"] == "full" else len(labels))
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
    storage.write_json(RESULTS, found)
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


def test_a_sweep_writes_over_no_study(
    job: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(str(tmp_path / "out"))
    storage.write_json(RESULTS, {"runs": []})
    assert job("sweep").main(["--preset", "tiny", "--seeds", "1", "--output_dir", storage.uri]) == 2
    assert "is that of a study" in capsys.readouterr().err
    assert storage.read_json(RESULTS) == {"runs": []}


@pytest.mark.parametrize(
    "held",
    [{"runs": [3]}, {"runs": {}, "other_runs": 3}, {}, [], {"runs": [{"variant": "best", "budget": 0.01, "seed": 0}]}],
)
def test_results_of_something_else_are_named(held: object, base: Config, study: Study) -> None:
    Storage(base.output_dir).write_json(RESULTS, held)
    with pytest.raises(InputError, match=r"results\.json is not that of a study"):
        recorded_runs(base, study)


def test_trials_share_one_pretrained_model(ran: Config) -> None:
    assert entries(Path(ran.output_dir, "shared"))["pretrain"] == 1
