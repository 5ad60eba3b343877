"""The learning-rate factor against its formula and its landmarks."""

import pytest

from halo_ray.schedules import poly_with_warmup


def factors(steps: int, warmup: int, power: float) -> list[float]:
    return [poly_with_warmup(step, steps, warmup=warmup, power=power) for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("warmup", [0, 1, 10, 80])
@pytest.mark.parametrize("power", [0.0, 0.9, 2.0])
def test_every_taken_step_has_a_factor_above_0_and_at_most_1(steps: int, warmup: int, power: float) -> None:
    found = factors(steps, warmup, power)
    assert min(found) > 0
    assert max(found) <= 1


@pytest.mark.parametrize("power", [0.5, 0.9, 1.0])
def test_after_the_warmup_it_is_the_polynomial(power: float) -> None:
    found = factors(100, 10, power)
    assert found[10:] == pytest.approx([((100 - step) / 100) ** power for step in range(10, 100)])
    assert found[10:] == sorted(found[10:], reverse=True)


def test_during_the_warmup_it_rises_in_equal_parts_of_the_polynomial() -> None:
    found = [factor / (1 - step / 100) ** 0.9 for step, factor in enumerate(factors(100, 4, 0.9))]
    assert found[:6] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1])


def test_without_warmup_it_starts_at_the_base_rate() -> None:
    assert factors(7, 0, 0.9)[0] == 1


def test_power_0_keeps_the_base_rate() -> None:
    assert factors(20, 0, 0.0) == [1] * 20
