"""Whole experiments under each training protocol and on stored features, and what training says of itself."""

from __future__ import annotations

import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from events import read_scalars

from halo_ray.checkpoint import load_model, load_optimizer_state
from halo_ray.config import Config
from halo_ray.context import finished_rounds, open_experiment
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.evaluation import evaluate
from halo_ray.experiment import run_experiment
from halo_ray.features import compute_features
from halo_ray.scoring import score_pool
from halo_ray.selection import select_regions
from halo_ray.stages import Stages
from halo_ray.storage import Storage
from halo_ray.training.losses import LossConfig
from halo_ray.training.schedules import Schedule
from halo_ray.training.stage import train

pytestmark = pytest.mark.usefixtures("cluster")

STILL = AugmentationConfig(color_jitter=0)


def changed(config: Config, **training: object) -> Config:
    return replace(config, training=replace(config.training, **training))


def learning_rates(config: Config, run: str) -> dict[int, float]:
    found = read_scalars(Path(config.output_dir, "tensorboard", run))
    return {step: value for step, name, value in found if name == "learning_rate"}


def optimizer_steps(config: Config, checkpoint: str) -> set[float]:
    state = load_optimizer_state(Storage(config.output_dir), checkpoint)
    return {float(each["step"]) for each in state["flat"]["state"].values()}


def test_source_only_pretrains_and_judges(configure: Callable[[], Config]) -> None:
    config = changed(configure(), protocol="source_only")
    (row,) = run_experiment(config)
    assert (row["round"], row["pixels"]) == (0, 0)
    assert finished_rounds(config) == 0
    assert run_experiment(config) == [row]


