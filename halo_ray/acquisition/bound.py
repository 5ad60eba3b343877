"""A lower bound of the global cut that holds while candidates are still coming in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halo_ray.acquisition.tally import add_up
from halo_ray.acquisition.threshold import BIN_BITS, BINS, Sequences, key_score, order_keys, threshold, within

Ints = npt.NDArray[np.int64]


class Histogram(NamedTuple):
    """The candidates of an image by the upper half of their keys, empty bins left out: small enough for a message."""

    bins: npt.NDArray[np.uint16]
    """(B,), rising."""
    counts: npt.NDArray[np.uint32]
    """(B,)."""


def histogram(scores: npt.NDArray[np.float32]) -> Histogram:
    """The sparse histogram of scores (K,)."""
    bins, counts = np.unique(order_keys(scores) >> BIN_BITS, return_counts=True)
    return Histogram(bins.astype(np.uint16), counts.astype(np.uint32))


class RunningBound:
    """A score that the ``count``-th best of all candidates cannot lie under, from the histograms known so far.

    Sound at any time, since more candidates can only raise the cut: above any score, what a sequence with a cap
    contributes never falls either. An added histogram costs time by its own size, not by all that came before.

    Args:
        count: how many are chosen; None: all, which nothing bounds.
        sequences: None: sequences have no cap.
    """

    def __init__(self, count: int | None, sequences: Sequences | None = None) -> None:
        self._count, self._sequences = count, sequences
        self._known: dict[int, tuple[Ints, Ints]] = {}
        self._total = np.zeros(BINS, np.int64)
        # The bin of the bound only ever rises, and _above counts what lies in it and above.
        self._bin, self._above = 0, 0

    def add(self, row: int, found: Histogram) -> None:
        """Counts the image of that row; whoever calls sees to it that none counts twice."""
        if self._count is None:
            return
        bins, counts = found.bins.astype(np.int64), found.counts.astype(np.int64)
        if self._sequences is not None:
            bins, counts = self._gain(int(self._sequences.of[row]), bins, counts)
        self._total[bins] += counts
        self._above += int(counts[bins >= self._bin].sum())
        while self._above - self._total[self._bin] >= self._count:
            self._above -= int(self._total[self._bin])
            self._bin += 1

    @property
    def score(self) -> float:
        """The bound; −inf while none is known."""
        known = self._count is not None and self._above >= self._count
        return key_score(self._bin << BIN_BITS) if known else float("-inf")

    def _gain(self, sequence: int, bins: Ints, counts: Ints) -> tuple[Ints, Ints]:
        """What more candidates of a sequence change in what it may contribute."""
        assert self._sequences is not None
        nothing = np.zeros(0, np.int64)
        seen_bins, seen = self._known.get(sequence, (nothing, nothing))
        joint, kept = add_up([(seen_bins, seen), (bins, counts)])
        limit = threshold(joint, kept, int(self._sequences.caps[sequence]))
        if limit is not None:
            kept = within(joint, kept, limit)
        # What lies below the cap's threshold can never count again.
        self._known[sequence] = joint[kept > 0], kept[kept > 0]
        return add_up([(joint, kept), (seen_bins, -seen)])
