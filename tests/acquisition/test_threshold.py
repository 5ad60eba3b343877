"""The global cut against sorting everything."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_ray.acquisition.threshold import global_cut, histogram, lower_bound, order_keys

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(floats, floats)
def test_keys_order_as_the_floats_do(a: float, b: float) -> None:
    one, other = order_keys(np.array([a, b], np.float32)).tolist()
    assert (one < other, one == other) == (a < b, a == b)


@st.composite
def pools(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    number = draw(st.integers(0, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = draw(
        st.sampled_from([random.normal(size=number), random.integers(-1, 3, number) / 4, np.zeros(number)])
    ).astype(np.float32)
    ids = np.array([f"image-{i}" for i in random.integers(0, 4, number)], object)
    places = random.permutation(1000)[:number]  # no two candidates are the same pixel
    return scores, ids, places // 30, places % 30, draw(st.integers(0, 70))


@settings(max_examples=500, deadline=None)
@given(pools())
def test_cut_is_the_head_of_the_sorted_list(pool: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]) -> None:
    scores, ids, y, x, count = pool
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], ids[i], y[i], x[i]))[:count]
    cut, chosen = global_cut(scores, ids, y, x, count)
    assert set(np.flatnonzero(chosen)) == set(ranked)
    if ranked:
        last = ranked[-1]
        assert cut is not None
        assert (cut.score, cut.image_id, cut.y, cut.x) == (scores[last], ids[last], y[last], x[last])
    else:
        assert cut is None


@settings(max_examples=300, deadline=None)
@given(st.lists(floats, max_size=80), st.integers(1, 90), st.integers(0, 80))
def test_bound_never_exceeds_the_final_threshold_while_scores_come_in(
    values: list[float], count: int, seen: int
) -> None:
    scores = np.array(values, np.float32)
    bound = lower_bound(histogram(scores[:seen]), count)
    if len(scores) >= count:
        assert bound <= np.sort(scores)[::-1][count - 1]
    if min(seen, len(scores)) < count:
        assert bound == float("-inf")


def test_bound_is_tight_to_a_histogram_bin() -> None:
    scores = np.linspace(0.1, 1, 1000, dtype=np.float32)
    exact = np.sort(scores)[::-1][99]
    assert exact * (1 - 2**-7) <= lower_bound(histogram(scores), 100) <= exact
