"""Experiments whose labels come from people: what they are asked, when a run goes on, and what it buys."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from annotator import answer
from small_experiments import changed

from halo_ray.annotations.config import AnnotationConfig
from halo_ray.annotations.ledger import Ledger
from halo_ray.config import Config
from halo_ray.context import finished_rounds
from halo_ray.errors import AnswersNeededError, InputError
from halo_ray.experiment import run_experiment
from halo_ray.job import exit_code
from halo_ray.planning.plan import plan_experiment
from halo_ray.storage import Storage
from halo_ray.verification.verify import verify_experiment

FILES = AnnotationConfig(oracle="files")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What all experiments here have in common is computed once."""
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture
def config(cluster: None, experiment: Config, store: str, tmp_path: Path) -> Config:
    """The finished experiment again, with people instead of label files, and a pool without labels."""
    config = changed(replace(experiment, output_dir=str(tmp_path / "run")), "data.pool.labels", None)
    execution = replace(config.execution, max_actors=0, save_maps="none", compare_functions=(), shared_stages=store)
    return replace(config, annotation=FILES, execution=execution)


def waits(config: Config) -> str:
    with pytest.raises(AnswersNeededError) as error:
        run_experiment(config)
    return str(error.value)


def folder(config: Config, number: int) -> Path:
    return Path(config.output_dir) / f"requests/round-{number:03d}"


def ledger(config: Config) -> pa.Table:
    return Ledger(Storage(config.output_dir)).read(config.rounds + 1)


def pixels(table: pa.Table) -> dict[tuple[str, int, int, int], int]:
    """The label of each pixel that was bought, by round, image and place."""
    keys = (table[name].to_pylist() for name in ("round", "image_id", "y", "x"))
    return dict(zip(zip(*keys, strict=True), table["label"].to_pylist(), strict=True))


def test_people_who_answer_all_buy_what_label_files_do(config: Config, experiment: Config, dataset: Path) -> None:
    labels = dataset / "night/labels"
    for number in (1, 2):
        said = waits(config)
        assert f"round {number} asks for" in said
        assert f"{folder(config, number)}/README.md" in said
        assert answer(folder(config, number), labels)["filled"]
    run_experiment(config)
    assert finished_rounds(config) == 2
    bought, truth = ledger(config), ledger(experiment)
    assert set(bought["oracle"].to_pylist()) == {"files"}
    assert bought.drop_columns("oracle").equals(truth.drop_columns("oracle"))
    assert verify_experiment(config.output_dir).wrong == []


def test_some_answers_are_enough_and_the_rest_is_told(
    config: Config, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, annotation=replace(FILES, accept_share=0.85))
    waits(config)
    before = shutil.copytree(folder(config, 1), folder(config, 1).with_name("before"))
    done = answer(folder(config, 1), dataset / "night/labels", 0.3, 0.1)
    total = sum(map(len, done.values()))
    missing = len(done["left out"]) + len(done["mistyped"])
    capsys.readouterr()
    said = waits(config)
    assert f"round 1: {total - missing} of {total} regions are answered, annotation.accept_share asks for 85 %" in said
    assert "is none of round 1" in capsys.readouterr().out
    received = json.loads((folder(config, 1) / "received.json").read_text())
    assert received["asked"] == total
    assert set(received["not_answered"]) == {*done["left out"], *done["mistyped"]}
    assert len(received["problems"]) == len(done["mistyped"])
    assert Ledger(Storage(config.output_dir)).committed(1) is False

    shutil.rmtree(folder(config, 1))
    before.rename(folder(config, 1))
    done = answer(folder(config, 1), dataset / "night/labels", 0.1, 0.05)
    assert "round 2 asks for" in waits(config)
    bought = Ledger(Storage(config.output_dir)).asked_regions(2, first=1)
    requests = [json.loads(line) for line in (folder(config, 1) / "requests.jsonl").read_text().splitlines()]
    expected = {
        (each["image"], each["y"], each["x"]) for each in requests if each["id"] in {*done["filled"], *done["told"]}
    }
    rows = [(row["image_id"], row["y"], row["x"]) for row in bought.to_pylist()]
    assert {(name, y, x) for name, ys, xs in rows for y, x in zip(ys, xs, strict=True)} == expected
    # What has no answer may be asked again, what has one is not.
    again = [json.loads(line) for line in (folder(config, 2) / "requests.jsonl").read_text().splitlines()]
    assert not expected & {(each["image"], each["y"], each["x"]) for each in again}

    answer(folder(config, 2), dataset / "night/labels")
    run_experiment(config)
    found = verify_experiment(config.output_dir)
    assert found.wrong == []


def test_what_nobody_can_tell_is_bought_ignored_and_not_asked_again(config: Config, dataset: Path) -> None:
    waits(config)
    lines = [json.loads(line) for line in (folder(config, 1) / "requests.jsonl").read_text().splitlines()]
    (folder(config, 1) / "answers/all.jsonl").write_text(
        "".join(json.dumps({"id": line["id"], "label": "can't tell"}) + "\n" for line in lines)
    )
    waits(config)
    assert set(pixels(Ledger(Storage(config.output_dir)).read(2, first=1)).values()) == {255}
    again = [json.loads(line) for line in (folder(config, 2) / "requests.jsonl").read_text().splitlines()]
    mine, others = ({(line["image"], line["y"], line["x"]) for line in each} for each in (lines, again))
    assert not mine & others


def test_the_job_ends_with_3(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: run_experiment(config)) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("waiting: round 1 asks for ")
    assert said.endswith("says, then run the same command again")


def test_an_oracle_of_ones_own_that_has_half_is_waited_for(config: Config) -> None:
    config = replace(config, annotation=AnnotationConfig(oracle="own_oracles.half_of_the_pool"))
    said = waits(config)
    assert "see what own_oracles.half_of_the_pool waits for, then run the same command again" in said
    config = replace(config, annotation=replace(config.annotation, accept_share=0.1))
    run_experiment(config)
    assert {int(name) % 2 for name in ledger(config)["image_id"].to_pylist()} == {0}
    assert verify_experiment(config.output_dir).wrong == []


def test_the_oracle_is_part_of_what_an_experiment_is(config: Config) -> None:
    waits(config)
    with pytest.raises(InputError, match=r"holds another experiment, with other annotation\.oracle"):
        run_experiment(replace(config, annotation=AnnotationConfig(oracle="own_oracles.columns")))


def test_label_files_are_missed_where_the_oracle_looks_into_them(config: Config) -> None:
    with pytest.raises(InputError, match=r"data\.pool: .* or let people label the pool with annotation\.oracle files"):
        run_experiment(replace(config, annotation=AnnotationConfig()))


def test_a_plan_asks_nobody(config: Config) -> None:
    plan = plan_experiment(replace(config, annotation=AnnotationConfig(oracle="own_oracles.broken")))
    assert plan.regions
    assert not Path(config.output_dir).exists() or not list(Path(config.output_dir).iterdir())
