"""Studies: which trials a file asks for, what they set, and what their tables say."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from made_trials import begun
from small_experiments import changed
from studies import FOUR, TREE, written

from halo_ray.config import Config, identity
from halo_ray.errors import InputError
from halo_ray.sweep.space import configure
from halo_ray.sweep.study import Case, Study, read_study
from halo_ray.sweep.variants import typed_settings, with_settings


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
        (lambda tree: tree["tables"]["main"].update(reference="flat"), "table main: the reference 'flat' is not among"),
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


def test_a_pipe_in_the_place_of_a_study_is_named_and_not_waited_for(tmp_path: Path, base: Config) -> None:
    os.mkfifo(tmp_path / "study.yaml")
    with pytest.raises(InputError, match=r"study\.yaml .* a pipe"):
        read_study(tmp_path / "study.yaml", base)


def test_a_study_may_grow_but_its_base_stays(study: Study, base: Config) -> None:
    begun(base, study, "study")
    begun(changed(base, "acquisition.budget", 0.03), Study({"x": {}}, study.tables[:1]), "study")
    with pytest.raises(InputError, match=r"model\.embedding \(there 64\)"):
        begun(changed(base, "model.embedding", 32), study, "study")


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
