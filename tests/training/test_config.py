"""Settings of training: which are refused, and what follows from those that are not."""

import math
from dataclasses import replace

import pytest

from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.training.config import TrainingConfig, check_workers
from halo_ray.training.losses import LossConfig

NO_NUMBER = [math.nan, math.inf, -1.0]
STILL = AugmentationConfig(color_jitter=0.0)
WRONG = [
    *((key, value) for key in ("source_batch", "target_batch", "threads", "accumulation") for value in (0, -3)),
    ("stop_after_bad_steps", 0),
    ("pretrain_steps", -1),
    *(("round_steps", value) for value in (0, -2, (), (3, 0), (-1, 5))),
    *((key, value) for key in ("learning_rate", "round_learning_rate", "head_factor") for value in (0.0, *NO_NUMBER)),
    *((key, value) for key in ("weight_decay", "poly_power") for value in NO_NUMBER),
    ("warmup_steps", -1),
    *(("clip_norm", value) for value in (0.0, *NO_NUMBER)),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_setting_is_named_with_its_value(key: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        TrainingConfig(**{key: value})
    shown = list(value) if isinstance(value, tuple) else value
    assert str(caught.value).startswith(f"training.{key} is {shown}: ")


@pytest.mark.parametrize("key", ["source", "target", "negative", "consistency"])
@pytest.mark.parametrize("value", NO_NUMBER)
def test_a_wrong_weight_is_named_with_its_value(key: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        LossConfig(**{key: value})
    assert str(caught.value).startswith(f"training.losses.{key} is {value}: ")


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_a_wrong_threshold_is_named_with_its_value(value: float) -> None:
    with pytest.raises(InputError) as caught:
        LossConfig(negative_threshold=value)
    assert str(caught.value).startswith(f"training.losses.negative_threshold is {value}: ")


def test_a_loss_must_have_a_weight() -> None:
    with pytest.raises(InputError, match=r"training\.losses are all 0"):
        LossConfig(source=0.0, target=0.0)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    losses = LossConfig(source=0.0, target=0.0, negative=1e-9, negative_threshold=1.0, consistency=0.0)
    config = TrainingConfig(
        pretrain_steps=0, round_steps=(1,), source_batch=1, target_batch=1, weight_decay=0.0, warmup_steps=0,
        poly_power=0.0, clip_norm=1e-9, losses=losses, stop_after_bad_steps=1,
    )  # fmt: skip
    assert (config.pretrain_steps, config.steps_of_rounds(1), config.losses) == (0, [1], losses)


@pytest.mark.parametrize(
    "changes",
    [{"color_jitter": 0.1}, {"saturation_jitter": 0.1}, {"hue_jitter": 0.1}, {"random_scale": (1.0, 2.0)}],
)
def test_stored_features_are_of_images_that_do_not_change(changes: dict) -> None:
    TrainingConfig(cache_features=True, augment=STILL)
    augment = AugmentationConfig(**{"color_jitter": 0.0, **changes})
    TrainingConfig(augment=augment)
    with pytest.raises(InputError, match=r"training\.cache_features .*training\.augment .*random_scale"):
        TrainingConfig(cache_features=True, augment=augment)


def test_steps_of_every_round() -> None:
    assert TrainingConfig(round_steps=7).steps_of_rounds(3) == [7, 7, 7]
    assert TrainingConfig(round_steps=(7, 5, 1)).steps_of_rounds(3) == [7, 5, 1]
    for rounds in (2, 4):
        with pytest.raises(InputError, match=rf"training\.round_steps has 3 numbers for {rounds} rounds"):
            TrainingConfig(round_steps=(7, 5, 1)).steps_of_rounds(rounds)


@pytest.mark.parametrize(
    ("protocol", "uses_source", "buys", "twin"),
    [
        ("source_only", True, False, False),
        ("source_target", True, True, True),
        ("source_free", False, True, False),
        ("fully_supervised", True, False, False),
    ],
)
def test_what_a_protocol_means(protocol: str, uses_source: bool, buys: bool, twin: bool) -> None:
    config = TrainingConfig(protocol=protocol)
    assert (config.uses_source, config.buys, config.trains_twin) == (uses_source, buys, twin)
    assert not TrainingConfig(protocol=protocol, control=False).trains_twin


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 4),  # the twin has no pool images
        ({"control": False}, 8),
        ({"source_batch": 5, "target_batch": 2, "control": False}, 7),
        ({"accumulation": 2}, 2),
        ({"accumulation": 3, "control": False}, 2),
        ({"protocol": "source_free"}, 4),
        ({"protocol": "source_free", "target_batch": 6, "accumulation": 3}, 2),
        ({"protocol": "source_only"}, 8),
    ],
)
def test_every_worker_needs_an_image_for_each_part_of_a_step(settings: dict, most: int) -> None:
    config = TrainingConfig(**settings)
    for workers in (0, 1, most, (1, most), (most, most)):
        check_workers(config, workers)
    for workers in (most + 1, (1, most + 1)):
        with pytest.raises(InputError, match=rf"^{most + 1} training workers.*execution\.num_workers") as caught:
            check_workers(config, workers)
        assert ("training.accumulation" in str(caught.value)) == ("accumulation" in settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_one_process_needs_an_image_for_each_part_too(workers: int) -> None:
    check_workers(TrainingConfig(accumulation=8, control=False), workers)
    with pytest.raises(InputError, match=r"training\.accumulation 9 are more than the 8 images"):
        check_workers(TrainingConfig(accumulation=9, control=False), workers)


def test_without_a_source_a_step_has_pool_images_alone() -> None:
    config = TrainingConfig(source_batch=6, target_batch=3, control=False)
    check_workers(config, 3, has_source=False)
    with pytest.raises(InputError, match="4 training workers are more than the 3 images"):
        check_workers(config, 4, has_source=False)


def test_shared_batch_norms_need_both_sizes_in_every_part() -> None:
    config = TrainingConfig(source_batch=2, target_batch=6, control=False)
    check_workers(config, 4)
    check_workers(config, 2, two_sizes=True)
    check_workers(replace(config, sync_batch_norm=False), 4, two_sizes=True)
    check_workers(replace(config, accumulation=4), 1, two_sizes=True)
    with pytest.raises(InputError, match=r"training\.sync_batch_norm .* 3 parts"):
        check_workers(config, (1, 3), two_sizes=True)
