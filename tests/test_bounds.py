"""Every number of the configuration has a range: what lies outside is refused by name, the ends can be used."""

import math
import threading
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from halo_ray.bounds import YEAR, Range
from halo_ray.config import Config, config_from_yaml, parse_config
from halo_ray.errors import InputError

PRESETS = Path(__file__).parents[1] / "jobs" / "presets"

WILD = [2**53, 2**63, 2**1000, 1e308, -1e308, -(2**63), math.nan, -math.inf]
"""No key takes them, but for those that may be as large as float32 computes with."""

FLOAT32 = {"training.learning_rate", "training.round_learning_rate", "training.clip_norm"}

NO_LIMIT = {"acquisition.beta", "acquisition.image_cap", "acquisition.sequence_cap"}
"""Keys that take infinity, as the README says."""

ZERO = {
    "seed", "data.source.count", "data.source.scenes", "data.source.first", "data.pool.count", "data.pool.scenes",
    "data.pool.first", "data.validation.count", "data.validation.scenes", "data.validation.first", "model.pixel_mean",
    "acquisition.region_radius", "acquisition.exclusion_radius", "training.pretrain_steps", "training.warmup_steps",
    "training.weight_decay", "training.poly_power", "training.losses.source", "training.losses.target",
    "training.losses.negative", "training.losses.consistency", "training.augment.color_jitter",
    "training.augment.saturation_jitter", "training.augment.hue_jitter", "training.source_sampling.min_pixels",
    "execution.num_workers", "execution.max_actors", "execution.checkpoint_steps", "execution.max_failures",
    "execution.warn_share",
}  # fmt: skip
"""Keys that take 0."""


def numbers(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and type of every field that takes a number."""
    hints = get_type_hints(type(section), include_extras=True)
    for item in fields(section):
        value, hint = getattr(section, item.name), hints[item.name]
        if is_dataclass(value):
            yield from numbers(value, f"{prefix}{item.name}.")
        elif {int, float} & set(_leaves(hint)):
            yield f"{prefix}{item.name}", hint


def _leaves(hint: Any) -> list[Any]:
    below = [leaf for part in get_args(hint) for leaf in _leaves(part)] if not isinstance(hint, Range) else []
    return below or [hint]


KEYS = dict(numbers(Config()))
FLOATS = [key for key, hint in KEYS.items() if float in _leaves(hint)]


def changed(section: Any, key: str, value: Any) -> Any:
    name, _, below = key.partition(".")
    return replace(section, **{name: changed(getattr(section, name), below, value) if below else value})


def values(key: str, number: float) -> Any:
    """``number`` as the key takes it."""
    found = Config()
    for part in key.split("."):
        found = getattr(found, part)
    return (number,) * len(found) if isinstance(found, tuple) else number


def takes(key: str, number: float) -> bool:
    said = ""
    try:
        changed(Config(), key, values(key, number))
    except InputError as error:
        said = str(error)
    assert not said or (key in said and len(said) < 300)
    return not said


def test_every_number_has_a_range() -> None:
    assert len(KEYS) > 60
    assert [key for key, hint in KEYS.items() if not any(isinstance(part, Range) for part in get_args(hint))] == []


@pytest.mark.parametrize("number", WILD)
def test_no_key_takes_a_wild_number(number: float) -> None:
    assert {key for key in KEYS if takes(key, number)} <= (FLOAT32 if 0 < number < 1e30 else set())


def test_few_keys_take_infinity() -> None:
    assert {key for key in FLOATS if takes(key, math.inf)} == NO_LIMIT


def test_what_may_be_zero_and_what_may_be_negative() -> None:
    assert {key for key in KEYS if takes(key, 0)} == ZERO
    assert {key for key in KEYS if takes(key, -1)} == {"model.pixel_mean"}


def test_the_smallest_float_is_refused_where_zero_is() -> None:
    assert {key for key in FLOATS if takes(key, 5e-324)} <= ZERO


@pytest.mark.parametrize("number", ["9007199254740992", "9" * 400, "1e308", "-1e308", ".nan", "-.inf", "-1"])
@pytest.mark.parametrize("key", ["training.threads", "execution.lock_seconds", "model.curvature"])
def test_a_command_line_and_a_file_are_refused_alike(key: str, number: str) -> None:
    section, name = key.split(".")
    for parse in (
        lambda: parse_config([f"--{key}={number}"], PRESETS),
        lambda: config_from_yaml(f"{section}: {{{name}: {number}}}", "mine"),
    ):
        with pytest.raises(InputError, match=key):
            parse()


@pytest.mark.parametrize(
    ("name", "arguments", "option"),
    [
        ("annotate", ["EXPERIMENT", "--port"], "--port"),
        ("predict", ["CHECKPOINT", "IMAGES", "OUT", "--max-actors"], "--max-actors"),
        ("predict", ["CHECKPOINT", "IMAGES", "OUT", "--size", "64"], "--size"),
        ("sweep", ["--preset=tiny", "--seeds"], "--seeds"),
        ("sweep", ["--preset=tiny", "--max_concurrent_trials"], "--max_concurrent_trials"),
        ("sweep", ["--preset=tiny", "--budget"], "acquisition.budget"),
        ("sweep", ["--preset=tiny", "--curvature"], "model.curvature"),
    ],
)
@pytest.mark.parametrize("number", [2**53, 2**63, 2**1000, -1])
def test_an_option_of_a_job_is_refused_by_name(
    job: Any, capsys: pytest.CaptureFixture[str], name: str, arguments: list[str], option: str, number: int
) -> None:
    module: ModuleType = job(name)
    assert module.main([*arguments, str(number)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert option in said
    assert said.count("\n") == 1


def test_the_ends_of_ranges_can_be_used() -> None:
    largest = Config(seed=2**32 - 1).round_seed(10_000)
    assert np.random.default_rng([largest, 1]).random() >= 0
    assert torch.Generator().manual_seed(largest).initial_seed() == largest
    assert threading.Lock().acquire(timeout=YEAR)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1024)
    finally:
        torch.set_num_threads(before)
