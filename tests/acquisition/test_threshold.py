"""The global cut and the running bound against sorting everything."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_ray.acquisition.bound import RunningBound, histogram
from halo_ray.acquisition.threshold import Answer, Candidates, Cut, Question, Sequences, key_score, order_keys

IMAGES = 7
Row = tuple[float, int, int, int]
"""Minus the score, row of the image, y, x: sorts as the candidates are chosen."""

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(floats, floats)
def test_keys_order_as_the_floats_do(a: float, b: float) -> None:
    one, other = order_keys(np.array([a, b], np.float32)).tolist()
    assert (one < other, one == other) == (a < b, a == b)


@given(floats)
def test_a_key_gives_its_score_back(a: float) -> None:
    assert key_score(int(order_keys(np.array([a], np.float32))[0])) == a


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[Row], int | None, Sequences | None]:
    """Candidates in the order they are chosen in, how many are, and sequences with caps."""
    number = draw(st.integers(0, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = draw(
        st.sampled_from(
            [
                random.normal(size=number),
                random.integers(-1, 3, number) / 4,
                np.zeros(number),
                1 + random.integers(0, 5, number) * 2.0**-22,  # differ in the lower half of the key alone
            ]
        )
    ).astype(np.float32)
    images = random.integers(0, IMAGES, number)
    places = random.permutation(1000)[:number]  # no two candidates are the same pixel
    all_of = zip(scores.tolist(), images.tolist(), places.tolist(), strict=True)
    rows = sorted((-score, image, place // 30, place % 30) for score, image, place in all_of)
    count = draw(st.one_of(st.none(), st.integers(1, 70)))
    sequences = None
    if draw(st.booleans()):
        caps = draw(st.lists(st.sampled_from([1, 2, 5, 11, 10**9]), min_size=3, max_size=3))
        sequences = Sequences(random.integers(0, 3, IMAGES).astype(np.int32), np.array(caps))
    return rows, count, sequences


def allowed(rows: list[Row], sequences: Sequences | None) -> list[Row]:
    """What the caps leave, one by one."""
    if sequences is None:
        return rows
    room, left = sequences.caps.tolist(), []
    for row in rows:
        sequence = sequences.of[row[1]]
        if room[sequence]:
            room[sequence] -= 1
            left.append(row)
    return left


def candidates(rows: list[Row]) -> Candidates:
    return Candidates(np.array([-row[0] for row in rows], np.float32), np.array([row[1] for row in rows], np.uint32))


@settings(max_examples=2000, deadline=None)
@given(pools(), st.integers(1, 9), st.randoms(use_true_random=False))
def test_cut_is_the_head_of_the_sorted_list(
    pool: tuple[list[Row], int | None, Sequences | None], parts: int, random: object
) -> None:
    rows, count, sequences = pool
    mixed = rows.copy()
    random.shuffle(mixed)  # type: ignore[attr-defined]
    passes = []

    def ask(question: Question) -> Iterator[Answer]:
        passes.append(question.counted)
        return (question.answer(candidates(mixed[part::parts])) for part in range(parts))  # images lie in several parts

    found = Cut(IMAGES, count, sequences).run(ask)
    left = allowed(rows, sequences)
    chosen = left[:count]
    assert len(passes) <= 3
    assert found.candidates == len(rows)
    numbers = np.bincount([row[1] for row in chosen], minlength=IMAGES) if chosen else np.zeros(IMAGES, int)
    assert dict(zip(found.rows.tolist(), found.counts.tolist(), strict=True)) == {
        image: number for image, number in enumerate(numbers.tolist()) if number
    }
    if count is not None and len(left) >= count:
        assert found.cut == (-chosen[-1][0], chosen[-1][1])
    else:
        assert found.cut is None


@settings(max_examples=500, deadline=None)
@given(pools(), st.permutations(range(IMAGES)))
def test_bound_never_passes_the_cut_and_never_falls(
    pool: tuple[list[Row], int | None, Sequences | None], order: list[int]
) -> None:
    rows, count, sequences = pool
    chosen = allowed(rows, sequences)[:count]
    bound, before = RunningBound(count, sequences), -np.inf
    for image in order:
        bound.add(image, histogram(candidates([row for row in rows if row[1] == image]).scores))
        assert bound.score >= before
        before = bound.score
        if chosen:
            assert bound.score <= -chosen[-1][0]
    if count is None or len(chosen) < count:
        assert bound.score == -np.inf
    else:  # all is known: the bound lies in the bin of the cut
        cut = np.array([-chosen[-1][0], bound.score], np.float32)
        assert len(set((order_keys(cut) >> 16).tolist())) == 1


@pytest.mark.parametrize("sequences", [1, 5000])
def test_memory_of_the_search_does_not_grow_with_the_candidates(sequences: int) -> None:
    """Four times the candidates in the same images and bins take as little memory; so do many sequences."""

    def peak(candidates_of_an_image: int) -> int:
        images, random = 5000, np.random.default_rng(0)
        own = Sequences(np.arange(images, dtype=np.int32) % sequences, np.full(sequences, 10**6))

        def ask(question: Question) -> Iterator[Answer]:
            for start in range(0, images, 20):
                rows = np.repeat(np.arange(start, start + 20), candidates_of_an_image)
                scores = (random.integers(0, 20, len(rows)) / 20).astype(np.float32)
                yield question.answer(Candidates(scores, rows))

        tracemalloc.start()
        found = Cut(images, 1000, own).run(ask)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert int(found.counts.sum()) == 1000
        return most

    few, many = peak(100), peak(400)  # either fills all bins
    assert many - few < 1.5e6  # 1,500,000 candidates more, which take 6 MB at the least if they are held
    assert few < 30e6


@pytest.mark.parametrize("sequences", [None, Sequences(np.zeros(3, np.int32), np.array([5]))])
def test_nothing_to_choose_from(sequences: Sequences | None) -> None:
    for ask in (lambda question: [], lambda question: [question.answer(candidates([]))]):
        found = Cut(3, 5, sequences).run(ask)
        assert (len(found.rows), found.cut, found.candidates) == (0, None, 0)
