from collections import Counter

import numpy as np
import pytest

from halo_ray.acquisition import tally
from halo_ray.acquisition.tally import Tally


@pytest.mark.parametrize("waiting", [1, 50, 10_000], ids=["added up at once", "now and then", "at the end"])
def test_sums_are_those_of_a_counter(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "WAITING", waiting)
    random = np.random.default_rng(0)
    expected: Counter[tuple[int, int]] = Counter()
    found = Tally(16)
    for _ in range(100):
        where, counts = random.integers(0, 5 * 16, 7), random.integers(1, 9, 7)
        found.add(where, counts)
        for place, count in zip(where.tolist(), counts.tolist(), strict=True):
            expected[divmod(place, 16)] += count
    read = {
        (number, bin_): count
        for number, bins, counts in found
        for bin_, count in zip(bins.tolist(), counts.tolist(), strict=True)
    }
    assert read == dict(expected)
    assert all((np.diff(bins) > 0).all() for _, bins, _ in found)


def test_an_empty_tally_has_nothing() -> None:
    assert list(Tally(16)) == []
