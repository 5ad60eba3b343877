"""Histograms of many things that come in many parts: sparse, because few of the bins are ever used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

WAITING = 1 << 18
"""Counts that may wait to be added up, so that adding a part does not cost a pass over all."""

Ints = npt.NDArray[np.int64]


class Tally:
    """Sums of histograms, each with a number; iterating gives (number, bins rising, counts) of each that has any.

    Args:
        bins: how many bins a histogram has.
    """

    def __init__(self, bins: int) -> None:
        self._bins = bins
        self._where, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)
        self._waiting: list[tuple[Ints, Ints]] = []
        self._size = 0

    def add(self, where: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.integer[Any]]) -> None:
        """Adds counts (P,); ``where`` is the histogram's number times ``bins``, plus the bin."""
        self._waiting.append((where.astype(np.int64), counts.astype(np.int64)))
        self._size += len(where)
        if self._size > max(WAITING, len(self._where)):
            self._add_up()

    def __iter__(self) -> Iterator[tuple[int, Ints, Ints]]:
        self._add_up()
        numbers, starts = np.unique(self._where // self._bins, return_index=True)
        for number, start, stop in zip(numbers.tolist(), starts, [*starts, len(self._where)][1:], strict=True):
            yield number, self._where[start:stop] - number * self._bins, self._counts[start:stop]

    def _add_up(self) -> None:
        self._where, self._counts = add_up([(self._where, self._counts), *self._waiting])
        self._waiting, self._size = [], 0


def add_up(histograms: Sequence[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """The sum of sparse histograms (bins, counts): all bins that any of them names, rising, and their counts."""
    bins, place = np.unique(np.concatenate([bins for bins, _ in histograms]), return_inverse=True)
    counts = np.zeros(len(bins), np.int64)
    np.add.at(counts, place, np.concatenate([counts for _, counts in histograms]))
    return bins, counts
