"""Training on Ray Train: what the workers share, and what the labels change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from halo_ray.checkpoint import load_model
from halo_ray.config import Config
from halo_ray.context import open_experiment
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.runtime import input_error
from halo_ray.training import TrainingConfig, check_workers, train

pytestmark = pytest.mark.usefixtures("cluster")


def weights(config: Config, name: str = "model") -> dict[str, torch.Tensor]:
    """The weights of a short pretraining."""
    with open_experiment(config) as context:
        found = train(context, name, start=None, seed=3)
        assert found["checkpoint"] == name
        return load_model(context.storage, name).state_dict()


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def test_two_workers_train_as_one_with_the_whole_batch(configure: Callable[[], Config]) -> None:
    config = configure()
    # Frozen: batch norms see the batch of their own worker alone. Plain SGD: Adam divides small sums by themselves.
    config = replace(
        config,
        model=replace(config.model, frozen_backbone=True),
        training=replace(config.training, optimizer="sgd", augment=AugmentationConfig(color_jitter=0.3)),
    )
    alone = weights(config, "alone")
    together = weights(replace(config, execution=replace(config.execution, num_workers=2)), "together")
    start = weights(replace(config, training=replace(config.training, learning_rate=1e-12)), "start")
    assert difference(alone, start) > 1e-3  # it did learn something
    assert difference(alone, together) < 1e-5


def test_training_again_gives_the_same_weights(configure: Callable[[], Config]) -> None:
    config = configure()
    assert difference(weights(config, "one"), weights(config, "other")) == 0


def test_all_but_the_backbone_learns_faster_by_the_factor(configure: Callable[[], Config]) -> None:
    config = configure()
    model = replace(config.model, decoder="deeplabv3plus", hfr="official", frozen_batch_norm=True)
    training = replace(config.training, optimizer="sgd", pretrain_steps=1, learning_rate=1e-3, weight_decay=0.0)

    def trained(name: str, **settings: float) -> dict[str, torch.Tensor]:
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
    config = replace(
        config,
        model=replace(config.model, backbone="mobilenet-v2", decoder="deeplabv3plus", hfr="official", output_stride=16),
        execution=replace(config.execution, num_workers=2),
    )
    trained = weights(config)
    assert all(value.isfinite().all() for value in trained.values())


def test_a_loss_that_explodes_is_said_in_one_sentence(configure: Callable[[], Config]) -> None:
    config = configure()
    config = replace(config, training=replace(config.training, optimizer="sgd", learning_rate=1e30, pretrain_steps=30))
    with pytest.raises(Exception, match="loss became") as caught:
        weights(config)
    assert "training.learning_rate" in str(input_error(caught.value))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pretrain_steps": 0}, r"training\.pretrain_steps is 0"),
        ({"learning_rate": 0.0}, r"training\.learning_rate is 0\.0"),
        ({"learning_rate": float("nan")}, r"training\.learning_rate is nan"),
        ({"target_weight": -1.0}, r"training\.target_weight is -1\.0"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(**settings)


def test_batches_must_divide_among_the_workers() -> None:
    config = TrainingConfig(source_batch=4, target_batch=2)
    check_workers(config, 0)
    check_workers(config, 2)
    with pytest.raises(InputError, match=r"training\.target_batch 2 .* 4 training workers"):
        check_workers(config, 4)
