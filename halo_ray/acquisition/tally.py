"""Histograms of many things that come in many parts: sparse, because few of the bins are ever used."""

from __future__ import annotations

from collections.abc import Iterator
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
        parts = [(self._where, self._counts), *self._waiting]
        where = np.concatenate([where for where, _ in parts])
        order = np.argsort(where, kind="stable")
        where, counts = where[order], np.concatenate([counts for _, counts in parts])[order]
        self._where, first = np.unique(where, return_index=True)
        self._counts = np.add.reduceat(counts, first) if len(first) else counts
        self._waiting, self._size = [], 0
