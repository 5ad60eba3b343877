import math

import pytest

from halo_ray.acquisition.budget import AcquisitionConfig, image_limit, plan_budget
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


def test_more_rounds_keep_the_old_ones_and_spend_the_rest() -> None:
    first = plan_budget(AcquisitionConfig(budget=0.02, rounds=2), SIZES)
    longer = plan_budget(AcquisitionConfig(budget=0.05, rounds=4), SIZES, first)
    assert longer[:2] == first
    assert sum(plan.regions for plan in longer) == math.floor(PIXELS * 0.05 / 9)
    assert sum(plan.share for plan in longer) == pytest.approx(0.05)


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
        ({"normalize": "minmax"}, r"acquisition.normalize .* acquisition.scope"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AcquisitionConfig(**settings)


@pytest.mark.parametrize("scope", ["pool", "image"])
def test_more_regions_than_the_pool_holds(scope: str) -> None:
    with pytest.raises(InputError, match=r"budget 1.0 asks for \d+ regions, but the pool holds at most \d+"):
        plan_budget(AcquisitionConfig(budget=1.0, rounds=1, exclusion_radius=5, scope=scope), SIZES)


def test_a_budget_of_less_than_a_region_a_round() -> None:
    with pytest.raises(InputError, match=r"acquisition.budget .* raise it or lower acquisition.rounds"):
        plan_budget(AcquisitionConfig(budget=0.001, rounds=6), SIZES)
