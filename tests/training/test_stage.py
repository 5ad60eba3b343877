"""A training stage on Ray Train: what its workers share, what the labels change, and what it survives."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray
import torch
from ray.util.state import list_actors

from halo_ray.attempts import attempted
from halo_ray.checkpoint import load_model
from halo_ray.config import Config
from halo_ray.context import open_experiment
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.models.segmenter import Segmenter
from halo_ray.runtime import input_error
from halo_ray.stages import Stages
from halo_ray.training.losses import LossConfig, Losses
from halo_ray.training.optimizers import Optimizers
from halo_ray.training.stage import train
from halo_ray.training.worker import Worker

pytestmark = pytest.mark.usefixtures("cluster")

Weights = dict[str, torch.Tensor]


def weights(config: Config, name: str = "model", **how: object) -> Weights:
    """The weights after a stage; a short pretraining unless ``how`` says otherwise."""
    with open_experiment(config) as context:
        found = attempted(name, partial(train, context, name, start=None, **how), context.config.execution.max_failures)
        assert found["checkpoint"] == name
        return load_model(context.storage, name).state_dict()


def difference(one: Weights, other: Weights) -> float:
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def workers(config: Config, number: int | tuple[int, int], **changes: object) -> Config:
    return replace(config, execution=replace(config.execution, num_workers=number, cpus_per_worker=0.3, **changes))


def exact(config: Config, **training: object) -> Config:
    """With all that makes a step's gradient a sum over its pixels, in float64: no batch statistics, no dropout."""
    model = replace(config.model, hfr="resolution-free", frozen_batch_norm=True, frozen_hfr_norm=True)
    settings = {
        "precision": "float64",
        "round_steps": 20,
        "losses": LossConfig(negative=1.0, consistency=0.1),
        "augment": AugmentationConfig(color_jitter=0.3),
        "clip_norm": 1.0,
        "optimizer": "sgd",
        "round_learning_rate": 0.01,
        "control": False,
        **training,
    }
    return replace(
        config,
        model=model,
        acquisition=replace(config.acquisition, rounds=1),
        training=replace(config.training, **settings),
    )


@pytest.mark.parametrize(
    ("number", "settings"), [(2, {}), (3, {"optimizer": "adam"})], ids=["2 equal shares, sgd", "3 unequal shares, adam"]
)
def test_workers_train_as_one_with_the_whole_batch(
    configure: Callable[[], Config], number: int, settings: dict[str, object]
) -> None:
    config = exact(configure(), **settings)
    all_labels = {"number": 1, "labels": "all"}  # so that every term of the loss has pixels
    alone = weights(config, "alone", **all_labels)
    together = weights(workers(config, number), "together", **all_labels)
    start = weights(replace(config, training=replace(config.training, pretrain_steps=0)), "start")
    assert next(iter(alone.values())).dtype == torch.float64
    assert difference(alone, start) > 1e-3  # it did learn something
    assert difference(alone, together) < 1e-8


def test_parts_of_a_step_add_up_to_its_gradient(configure: Callable[[], Config]) -> None:
    whole = weights(exact(configure(), losses=LossConfig(consistency=0.1)), "whole", number=1, labels="all")
    cut = exact(configure(), losses=LossConfig(consistency=0.1), accumulation=3)
    assert difference(whole, weights(cut, "cut", number=1, labels="all")) < 1e-8


def test_training_again_gives_the_same_weights(configure: Callable[[], Config]) -> None:
    config = configure()
    assert difference(weights(config, "one"), weights(config, "other")) == 0


def test_as_many_workers_as_the_cluster_has_room_for(configure: Callable[[], Config]) -> None:
    config = exact(configure())
    assert difference(weights(config, "alone"), weights(workers(config, (1, 2)), "elastic")) < 1e-8