def test_source_free_needs_no_source_after_pretraining(
    configure: Callable[[], Config], dataset: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(dataset, root)
    config = changed(configure(), protocol="source_free", losses=LossConfig(negative=1.0))
    data = replace(config.data, class_set=str(root / "classes.yaml"))
    config = replace(config, data_root=str(root), data=data)
    with open_experiment(config) as context:
        Stages(context.storage).run("pretrain", train, context, "pretrain/checkpoint", start=None)
    for path in (root / "day").rglob("*.*g"):
        path.write_bytes(b"gone")
    rows = run_experiment(config)
    assert [row["control_miou"] for row in rows] == [None] * 3
    assert rows[2]["pixels"] > rows[1]["pixels"] > 0
    before, after = (
        load_model(Storage(config.output_dir), name).state_dict()
        for name in ("pretrain/checkpoint", rows[2]["checkpoint"])
    )
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_fully_supervised_trains_on_all_labels_for_the_steps_of_all_rounds(configure: Callable[[], Config]) -> None:
    config = changed(configure(), protocol="fully_supervised", round_steps=(2, 3))
    rows = run_experiment(config)
    assert [row["budget_spent"] for row in rows] == [0, 1]
    assert rows[1]["pixels"] == 6 * 72 * 100
    assert optimizer_steps(config, rows[1]["checkpoint"]) == {5}


def test_continue_is_one_schedule_and_one_optimizer_over_all_rounds(configure: Callable[[], Config]) -> None:
    config = changed(configure(), round_steps=(2, 3), schedule="cosine", warmup_steps=2)
    config = replace(config, execution=replace(config.execution, log_steps=1))
    run_experiment(config)
    schedule = Schedule("cosine", steps=5, warmup=2)
    expected = {step: config.training.round_learning_rate * schedule.factor(step) for step in range(5)}
    for run in ("rounds", "control"):
        assert learning_rates(config, run) == pytest.approx(expected, rel=1e-6)
    assert optimizer_steps(config, "rounds/001/checkpoint") == {2}
    assert optimizer_steps(config, "rounds/002/checkpoint") == {5}


def test_restart_begins_every_round_with_the_pretrained_network(configure: Callable[[], Config]) -> None:
    config = changed(configure(), between_rounds="restart", control=False)
    config = replace(config, execution=replace(config.execution, log_steps=1))
    run_experiment(config)
    schedule = Schedule("poly", steps=2, warmup=1, power=0.9)
    rate = config.training.round_learning_rate
    expected = {step: rate * schedule.factor(step % 2) for step in range(4)}
    assert learning_rates(config, "rounds") == pytest.approx(expected, rel=1e-6)
    assert optimizer_steps(config, "rounds/002/checkpoint") == {2}
    with open_experiment(config) as context:
        train(context, "again", start="pretrain/checkpoint", number=2, labels="bought")
    storage = Storage(config.output_dir)
    found, again = (load_model(storage, name).state_dict() for name in ("rounds/002/checkpoint", "again"))
    assert all(torch.equal(found[key], again[key]) for key in found)


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
def test_stored_features_give_the_same_picks_quality_and_losses(
    configure: Callable[[], Config], geometry: str, tmp_path: Path
) -> None:
    config = configure()
    config = replace(config, model=replace(config.model, frozen_backbone=True, geometry=geometry))
    config = changed(config, augment=STILL, pretrain_steps=1, precision="float32")
    found = {}
    for name, cached in (("images", False), ("features", True)):
        own = replace(changed(config, cache_features=cached), output_dir=str(tmp_path / name))
        with open_experiment(own) as context:
            if cached:
                Stages(context.storage).run("features", compute_features, context)
                shutil.copytree(tmp_path / "images/first", tmp_path / "features/first")
            loss = train(context, "trained" if cached else "first", start=None)["loss"]
            quality = evaluate(context, "", "first")
            scored = score_pool(context, 1, "first")
            select_regions(context, 1, **scored)
        found[name] = (loss, quality, (tmp_path / name / "rounds/001/selection.json").read_bytes())
    assert found["features"][1:] == found["images"][1:]
    # Features are computed image by image, and not in batches: the last bits differ.
    assert found["features"][0] == pytest.approx(found["images"][0], rel=1e-5)
    one, other = (
        load_model(Storage(str(tmp_path)), name).state_dict() for name in ("images/first", "features/trained")
    )
    assert max(float((one[key].double() - other[key].double()).abs().max()) for key in one) < 1e-3


def test_an_experiment_on_stored_features_ends_as_it_should(configure: Callable[[], Config]) -> None:
    config = replace(configure(), model=replace(configure().model, frozen_backbone=True))
    config = changed(config, augment=STILL, cache_features=True)
    rows = run_experiment(config)
    assert [row["round"] for row in rows] == [0, 1, 2]
    files = [path for path in Path(config.output_dir, "features").rglob("*") if path.is_file()]
    assert len(files) == 2 * 3 * 6


def test_stored_features_need_a_frozen_backbone(configure: Callable[[], Config]) -> None:
    with pytest.raises(InputError, match=r"training\.cache_features .* model\.frozen_backbone"):
        changed(configure(), augment=STILL, cache_features=True)


def test_training_tells_tensorboard_and_the_metrics_endpoint(configure: Callable[[], Config]) -> None:
    config = configure()
    with open_experiment(config) as context:
        found = train(context, "pretrain/checkpoint", start=None)
        port = ray.nodes()[0]["MetricsExportPort"]
        wanted = {
            "ray_halo_ray_loss": found["loss"],
            "ray_halo_ray_learning_rate": None,
            "ray_halo_ray_samples_per_second": None,
            "ray_halo_ray_radius_mean": None,
            "ray_halo_ray_radius_at_rim": None,
            'ray_halo_ray_radius_of_class{.*class="road"': None,
        }
        deadline, missing = time.monotonic() + 90, wanted
        while missing and time.monotonic() < deadline:
            time.sleep(1)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                lines = [line for line in answer.read().decode().splitlines() if config.output_dir in line]
            missing = [name for name in wanted if not any(re.match(name, line) for line in lines)]
        assert not missing, lines[:20]
    (loss,) = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("ray_halo_ray_loss{")]
    assert loss == pytest.approx(found["loss"], rel=1e-6)
    names = {name for _, name, _ in read_scalars(Path(config.output_dir, "tensorboard/pretrain"))}
    assert {"loss", "loss/source", "learning_rate", "gradient_norm", "radius_mean", "radius_at_rim"} <= names


def test_an_embedding_at_the_rim_is_warned_of_before_labels_are_spent(
    configure: Callable[[], Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = changed(configure(), pretrain_steps=0)
    config = replace(config, execution=replace(config.execution, warn_share=0.0))
    with open_experiment(config) as context:
        train(context, "pretrain/checkpoint", start=None)
        storage, model = context.storage, load_model(context.storage, "pretrain/checkpoint")
        # Longer vectors than the ball has room for: every point is at its rim.
        with torch.no_grad():
            model.decoder.embed.weight.mul_(1e4)
        from safetensors.torch import save

        storage.write("pretrain/checkpoint/model.safetensors", save(model.state_dict()))
        storage.delete("pretrain/checkpoint/training.json")  # which knows its digest
        audit = score_pool(context, 1, "pretrain/checkpoint")["audit"]["halo"]
    assert audit["at_rim"] > 0.95
    share = round(100 * audit["at_rim"])
    assert f"round 1: {share} % of the embedding lies at the rim of the ball" in capsys.readouterr().out
