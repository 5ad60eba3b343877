"""Which scoring passes serve a smaller budget."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_experiments import (
    changed,
)

from halo_ray.acquisition.bound import histogram
from halo_ray.acquisition.budget import RoundPlan, image_limit, plan_budget
from halo_ray.context import Context
from halo_ray.coordinator import Coordinator, Report
from halo_ray.data.listing import MANIFEST
from halo_ray.shared_scores import Above, covers
from halo_ray.storage import Storage

pytestmark = pytest.mark.usefixtures("cluster")


def result(*functions: str, problems: int = 0, images: int = 6) -> dict[str, Any]:
    found = [{"image_id": str(number), "problem": "", "scored": False} for number in range(problems)]
    audit = {name: {"images": images, "bound": None} for name in functions}
    return {"candidates": {name: f"candidates/{name}" for name in functions}, "audit": audit, "problems": found}


NOWHERE = Storage("/nowhere")
"""Where the candidates lie that need not be counted."""


def of_budget(context: Context, budget: float, **acquisition: object) -> Context:
    config = changed(context.config, "acquisition", replace(context.config.acquisition, budget=budget, **acquisition))
    return replace(context, config=config, plan=plan_budget(config.acquisition, [(72, 100)] * 6))


@pytest.mark.parametrize("scope", ["pool", "image"])
def test_scores_serve_every_smaller_budget_and_no_larger_one(context: Context, scope: str) -> None:
    budgets = (0.005, 0.01, 0.02, 0.04)
    opened = {budget: of_budget(context, budget, scope=scope) for budget in budgets}
    for theirs in budgets:
        plan = asdict(opened[theirs].plan[0])
        served = [budget for budget in budgets if covers(opened[budget], NOWHERE, result("random"), plan)]
        assert served == [budget for budget in budgets if budget <= theirs]


def test_more_rounds_leave_less_for_the_first(context: Context) -> None:
    one, two = (of_budget(context, 0.02, rounds=rounds) for rounds in (1, 2))
    assert covers(two, NOWHERE, result("random"), asdict(one.plan[0]))
    assert not covers(one, NOWHERE, result("random"), asdict(two.plan[0]))


def test_scores_serve_whoever_finds_all_its_functions_there_and_no_problem(context: Context) -> None:
    plan = asdict(context.plan[0])
    assert covers(context, NOWHERE, result("halo", "random"), plan)
    assert not covers(context, NOWHERE, result("halo"), plan)
    both = replace(context, config=changed(context.config, "execution.compare_functions", ("entropy",)))
    assert not covers(both, NOWHERE, result("halo", "random"), plan)
    assert covers(both, NOWHERE, result("entropy", "random"), plan)
    assert not covers(context, NOWHERE, result("random", problems=1), plan)
    assert not covers(context, NOWHERE, result("random"), None)


def best(scores: list[np.ndarray], regions: int, limits: list[int]) -> list[tuple[float, int]]:
    """The regions of the highest scores, of each image no more than its limit; one by one."""
    falling = sorted(((float(score), -row) for row, own in enumerate(scores) for score in own), reverse=True)
    left, chosen = list(limits), []
    for score, row in falling:
        if left[-row] and len(chosen) < regions:
            left[-row] -= 1
            chosen.append((score, -row))
    return chosen


def found_with(scores: list[np.ndarray], regions: int, limits: list[int]) -> tuple[list[np.ndarray], float]:
    """What a pass leaves of each image: its best, less those under what the coordinator had said before it came.

    And what it said last.
    """
    coordinator, kept = Coordinator(len(scores), regions, functions=("random",)), []
    for row, own in enumerate(scores):
        falling = -np.sort(-own)[: limits[row]]
        left = falling[falling >= coordinator.bounds()["random"]]
        kept.append(left)
        coordinator.add({row: {"random": Report(histogram(left), 0)}})
    return kept, coordinator.bounds()["random"]


def as_table(scores: list[np.ndarray]) -> pa.Table:
    """Candidates of images, the best first."""
    return pa.table(
        {
            "row": np.repeat(np.arange(len(scores)), [len(own) for own in scores]),
            "rank": np.concatenate([np.arange(len(own)) for own in scores]),
            "score": np.concatenate(scores).astype(np.float32),
        }
    )


def pool_of(images: int) -> pa.Table:
    columns = {"image_id": [f"{row:03d}" for row in range(images)], "height": [40] * images, "width": [50] * images}
    return pa.table([columns.get(name, [None] * images) for name in MANIFEST.names], schema=MANIFEST)


@pytest.mark.parametrize("share_of_good", [1.0, 0.1], ids=["good regions everywhere", "in few images"])
def test_what_is_found_for_a_larger_budget_holds_the_choice_of_a_smaller_one(
    context: Context, share_of_good: float
) -> None:
    """Brute force over budgets and images: wherever scores are said to serve, the same regions are chosen."""
    random, served = np.random.default_rng(0), 0
    for images in (3, 10, 25):
        context = replace(context, splits=replace(context.splits, pool=pool_of(images)))
        pixels = images * 40 * 50
        for _ in range(100):
            cap = float(random.choice([1.0, 2.0, 8.0]))
            few, more = sorted(random.integers(1, 2 * images, 2).tolist())
            config = replace(context.config.acquisition, image_cap=cap)
            plans = [RoundPlan(regions, "1") for regions in (few, more)]
            own = replace(context, config=changed(context.config, "acquisition", config), plan=plans[:1])
            limits = [[image_limit(config, (40, 50), plan, pixels)] * images for plan in plans]
            good = np.arange(images) < max(1, share_of_good * images)
            scores = [random.random(30).astype(np.float32) + 1 * is_good for is_good in good]
            left, bound = found_with(scores, more, limits[1])
            above = Above(np.array(limits[0]), None)
            serves = above.total([above.count(as_table(left), bound)]) >= few or bound == -np.inf
            if not serves or not covers(own, NOWHERE, result("random", images=images), asdict(plans[1])):
                continue
            served += 1
            assert best(left, few, limits[0]) == best(scores, few, limits[0]), (images, cap, few, more)
    assert served > 100
