"""Greedy picking against the one-by-one loop over everything, and against the official implementation's picks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_ray.acquisition import regions
from halo_ray.acquisition.regions import exclusion_mask, pick_regions

VECTORS = np.load(Path(__file__).parents[1] / "reference" / "acquisition.npz")


def one_by_one(
    score: np.ndarray,
    count: int | None,
    region_radius: int,
    exclusion_radius: int,
    taken: np.ndarray,
    bound: float,
) -> list[tuple[int, int, float]]:
    """Sort all pixels; take each in turn unless it lies near one that was taken."""
    height, width = score.shape
    places = [
        (-float(score[y, x]), y, x)
        for y in range(height)
        for x in range(width)
        if np.isfinite(score[y, x]) and not taken[y, x]
    ]
    picks: list[tuple[int, int, float]] = []
    for negative, y, x in sorted(places):
        if count is not None and len(picks) == count:
            break
        near = any(max(abs(y - py), abs(x - px)) <= max(exclusion_radius, region_radius) for py, px, _ in picks)
        if -negative >= bound and not near:
            picks.append((y, x, -negative))
    return picks


@st.composite
def cases(draw: st.DrawFn) -> dict:
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    kind = draw(st.sampled_from(["noise", "ties", "plateau", "ramp", "checkerboard"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y, x = np.mgrid[:height, :width]
    score = {
        "noise": random.normal(size=(height, width)),
        "ties": random.integers(-2, 3, (height, width)) / 2 * random.choice([-1.0, 1.0], (height, width)),
        "plateau": np.ones((height, width)),
        "ramp": y * width + x,
        "checkerboard": (y + x) % 2,
    }[kind].astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        score[random.random(score.shape) < draw(st.sampled_from([0.0, 0.1]))] = value
    return {
        "score": score,
        "count": draw(st.one_of(st.none(), st.integers(0, 200))),
        "region_radius": draw(st.integers(0, 3)),
        "exclusion_radius": draw(st.integers(0, 5)),
        "taken": random.random(score.shape) < draw(st.sampled_from([0.0, 0.3, 1.0])),
        "bound": draw(st.sampled_from([-np.inf, 0.0, 0.5])),
    }


@settings(max_examples=3000, deadline=None)
@given(cases())
def test_same_set_and_order_as_the_one_by_one_loop(case: dict) -> None:
    score, taken = torch.from_numpy(case["score"].copy()), torch.from_numpy(case["taken"].copy())
    picks = pick_regions(
        score,
        case["count"],
        region_radius=case["region_radius"],
        exclusion_radius=case["exclusion_radius"],
        taken=taken,
        bound=case["bound"],
    )
    assert list(zip(picks.y.tolist(), picks.x.tolist(), picks.score.tolist(), strict=True)) == one_by_one(**case)
    np.testing.assert_array_equal(score.numpy(), case["score"])  # inputs stay as they were
    np.testing.assert_array_equal(taken.numpy(), case["taken"])


LARGE = np.random.default_rng(0).integers(0, 50, (90, 120)).astype(np.float32)
ROWS, COLUMNS = np.mgrid[:90, :120].astype(np.float32)


@pytest.mark.parametrize("count", [0, 1, 20, 150, None])
@pytest.mark.parametrize(
    "score",
    [LARGE, ROWS * 120 + COLUMNS, -ROWS * 120 - COLUMNS, ROWS + COLUMNS, np.ones_like(ROWS), (ROWS + COLUMNS) % 2],
    ids=["ties", "ramp", "falling ramp", "diagonal ramp", "plateau", "checkerboard"],
)
def test_a_large_map_is_picked_the_same_a_chunk_at_a_time(
    score: np.ndarray, count: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "CHUNK", 100)
    nothing = np.zeros(score.shape, bool)
    picks = pick_regions(torch.from_numpy(score), count, region_radius=1, exclusion_radius=2)
    expected = one_by_one(score, count, 1, 2, nothing, -np.inf)
    assert list(zip(picks.y.tolist(), picks.x.tolist(), picks.score.tolist(), strict=True)) == expected


def test_a_map_that_is_a_view_of_another_is_picked_as_its_copy() -> None:
    score = torch.from_numpy(LARGE)
    for view in (score.T, score[:, ::3], score[10:20]):
        one, other = (pick_regions(s, 40, region_radius=1, exclusion_radius=2) for s in (view, view.clone()))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("case", range(4))
def test_official_picks(case: int) -> None:
    count, region_radius, exclusion_radius = VECTORS[f"select{case}/params"].tolist()
    # float64 there; distinct scores stay distinct in float32, so the picks must not change.
    score = torch.from_numpy(VECTORS["score/radius_x_region_entropy_normalized"]).float()
    taken = torch.from_numpy(VECTORS[f"select{case}/taken"])
    picks = pick_regions(score, count, region_radius=region_radius, exclusion_radius=exclusion_radius, taken=taken)
    selected = exclusion_mask((48, 96), picks.y, picks.x, region_radius)
    active = exclusion_mask((48, 96), picks.y, picks.x, exclusion_radius) | taken
    expected = torch.from_numpy(VECTORS[f"select{case}/selected"])
    assert torch.equal(selected, expected & ~taken | selected & expected)
    assert torch.equal(active, torch.from_numpy(VECTORS[f"select{case}/active"]))


def test_a_count_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="count is -1"):
        pick_regions(torch.zeros(3, 3), -1, region_radius=1, exclusion_radius=1)
