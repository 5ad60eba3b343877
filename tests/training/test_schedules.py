"""The learning-rate factor against its formulas and landmarks."""

import math

import pytest

from halo_ray.training.schedules import Schedule

DECAYS = ["poly", "cosine"]


def factors(decay: str, steps: int, warmup: int, power: float = 0.9) -> list[float]:
    schedule = Schedule(decay, steps, warmup, power)
    return [schedule.factor(step) for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("warmup", [0, 1, 10, 80])
@pytest.mark.parametrize(("decay", "power"), [("poly", 0.0), ("poly", 0.9), ("poly", 2.0), ("cosine", 0.9)])
def test_every_taken_step_has_a_factor_above_0_and_at_most_1(decay: str, steps: int, warmup: int, power: float) -> None:
    found = factors(decay, steps, warmup, power)
    assert min(found) > 0
    assert max(found) <= 1


@pytest.mark.parametrize("power", [0.5, 0.9, 1.0])
def test_after_the_warmup_it_is_the_polynomial(power: float) -> None:
    found = factors("poly", 100, 10, power)
    assert found[10:] == pytest.approx([((100 - step) / 100) ** power for step in range(10, 100)])


def test_after_the_warmup_it_is_half_a_wave_of_the_cosine() -> None:
    found = factors("cosine", 120, 10)
    assert found[10:] == pytest.approx([math.cos(math.pi * step / 240) ** 2 for step in range(10, 120)])
    assert found[40] == pytest.approx(3 / 4)
    assert found[60] == pytest.approx(1 / 2)
    assert found[80] == pytest.approx(1 / 4)


@pytest.mark.parametrize("decay", DECAYS)
def test_it_falls_from_the_warmup_on(decay: str) -> None:
    found = factors(decay, 100, 10)
    assert found[10:] == sorted(found[10:], reverse=True)
    assert len(set(found[10:])) == 90


@pytest.mark.parametrize("decay", DECAYS)
def test_during_the_warmup_it_rises_in_equal_parts_of_the_decay(decay: str) -> None:
    plain, warm = factors(decay, 100, 0), factors(decay, 100, 4)
    rise = [one / other for one, other in zip(warm, plain, strict=True)]
    assert rise[:6] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1])


@pytest.mark.parametrize("decay", DECAYS)
def test_without_warmup_it_starts_at_the_base_rate(decay: str) -> None:
    assert factors(decay, 7, 0)[0] == 1


def test_power_0_keeps_the_base_rate() -> None:
    assert factors("poly", 20, 0, 0.0) == [1] * 20