def kill_worker(checkpoint: Path, killed: list[int]) -> None:
    """Kills a process of Ray Train with SIGKILL, once a checkpoint is whole."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (checkpoint / "training.json").exists():
        time.sleep(0.01)
    actors = list_actors(address=ray.get_runtime_context().gcs_address, filters=[("state", "=", "ALIVE")])
    processes = [actor.pid for actor in actors if "RayTrainWorker" in actor.class_name]
    os.kill(processes[-1], signal.SIGKILL)
    killed.append(processes[-1])


def test_a_killed_worker_changes_nothing(
    configure: Callable[[], Config], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = configure()
    config = replace(config, training=replace(config.training, pretrain_steps=30))
    undisturbed = weights(workers(config, 2), "undisturbed")
    killed: list[int] = []
    checkpoint = tmp_path / "experiment/killed-run/00000004"
    killer = threading.Thread(target=kill_worker, args=(checkpoint, killed))
    killer.start()
    found = weights(workers(config, 2, checkpoint_steps=2), "killed")
    killer.join()
    assert killed
    assert "killed was interrupted" in capsys.readouterr().out
    assert difference(found, undisturbed) == 0
    assert not (tmp_path / "experiment/killed-run").exists()


def test_all_but_the_backbone_learns_faster_by_the_factor(configure: Callable[[], Config]) -> None:
    config = configure()
    model = replace(config.model, decoder="deeplabv3plus", hfr="official", frozen_batch_norm=True)
    training = replace(config.training, optimizer="sgd", pretrain_steps=1, learning_rate=1e-3, weight_decay=0.0)

    def trained(name: str, **settings: float) -> Weights:
        return weights(replace(config, model=model, training=replace(training, **settings)), name)

    start, slow, fast = trained("start", learning_rate=1e-12), trained("slow"), trained("fast", head_factor=10.0)
    for part, factor in (("backbone", 1), ("decoder", 10), ("reweighting", 10), ("head", 10)):
        keys = [key for key in start if key.startswith(f"{part}.") and start[key].is_floating_point()]
        keys = [key for key in keys if "running" not in key]
        moved = [
            sum(float((after[key] - start[key]).double().square().sum()) for key in keys) ** 0.5
            for after in (slow, fast)
        ]
        assert moved[0] > 0, part
        assert moved[1] / moved[0] == pytest.approx(factor, rel=0.02), part


def test_data_parallel_training_waits_for_no_unused_weight(configure: Callable[[], Config]) -> None:
    config = configure()
    # MobileNetV2's last convolution lies behind its last feature map, and so behind the logits.
    model = replace(config.model, backbone="mobilenet-v2", decoder="deeplabv3plus", hfr="official", output_stride=16)
    trained = weights(workers(replace(config, model=model), 2))
    assert all(value.isfinite().all() for value in trained.values())


@pytest.mark.parametrize(("number", "checkpoint_steps"), [(0, 1), (2, 0)])
def test_a_loss_that_explodes_ends_with_the_last_good_checkpoint(
    configure: Callable[[], Config], number: int, checkpoint_steps: int
) -> None:
    config = configure()
    training = replace(config.training, optimizer="sgd", learning_rate=1e30, pretrain_steps=30, stop_after_bad_steps=3)
    config = workers(replace(config, training=training), number, checkpoint_steps=checkpoint_steps)
    with pytest.raises(Exception, match="3 steps in a row") as caught:
        weights(config)
    said = str(input_error(caught.value))
    assert "training.learning_rate" in said
    ids = [path.stem for path in Path(config.data_root, "day/images").iterdir()]
    assert any(f"samples {name}" in said for name in ids), said
    kept = said.rpartition("last good checkpoint is ")[2]
    assert kept.startswith("model-run/0000")
    with open_experiment(config) as context:
        assert all(value.isfinite().all() for value in load_model(context.storage, kept).state_dict().values())


def test_a_bad_step_is_left_out_and_its_samples_are_named(
    configure: Callable[[], Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, clip, calls = configure(), Optimizers.clip, []

    def sometimes(self: Optimizers, most: float | None) -> torch.Tensor:
        calls.append(clip(self, most))
        return torch.tensor(float("nan")) if len(calls) == 4 else calls[-1]

    three = replace(config, training=replace(config.training, pretrain_steps=3, poly_power=0.0))
    expected = weights(three, "three")
    monkeypatch.setattr(Optimizers, "clip", sometimes)
    calls.clear()
    with open_experiment(replace(three, training=replace(three.training, pretrain_steps=4))) as context:
        found = train(context, "four", start=None)
        assert found["bad_steps"] == [3]
        # The fourth step changed no weight.
        four = load_model(context.storage, "four").state_dict()
    assert any("running" in key for key in four)
    assert difference(expected, four) == 0
    assert re.search(r"four: step 3 was left out, .* samples \d, \d, \d, \d\n", capsys.readouterr().out)


def test_a_last_step_that_is_no_number_ends_the_stage_all_the_same(
    configure: Callable[[], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, compute, calls = configure(), Losses.__call__, []

    def at_last(self: Losses, *args: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, means = compute(self, *args)
        calls.append(loss)
        wrong = float("nan") if len(calls) == config.training.pretrain_steps else 1.0
        return loss * wrong, {name: mean * wrong for name, mean in means.items()}

    monkeypatch.setattr(Losses, "__call__", at_last)
    with open_experiment(config) as context:
        found = Stages(context.storage).run("pretrain", train, context, "pretrain/checkpoint", start=None)
        assert (found["loss"], found["bad_steps"]) == (None, [config.training.pretrain_steps - 1])
        assert load_model(context.storage, "pretrain/checkpoint")


def test_a_directory_begun_anew_takes_nothing_from_another_configuration(
    configure: Callable[[], Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, clip, calls = configure(), Optimizers.clip, []

    def until_the_third(self: Optimizers, most: float | None) -> torch.Tensor:
        calls.append(clip(self, most))
        return calls[-1] if len(calls) < 3 else torch.tensor(float("nan"))

    with monkeypatch.context() as broken:
        broken.setattr(Optimizers, "clip", until_the_third)
        with pytest.raises(InputError, match="last good checkpoint is model-run/00000002"):
            weights(replace(config, training=replace(config.training, stop_after_bad_steps=1)))
    other = replace(config, seed=1, model=replace(config.model, curvature=0.5))
    found = weights(other)
    assert difference(found, weights(replace(other, output_dir=str(tmp_path / "fresh")))) == 0


def test_a_step_smaller_than_planned_says_so(configure: Callable[[], Config]) -> None:
    config = exact(configure(), accumulation=4, losses=LossConfig())
    with pytest.raises(InputError, match=r"a step has 2 images for 1 training workers .*training\.accumulation 4"):
        weights(config, number=1)  # without any label, as where nothing could be bought


@pytest.mark.parametrize("seed", [0, 20260101, 2**31])
def test_any_seed_gives_every_step_and_worker_its_own_numbers(seed: int) -> None:
    drawn = set()
    for rank, step in ((0, 0), (1, 0), (0, 1), (3, 10**6)):
        Worker(rank, 4, torch.device("cpu"), torch.float32, False, False, seed).seed_step(step)
        drawn.add(float(torch.rand(())))
    assert len(drawn) == 4


def test_a_device_that_is_too_small_names_what_takes_less(
    configure: Callable[[], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(self: Segmenter, images: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(Segmenter, "forward", out_of_memory)
    with pytest.raises(InputError, match="2 source and 2 pool images of 96x64 pixels") as caught:
        weights(configure())
    for key in ("training.source_batch", "data.height", "training.accumulation", "training.precision"):
        assert key in str(caught.value)


def test_labels_and_pool_images_of_each_protocol(configure: Callable[[], Config]) -> None:
    from halo_ray.annotations.ledger import Ledger
    from halo_ray.training.stage import _images

    for protocol, negative, labels, expected in (
        ("source_target", 0.0, "none", ("all", 0)),
        ("source_target", 0.0, "bought", ("all", 0)),
        ("source_target", 1.0, "bought", ("all", "all")),
        ("source_free", 1.0, "bought", (0, "all")),
        ("fully_supervised", 0.0, "all", ("all", "all")),
    ):
        config = configure()
        training = replace(config.training, protocol=protocol, losses=LossConfig(negative=negative))
        with open_experiment(replace(config, training=training)) as context:
            found = _images(context, 1, labels, Ledger(context.storage).sparse_labels(1))
            whole = context.splits.source, context.splits.pool
        rows = tuple(table.num_rows for table in found)
        assert rows == tuple(table.num_rows if e == "all" else 0 for e, table in zip(expected, whole, strict=True))
