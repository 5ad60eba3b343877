"""The exact global cut: which of all candidates of a pool are among its ``count`` best.

Scores are compared through 32-bit keys that order as float32 does, so that a histogram of keys bounds the cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BIN_BITS = 16
"""Low bits of a key that a histogram bin leaves out."""


def order_keys(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Keys that compare as the scores do; −0.0 counts as 0.0.

    The sign bit is flipped for positive floats and all bits for negative ones (IEEE 754 is sign-magnitude).
    """
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.uint32)
    keys: npt.NDArray[np.uint32] = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return keys


def histogram(scores: npt.NDArray[np.float32]) -> dict[int, int]:
    """Sparse histogram of the scores: bin (upper bits of the key) -> count."""
    bins, counts = np.unique(order_keys(scores) >> BIN_BITS, return_counts=True)
    return {int(b): int(n) for b, n in zip(bins, counts, strict=True)}


def lower_bound(bins: Mapping[int, int], count: int) -> float:
    """A score that the ``count``-th best of all candidates cannot lie under, −inf while there are fewer.

    Sound at any time while candidates are still coming in, since more of them can only raise the cut.
    """
    above = 0
    for key in sorted(bins, reverse=True):
        above += bins[key]
        if above >= count:
            return _smallest_score(key)
    return float("-inf")


@dataclass(frozen=True)
class Cut:
    """The last candidate that is chosen: chosen are those that order at or before it."""

    score: float
    image_id: str
    y: int
    x: int


def global_cut(
    scores: npt.NDArray[np.float32],
    image_ids: npt.NDArray[np.object_],
    y: npt.NDArray[np.int64],
    x: npt.NDArray[np.int64],
    count: int,
) -> tuple[Cut | None, npt.NDArray[np.bool_]]:
    """The cut, and which candidates (K,) are chosen: the ``count`` first by score falling, image_id, y, x rising.

    None where nothing is chosen. Per-image caps must have been applied before.
    """
    order = np.lexsort((x, y, image_ids, ~order_keys(scores)))[:count]
    chosen = np.zeros(len(scores), np.bool_)
    chosen[order] = True
    if not len(order):
        return None, chosen
    last = order[-1]
    return Cut(float(scores[last]), str(image_ids[last]), int(y[last]), int(x[last])), chosen


def _smallest_score(bin_key: int) -> float:
    key = np.uint32(bin_key << BIN_BITS)
    bits = key ^ np.uint32(1 << 31) if key >> 31 else ~key
    return float(np.array(bits, np.uint32).view(np.float32))
