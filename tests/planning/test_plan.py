"""The planner: its arithmetic against sums by hand, its measurements against a finished experiment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
from small_experiments import small_config

from halo_ray.acquisition.budget import RoundPlan
from halo_ray.config import Config, config_to_yaml
from halo_ray.context import Context
from halo_ray.data.inspection import Inspection
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS, Splits
from halo_ray.data.readers import SplitConfig
from halo_ray.errors import InputError
from halo_ray.execution import ExecutionConfig
from halo_ray.planning import measure as module
from halo_ray.planning.measure import Cost, Measured, fitted, measure, size_of
from halo_ray.planning.plan import Plan, plan_experiment, plan_text, reckon
from halo_ray.storage import Storage
from halo_ray.training.checkpoints import KEPT
from halo_ray.training.config import TrainingConfig
from halo_ray.training.stage import train


def _images(count: int) -> pa.Table:
    """A manifest of images whose sizes nobody knows."""
    rows = [{"image_id": f"{number}", "image_uri": f"{number}.png"} for number in range(count)]
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def found(rounds: int = 2) -> Measured:
    names = ("pretrain", "train", "score", "select", "annotate", "evaluate", "evaluate two")
    costs = {name: Cost(10.0 * place, 0.1 * place) for place, name in enumerate(names, start=1)}
    return Measured(
        images={"source": 100, "pool": 300, "validation": 50},
        rounds=[RoundPlan(40 + number, "1/100") for number in range(rounds)],
        pool_pixels=300 * 64 * 96,
        exact=False,
        costs={**costs, "start": Cost(7, 0), "inspect": Cost(0, 0.01)},
        checkpoint=1000,
        each={"candidates": 10, "maps": 2},
    )


def seconds(plan: Plan) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in plan.stages}


def test_stages_cost_their_start_and_their_steps_or_images_each_time(configure: Callable[[], Config]) -> None:
    config = configure()
    config = replace(config, training=replace(config.training, pretrain_steps=600, round_steps=(100, 50)))
    plan = reckon(config, found(), workers=0, gpu=False)
    expected = {
        "start": 7.0,
        "inspect": 450 * 0.01,
        "pretrain": 10 + 600 * 0.1,
        "train": 2 * 20 + 150 * 0.2,
        "control": 2 * 20 + 150 * 0.2 * 0.5,  # two source images of four
        "score": 2 * (30 + 300 * 0.3),
        "select": 2 * (40 + 300 * 0.4),
        "annotate": 2 * (50 + 300 * 0.5),
        "evaluate": (60 + 50 * 0.6) + 2 * (70 + 50 * 0.7),
    }
    assert seconds(plan) == pytest.approx(expected)
    assert plan.seconds == pytest.approx(sum(expected.values()))
    assert plan.gpu_hours == 0
    assert plan.storage == {"checkpoints": 1000 * (1 + 2 + 2 + KEPT), "candidates": 6000, "maps": 1200, "features": 0}


def test_gpus_are_counted_while_a_stage_holds_them(configure: Callable[[], Config]) -> None:
    config = replace(configure(), execution=ExecutionConfig(max_actors=8, images_per_actor=100))
    plan = reckon(config, found(), workers=4, gpu=True)
    held = {stage.name: stage.gpus for stage in plan.stages}
    assert held == {
        **dict.fromkeys(("pretrain", "train", "control"), 4),
        **dict.fromkeys(("start", "inspect", "select", "annotate"), 0),
        "score": 3,
        "evaluate": 1,
    }
    spent = seconds(plan)
    hours = 4 * (spent["pretrain"] + spent["train"] + spent["control"]) + 3 * spent["score"] + spent["evaluate"]
    assert plan.gpu_hours == pytest.approx(hours / 3600)


@pytest.mark.parametrize(
    ("protocol", "stages", "judged"),
    [("source_only", {"pretrain"}, 1), ("fully_supervised", {"pretrain", "train"}, 2)],
)
def test_protocols_that_buy_nothing(
    configure: Callable[[], Config], protocol: str, stages: set[str], judged: int
) -> None:
    config = replace(configure(), training=TrainingConfig(protocol=protocol, round_steps=(30, 20)))
    plan = reckon(config, found(rounds=0), workers=0, gpu=False)
    assert set(seconds(plan)) == {"start", "inspect", "evaluate", *stages}
    assert seconds(plan)["evaluate"] == pytest.approx(judged * (60 + 50 * 0.6))
    if "train" in stages:
        assert seconds(plan)["train"] == pytest.approx(20 + 50 * 0.2)
    assert plan.storage["checkpoints"] == 1000 * (judged + KEPT)


@pytest.fixture(scope="module")
def planned(
    cluster: None, dataset: Path, experiment: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Plan]:
    """The plan of the experiment that has been run."""
    config = replace(experiment, output_dir=str(tmp_path_factory.mktemp("plan") / "experiment"))
    config = replace(config, execution=replace(config.execution, save_maps="all"))
    return config, plan_experiment(config)


def test_it_buys_and_leaves_nothing(planned: tuple[Config, Plan]) -> None:
    assert list(Path(planned[0].output_dir).iterdir()) == []


def test_it_says_what_each_round_will_buy(planned: tuple[Config, Plan], experiment: Config) -> None:
    rounds = json.loads(Path(experiment.output_dir, "plan.json").read_text())["rounds"]
    assert planned[1].regions == [each["regions"] for each in rounds]
    text = plan_text(planned[1])
    for number, each in enumerate(rounds, start=1):
        assert f"round {number}: about {each['regions']} regions, {9 * each['regions']} pixels" in text


def test_it_knows_the_stages_and_the_storage_of_the_run(planned: tuple[Config, Plan], experiment: Config) -> None:
    plan, storage = planned[1], Storage(experiment.output_dir)
    ran = {name for line in storage.read("metrics.jsonl").splitlines() for name in json.loads(line)["seconds"]}
    assert {stage.name for stage in plan.stages} - {"start", "inspect"} == ran
    assert all(stage.seconds > 0 for stage in plan.stages)
    checkpoints = [size_of(storage, "pretrain/checkpoint")]
    for number in (1, 2):
        checkpoints += [size_of(storage, f"rounds/00{number}/{name}") for name in ("checkpoint", "control")]
    whole = sum(checkpoints) + KEPT * max(checkpoints)
    assert plan.storage["checkpoints"] == pytest.approx(whole, rel=0.05)
    candidates = sum(size_of(storage, f"rounds/00{number}/candidates") for number in (1, 2))
    assert candidates / 3 < plan.storage["candidates"] < candidates * 3
    maps = size_of(storage, "rounds/001/maps")  # of the images with picks, which are all
    assert plan.storage["maps"] == pytest.approx(2 * maps, rel=0.1)


def test_the_job_plans_or_says_what_to_mend(
    cluster: None,
    configure: Callable[[], Config],
    job: Callable[[str], ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configure()
    file = tmp_path / "config.yaml"
    file.write_text(config_to_yaml(config))
    less = "--acquisition.budget=1e-6"
    assert job("run_al").main([f"--config={file}", less, "--plan"]) == 2
    assert "acquisition.budget" in capsys.readouterr().err
    options = ["--training.protocol=source_only", "--training.pretrain_steps=1"]
    assert job("run_al").main([f"--config={file}", *options, "--plan"]) == 0
    said = capsys.readouterr().out
    assert "GPU-hours" in said
    assert "storage: " in said
    assert not Path(config.output_dir, "stages").exists()


def test_costs_are_fitted_to_a_few_and_to_more() -> None:
    for fixed, each in ((5.0, 0.25), (0.0, 2.0), (3.0, 0.0)):
        cost = fitted([(count, fixed + each * count) for count in (8, 48)])
        assert (cost.fixed, cost.each) == pytest.approx((fixed, each))
    assert fitted([(6, 3.0), (6, 2.4)]) == Cost(0, pytest.approx(0.4))
    assert fitted([(8, 3.0), (48, 2.0)]) == Cost(2.0, 0)  # more took less: nothing of it is each image's


def test_many_actors_are_timed_on_as_many_images_as_keep_them_busy(
    cluster: None, configure: Callable[[], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def inspect(splits: Splits, *rest: object) -> tuple[Splits, Inspection]:
        looked.append(splits.pool.num_rows)
        return splits, Inspection({}, None)

    monkeypatch.setattr(module, "inspect_splits", inspect)
    listed = Splits(**dict.fromkeys(SPLITS, _images(1000)))
    for execution, expected in (
        (ExecutionConfig(max_actors=0), 48),
        (ExecutionConfig(max_actors=2), 4 * 8 * 2),
        (ExecutionConfig(max_actors=16, images_per_actor=100, batch_images=4), 4 * 4 * 10),
    ):
        looked.clear()
        sample = module._sample(listed, execution)
        usable, _ = module._inspected(replace(configure(), execution=execution), sample)
        assert usable.pool.num_rows == expected
        assert looked == [expected // 6, expected // 6, expected]


def test_full_supervision_is_timed_on_the_steps_of_one_round(
    cluster: None, configure: Callable[[], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, steps = configure(), []

    def counted(context: Context, directory: str, **how: object) -> dict:
        training, rounds = context.config.training, context.config.acquisition.rounds
        steps.append(sum(training.steps_of_rounds(rounds)) if how.get("labels") else training.pretrain_steps)
        return train(context, directory, **how)

    monkeypatch.setattr(module, "train", counted)
    training = replace(config.training, protocol="fully_supervised", control=False)
    config = replace(config, training=training, acquisition=replace(config.acquisition, rounds=5))
    costs = measure(config, Cost(0, 0)).costs
    assert steps == [config.training.pretrain_steps, module.STEPS]
    assert costs["train"].each < 5 * costs["pretrain"].of(1)


def test_without_a_source_nothing_is_pretrained_on(cluster: None, configure: Callable[[], Config]) -> None:
    config = configure()
    training = replace(config.training, pretrain_steps=600, control=False)
    data = replace(config.data, source=SplitConfig(reader="none"))
    plan = plan_experiment(replace(config, data=data, training=training))
    assert 0 < seconds(plan)["pretrain"] < seconds(plan)["train"] + seconds(plan)["score"]


def test_unusable_images_of_the_sample_are_said(
    cluster: None,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IMAGES", 4)
    root = Path(shutil.copytree(dataset, tmp_path / "data"))
    for number in range(3):  # all that a sample of as many as are usable would hold
        (root / f"night/images/{number}.jpg").write_bytes(b"no image")
    config = small_config(root, tmp_path / "experiment")
    with pytest.raises(InputError, match=r"night/images/0\.jpg"):
        plan_experiment(config)
    skipping = replace(config, data=replace(config.data, on_bad_record="skip"))
    plan_experiment(skipping)
    assert "data.pool: 2 is skipped" in capsys.readouterr().out
    for path in (root / "night/images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"data\.pool has no usable record"):
        plan_experiment(skipping)
