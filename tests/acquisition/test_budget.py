import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from halo_ray.acquisition.budget import AcquisitionConfig, RoundPlan, capped_sequences, image_limit, plan_budget, room
from halo_ray.acquisition.regions import pick_regions
from halo_ray.errors import InputError

SIZES = [(100, 200), (50, 80), (100, 200)]
PIXELS = sum(h * w for h, w in SIZES)


def test_pool_budget_is_the_floor_of_the_share_with_the_rest_in_the_last_round() -> None:
    config = AcquisitionConfig(budget=0.05, rounds=4, region_radius=1)
    regions = [plan.regions for plan in plan_budget(config, SIZES)]
    total = math.floor(PIXELS * 0.05 / 9)
    assert sum(regions) == total
    assert regions[:3] == [total // 4] * 3
    assert regions[3] == total - 3 * (total // 4)


def test_image_budget_is_the_papers_share_of_every_image() -> None:
    config = AcquisitionConfig(budget=0.05, rounds=5, scope="image")
    plans = plan_budget(config, SIZES)
    expected = [math.ceil(h * w * 0.05 / 5 / 9) for h, w in SIZES]
    assert [image_limit(config, size, plans[0], PIXELS) for size in SIZES] == expected
    assert {plan.regions for plan in plans} == {sum(expected)}


def test_cap_is_a_multiple_of_the_images_fair_share() -> None:
    config = AcquisitionConfig(budget=0.05, rounds=1, image_cap=3)
    (plan,) = plan_budget(config, SIZES)
    assert image_limit(config, SIZES[1], plan, PIXELS) == math.ceil(3 * plan.regions * 4000 / PIXELS)
    tenth = AcquisitionConfig(image_cap=1.1, sequence="^(.)", sequence_cap=1.1)
    # 1.1 · 100 / 10 is 11, which floating point makes 11.000000000000002 and 12 regions of.
    assert image_limit(tenth, (10, 10), RoundPlan(100, "1"), 1000) == 11
    assert capped_sequences(tenth, ["a", "b"], [(10, 10), (10, 90)], RoundPlan(100, "1")).caps.tolist() == [11, 99]


def test_more_rounds_keep_the_old_ones_and_spend_the_rest() -> None:
    first = plan_budget(AcquisitionConfig(budget=0.02, rounds=2), SIZES)
    longer = plan_budget(AcquisitionConfig(budget=0.05, rounds=4), SIZES, first)
    assert longer[:2] == first
    assert sum(plan.regions for plan in longer) == math.floor(PIXELS * 0.05 / 9)
    assert sum(Fraction(plan.share) for plan in longer) == Fraction(5, 100)


def test_the_budget_is_taken_as_it_is_written() -> None:
    for thousandths in range(1, 100):
        config = AcquisitionConfig(budget=thousandths / 10_000, rounds=1, exclusion_radius=0)
        (plan,) = plan_budget(config, [(300, 300)])
        assert plan.regions == thousandths * 90_000 // 10_000 // 9


def test_no_cap_is_infinite() -> None:
    (plan,) = plan_budget(AcquisitionConfig(budget=0.05, rounds=1), SIZES)
    assert image_limit(AcquisitionConfig(image_cap=math.inf), SIZES[1], plan, PIXELS) == plan.regions


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0.0}, "acquisition.budget is 0.0"),
        ({"budget": 1.5}, "acquisition.budget is 1.5"),
        ({"budget": float("nan")}, "acquisition.budget is nan"),
        ({"rounds": 0}, "acquisition.rounds is 0"),
        ({"image_cap": float("nan")}, "acquisition.image_cap is nan"),
        ({"beta": 0.0}, "acquisition.beta is 0.0"),
        ({"function": "entropie"}, "did you mean 'entropy'"),
        ({"budget": 2.5, "budget_unit": "regions"}, "acquisition.budget is 2.5: a number of regions is whole"),
        ({"budget": math.inf, "budget_unit": "pixels"}, "acquisition.budget is inf"),
        ({"budget": 0.5, "budget_unit": "pixels"}, "acquisition.budget is 0.5: a number of pixels is whole"),
        ({"budget": 300.0}, "set acquisition.budget_unit"),
        ({"sequence": "("}, "acquisition.sequence '\\(' is no regular expression"),
        ({"sequence": ".", "scope": "image"}, "acquisition.sequence contradicts acquisition.scope"),
        ({"sequence_cap": 0.5}, "acquisition.sequence_cap is 0.5"),
        ({"normalize": "minmax"}, r"acquisition.normalize .* acquisition.scope"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AcquisitionConfig(**settings)


@pytest.mark.parametrize("scope", ["pool", "image"])
def test_more_regions_than_the_pool_holds_are_planned_and_room_says_how_many_fit(scope: str) -> None:
    config = AcquisitionConfig(budget=1.0, rounds=1, exclusion_radius=5, scope=scope)
    (plan,) = plan_budget(config, SIZES)
    # A plateau is packed as closely as windows allow.
    fits = [len(pick_regions(torch.ones(size), None, region_radius=1, exclusion_radius=5).y) for size in SIZES]
    assert plan.regions > room(config, SIZES) == sum(fits)


@pytest.mark.parametrize(("unit", "budget"), [("pixels", 1234.0), ("regions", 137.0)])
def test_a_number_of_pixels_or_regions_is_spent_to_the_last(unit: str, budget: float) -> None:
    config = AcquisitionConfig(budget=budget, budget_unit=unit, rounds=4)
    plans = plan_budget(config, SIZES)
    assert sum(plan.regions for plan in plans) == (budget if unit == "regions" else budget // 9)
    longer = plan_budget(replace(config, rounds=5, budget=2 * budget), SIZES, plans)
    assert sum(plan.regions for plan in longer) == (2 * budget if unit == "regions" else 2 * budget // 9)


def test_every_image_gets_what_the_plan_says_where_the_share_is_no_decimal_number() -> None:
    config = AcquisitionConfig(budget=0.01, rounds=3, scope="image")
    (plan, *_) = plan_budget(config, [(30, 90)])
    assert Fraction(plan.share) == Fraction(1, 300)
    assert plan.regions == 1  # 2,700 pixels / 300 / 9 exactly
    assert image_limit(config, (30, 90), plan, 2700) == 1


IDS = ["a_1", "b_1", "a_2"]


def test_the_cap_of_a_sequence_is_a_multiple_of_its_fair_share() -> None:
    config = AcquisitionConfig(budget=0.05, rounds=1, sequence="^([a-z])_", sequence_cap=1.5)
    (plan,) = plan_budget(config, SIZES)
    found = capped_sequences(config, IDS, SIZES, plan)
    assert found is not None
    assert found.of.tolist() == [0, 1, 0]
    assert found.caps.tolist() == [math.ceil(1.5 * plan.regions * own / PIXELS) for own in (40_000, 4000)]
    without_group = replace(config, sequence="^[a-z]")
    assert capped_sequences(without_group, IDS, SIZES, plan).caps.tolist() == found.caps.tolist()


def test_sequences_without_a_cap_are_none() -> None:
    for config in (AcquisitionConfig(), AcquisitionConfig(sequence=".", sequence_cap=math.inf)):
        assert capped_sequences(config, IDS, SIZES, plan_budget(config, SIZES)[0]) is None


def test_an_image_without_a_sequence_is_named() -> None:
    config = AcquisitionConfig(sequence="^([a-z])_")
    with pytest.raises(InputError, match=r"acquisition.sequence .* does not match the image id '7_1'"):
        capped_sequences(config, ["a_1", "7_1"], SIZES[:2], plan_budget(config, SIZES)[0])


def test_a_budget_of_less_than_a_region_a_round() -> None:
    with pytest.raises(InputError, match=r"acquisition.budget .* raise it or lower acquisition.rounds"):
        plan_budget(AcquisitionConfig(budget=0.001, rounds=6), SIZES)
