"""What a sweep tries."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
from small_experiments import changed
from studies import BUDGETS, CURVATURES, FUNCTIONS

from halo_ray.config import Config, identity
from halo_ray.errors import InputError
from halo_ray.sweep.space import FLOOR, SWEPT, Point, SearchSpace, configure


def test_every_combination_is_tried_once(space: SearchSpace) -> None:
    expected = set(product(CURVATURES, BUDGETS, (*FUNCTIONS, FLOOR), range(2)))
    points = [(point.curvature, point.budget, point.acquisition, point.seed) for point in space.points()]
    assert set(points) == expected
    assert len(points) == len(expected)


def test_seeds_are_the_same_in_every_cell(space: SearchSpace) -> None:
    seeds: dict[tuple, list[int]] = {}
    for point in space.points():
        seeds.setdefault((point.curvature, point.budget, point.acquisition), []).append(point.seed)
    assert {tuple(sorted(each)) for each in seeds.values()} == {(0, 1)}


def test_trials_that_share_the_most_follow_each_other(space: SearchSpace) -> None:
    runs = [(point.curvature, point.seed) for point in space.points()]
    changes = sum(one != other for one, other in pairwise(runs))
    assert changes == len(set(runs)) - 1


def test_names_differ_however_close_the_values_are(base: Config) -> None:
    near = (1.0, math.nextafter(1.0, 2.0), 0.1, 1e-4, 1.1e-4, 11.0, 0.1)
    assert len(set(near)) == 6  # one stands twice
    space = SearchSpace.of(base, near, (1e-3, 1e-2), ["random", "own_scores.half"], 12)
    names = [point.name for point in space.points()]
    assert len(set(names)) == len(names) == 6 * 2 * 2 * 12
    assert not any(set(name) & set("/\\?*: ") for name in names)
    directories = {configure(base, point).output_dir for point in SearchSpace.of(base, near, [], [], 2).points()}
    assert len(directories) == 6 * 2 * 2


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        ([], ("halo", FLOOR)),
        (["entropy", "halo"], ("entropy", "halo", FLOOR)),
        (["entropy", FLOOR, "halo"], ("entropy", FLOOR, "halo")),
        ([FLOOR], (FLOOR,)),
        (["entropy", "entropy"], ("entropy", FLOOR)),
    ],
)
def test_the_floor_is_always_there_and_once(base: Config, functions: list[str], expected: tuple[str, ...]) -> None:
    assert SearchSpace.of(base, [], [], functions, 1).acquisition == expected


def test_what_is_not_swept_is_that_of_the_base(base: Config) -> None:
    base = changed(changed(base, "model.curvature", 0.3), "acquisition.budget", 0.07)
    base = changed(base, "acquisition.function", "entropy")
    assert {point.curvature for point in SearchSpace.of(base, [], [], [], 1).points()} == {0.3}
    assert {(point.budget, point.acquisition) for point in SearchSpace.of(base, [], [], [], 1).points()} == {
        (0.07, "entropy"),
        (0.07, FLOOR),
    }


def test_a_leader_of_every_curvature_and_seed_has_the_largest_budget(base: Config, space: SearchSpace) -> None:
    leaders = [leader for leader, _ in space.leaders(base)]
    assert sorted((point.curvature, point.seed) for point in leaders) == sorted(product(CURVATURES, range(2)))
    assert {point.budget for point in leaders} == {max(BUDGETS)}
    assert set(leaders) <= set(space.points())


def test_a_trial_sets_what_its_point_says_and_nothing_else(base: Config) -> None:
    point = Point(curvature=0.5, budget=0.01, acquisition="entropy", seed=3)
    config = configure(base, point)
    before, after = identity(base), identity(config)
    assert {key for key in after if after[key] != before[key]} == set(SWEPT)
    assert [after[key] for key in SWEPT] == [3, 0.5, 0.01, "entropy"]
    assert Path(config.output_dir).parent == Path(base.output_dir, "trials")
    assert config.execution == replace(base.execution, shared_stages=str(Path(base.output_dir, "shared")))


def test_a_store_that_is_named_is_used(base: Config) -> None:
    base = changed(base, "execution.shared_stages", "/elsewhere")
    assert configure(base, Point(1.0, 0.01, "halo", 0)).execution.shared_stages == "/elsewhere"


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("acquisition.budget", {"budget": [0.01, 0.0]}),
        ("acquisition.budget", {"budget": [1.5]}),
        ("acquisition.budget", {"budget": [math.nan]}),
        ("model.curvature", {"curvature": [1.0, 0.0]}),
        ("model.curvature", {"curvature": [-1.0]}),
        ("model.curvature", {"curvature": [math.nan]}),
        ("model.curvature", {"curvature": [math.inf]}),
        ("acquisition.function", {"acquisition": ["halo", "entropie"]}),
        ("acquisition.function", {"acquisition": ["no_such_module.score"]}),
        ("--seeds", {"seeds": 0}),
        ("--seeds", {"seeds": -1}),
    ],
)
def test_a_value_that_cannot_be_used_is_named(base: Config, key: str, values: dict) -> None:
    settings = {"curvature": [1.0], "budget": [0.01], "acquisition": ["halo"], "seeds": 1}
    assert SearchSpace.of(base, **settings).points()
    with pytest.raises(InputError) as caught:
        SearchSpace.of(base, **settings | values)
    assert key in str(caught.value)


def test_an_unknown_function_is_told_the_nearest(base: Config) -> None:
    with pytest.raises(InputError, match="'entropy'"):
        SearchSpace.of(base, [], [], ["entropie"], 1)


def test_a_euclidean_model_has_no_curvature_to_sweep(base: Config) -> None:
    base = changed(base, "model.geometry", "euclidean")
    assert len(SearchSpace.of(base, [], [], [], 1).points()) == 2
    with pytest.raises(InputError, match=r"--curvature.*model\.geometry"):
        SearchSpace.of(base, [1.0, 2.0], [], [], 1)


@pytest.mark.parametrize("protocol", ["source_only", "fully_supervised"])
def test_what_buys_nothing_is_not_swept(base: Config, protocol: str) -> None:
    with pytest.raises(InputError, match=rf"training\.protocol {protocol}"):
        SearchSpace.of(changed(base, "training.protocol", protocol), [], [], [], 1)
