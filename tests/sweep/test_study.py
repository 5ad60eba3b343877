"""Studies: which trials a file asks for, what they set, and what their tables say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from scipy import stats
from small_experiments import changed, entries, small_config

from halo_ray.annotations.ledger import Ledger
from halo_ray.config import Config, config_to_yaml, identity
from halo_ray.data.classes import class_set
from halo_ray.errors import InputError
from halo_ray.results import read_metrics
from halo_ray.storage import Storage
from halo_ray.sweep.space import configure, open_sweep
from halo_ray.sweep.study import Case, Study, read_study
from halo_ray.sweep.study_results import RESULTS, bought_text, recorded_runs, study_text, table_text
from halo_ray.sweep.variants import typed_settings, with_settings

TREE = {
    "variants": {
        "random": {"acquisition.function": "random"},
        "best": {"acquisition.beta": math.inf},
        "flat": {"model.geometry": "euclidean", "training.losses.negative": 1},
        "ends": {"training.protocol": "source_only"},
    },
    "tables": {
        "main": {"variants": ["random", "best"], "budget": [0.01, 0.02], "seeds": 3, "reference": "random"},
        "ends": {"variants": ["ends"], "seeds": 2, "reference": "ends"},
        "changes": {"variants": ["best", "flat"], "budget": [0.02], "seeds": 1, "reference": "best"},
    },
}


@pytest.fixture
def base(tmp_path: Path) -> Config:
    return Config(output_dir=str(tmp_path / "study"))


def written(tmp_path: Path, tree: object) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


@pytest.fixture
def study(tmp_path: Path, base: Config) -> Study:
    return read_study(written(tmp_path, TREE), base)


def test_every_trial_of_every_table_is_there_once(study: Study) -> None:
    wanted = {(v, b, s) for v in ("random", "best") for b in (0.01, 0.02) for s in range(3)}
    wanted |= {("ends", Config().acquisition.budget, s) for s in range(2)} | {("flat", 0.02, 0)}
    cases = study.points()
    assert {(case.variant, case.budget, case.seed) for case in cases} == wanted
    assert len(cases) == len(wanted) == len({case.name for case in cases})
    assert [case.seed for case in cases] == sorted(case.seed for case in cases)


def test_a_trial_sets_what_its_variant_says_and_nothing_else(study: Study, base: Config) -> None:
    base = changed(changed(base, "data_root", "s3://key:secret@bucket/x"), "execution.max_actors", 3)
    (case,) = (case for case in study.points() if case.variant == "flat")
    config = configure(base, case)
    before, after = identity(base), identity(config)
    told = {"acquisition.budget": 0.02, "model.geometry": "euclidean", "training.losses.negative": 1.0}
    assert {key: after[key] for key in after if after[key] != before[key]} == told
    assert type(after["training.losses.negative"]) is float  # as it would be read from a file
    assert (config.data_root, config.execution.max_actors) == (base.data_root, 3)


def test_settings_of_one_section_are_set_together() -> None:
    """Either alone would contradict the base."""
    base = changed(Config(), "training.control", False)
    told = {"acquisition.scope": "image", "acquisition.normalize": "minmax", "training.round_steps": [3, 2, 1]}
    config = with_settings(base, typed_settings(base, told, "variant x"))
    assert (config.acquisition.scope, config.acquisition.normalize) == ("image", "minmax")
    assert config.training.steps_of_rounds(3) == [3, 2, 1]


def test_a_pretrained_model_is_prepared_once_for_all_that_begin_with_it(study: Study, base: Config) -> None:
    leaders = [leader for leader, _ in study.leaders(base)]
    assert {(case.seed, case.variant == "flat") for case in leaders} == {(0, False), (1, False), (2, False), (0, True)}
    assert {case.budget for case in leaders} == {0.02}
    assert len(leaders) == 4


def test_functions_that_one_pass_can_serve_are_scored_with_the_leader(tmp_path: Path, base: Config) -> None:
    functions = ("halo", "entropy", "random")
    tree = {
        "variants": {name: {"acquisition.function": name} for name in functions}
        | {"top": {"acquisition.beta": math.inf}},
        "tables": {"main": {"variants": ["top", *functions], "seeds": 1, "reference": "random"}},
    }
    study = read_study(written(tmp_path, tree), base)
    ((leader, others),) = study.leaders(base)
    assert {leader.variant, *others} == set(functions)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tree: tree.pop("tables"), "must hold variants and tables"),
        (lambda tree: tree.update(table={}), "must hold variants and tables"),
        (lambda tree: tree["variants"].update(best=3), "variant best must hold settings"),
        (
            lambda tree: tree["variants"]["best"].update({"acquisition.bta": 1}),
            r"best: acquisition\.bta.*'acquisition\.beta'",
        ),
        (lambda tree: tree["variants"]["best"].update({"execution.device": "cpu"}), r"best: execution\.device"),
        (lambda tree: tree["variants"]["best"].update({"acquisition.beta": "much"}), r"best: .*acquisition\.beta"),
        (lambda tree: tree["variants"]["best"].update({"acquisition.beta": -1}), r"best: .*acquisition\.beta is -1"),
        (lambda tree: tree["tables"]["main"].pop("seeds"), "table main must hold"),
        (lambda tree: tree["tables"]["main"].update(seed=3), "table main must hold"),
        (lambda tree: tree["tables"]["main"].update(variants=[]), "table main: variants and budget"),
        (lambda tree: tree["tables"]["main"].update(variants=["rnadom"]), "table main: .*'rnadom'.*'random'"),
        (lambda tree: tree["tables"]["main"].update(variants=["best", "best"]), "table main: .*best stands twice"),
        (lambda tree: tree["tables"]["main"].update(reference="none"), "table main: .*'none'"),
        (lambda tree: tree["tables"]["main"].update(seeds=0), "table main: seeds is 0"),
        (lambda tree: tree["tables"]["main"].update(seeds="all"), "table main: seeds is 'all'"),
        (lambda tree: tree["tables"]["main"].update(budget=["much"]), "table main: budget"),
        (lambda tree: tree["tables"]["main"].update(budget=[2.0]), r"acquisition\.budget is 2"),
    ],
)
def test_what_a_file_has_wrong_is_named(
    change: Callable[[dict], object], named: str, tmp_path: Path, base: Config
) -> None:
    tree = json.loads(json.dumps(TREE))
    change(tree)
    with pytest.raises(InputError, match=rf"study\.yaml.*{named}"):
        read_study(written(tmp_path, tree), base)


@pytest.mark.parametrize("content", [b"variants: [", b"\xff", b"- 1", b""])
def test_a_file_that_is_no_study_is_named(content: bytes, tmp_path: Path, base: Config) -> None:
    file = tmp_path / "study.yaml"
    with pytest.raises(InputError, match=r"study\.yaml cannot be read"):
        read_study(file, base)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"study\.yaml (is no YAML|must hold)"):
        read_study(file, base)


def test_a_study_may_grow_but_its_base_stays(study: Study, base: Config) -> None:
    open_sweep(base, study)
    open_sweep(changed(base, "acquisition.budget", 0.03), Study({"x": {}}, study.tables[:1]))
    with pytest.raises(InputError, match=r"model\.embedding \(there 64\)"):
        open_sweep(changed(base, "model.embedding", 32), study)


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


# A whole one.

FOUR = {
    "variants": {
        "halo": {},
        "random": {"acquisition.function": "random"},
        "radius in images": {"acquisition.function": "radius", "acquisition.scope": "image"},
        "source": {"training.protocol": "source_only"},
        "full": {"training.protocol": "fully_supervised"},
    },
    "tables": {
        "main": {"variants": ["random", "halo"], "budget": [0.02, 0.04], "seeds": 1, "reference": "random"},
        "others": {"variants": ["radius in images", "source", "full"], "seeds": 1, "reference": "source"},
    },
}


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
    assert f"6 of 7 trials stand in {RESULTS} already" in capsys.readouterr().out
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
    Path(base.output_dir, "trials").rename(tmp_path / "trials")
    assert job("sweep").main(options) == 0
    again = storage.read_json(RESULTS)
    assert again["runs"] == found["runs"]
    assert again["other_runs"] == [full]


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


def test_a_study_is_of_its_preset_unless_the_options_say_what_to_try(
    job: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sweep, tried = job("sweep"), []
    (tmp_path / "studies").mkdir()
    for name in ("mine", "plain"):
        (tmp_path / f"{name}.yaml").write_text("model: {embedding: 8}\n")
    (tmp_path / "studies/mine.yaml").write_text(yaml.safe_dump(FOUR))
    monkeypatch.setattr(sweep, "PRESETS", tmp_path)
    monkeypatch.setattr(sweep, "run_sweep", lambda base, space, how: tried.append("space") or [])
    monkeypatch.setattr(
        sweep, "run_study", lambda base, study, how: tried.append("study") or {"tables": [], "runs": []}
    )
    for options in (["mine"], ["plain"], ["mine", "--seeds", "2"]):
        assert sweep.main(["--preset", *options]) == 0
    assert sweep.main(["--preset=mine"]) == 0
    assert tried == ["study", "space", "space", "study"]


def test_the_study_of_a_preset_knows_no_scheduler_either(
    job: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--preset", "evidence_camvid", "--output_dir", str(tmp_path / "out"), "--scheduler", "asha"]
    assert job("sweep").main(options) == 2
    assert "--scheduler too" in capsys.readouterr().err


def test_a_name_leads_nowhere_else(base: Config) -> None:
    directory = Path(configure(base, Case("../../x/y", 0.01, 0, {})).output_dir)
    assert directory.parent == Path(base.output_dir, "trials")


@pytest.mark.parametrize("more", [["--seeds", "2"], ["--acquisition", "halo"], ["--scheduler", "asha"]])
def test_a_study_and_options_that_say_what_to_try_contradict(
    more: list[str], job: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--preset", "tiny", "--study", str(written(tmp_path, FOUR)), *more]
    assert job("sweep").main(options) == 2
    assert f"and {more[0]} too" in capsys.readouterr().err
