"""Whether regions keep their distance, over all images at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Ints = npt.NDArray[np.int64]

_APART = 1 << 18
"""Images are laid so far from each other that regions of different ones are never near; a side has 2^16 pixels."""


def nearest_within(new: Ints, old: Ints, radius: int) -> Ints:
    """Which of the regions (N, 3) ``new`` lie within ``radius`` of one of ``old`` (M, 3), as indices (K,).

    Regions are (row of the image, y, x); the distance is that of square windows, max(|Δy|, |Δx|), in one image.
    """
    if not len(new) or not len(old):
        return np.empty(0, np.int64)
    distance, _ = cKDTree(_places(old)).query(_places(new), p=np.inf, distance_upper_bound=radius + 0.5)
    return np.flatnonzero(distance <= radius)


def crowded(regions: Ints, radius: int) -> Ints:
    """Which of the regions (N, 3) lie within ``radius`` of another of them, as indices (K,)."""
    if len(regions) < 2:
        return np.empty(0, np.int64)
    places = _places(regions)
    distance, _ = cKDTree(places).query(places, k=2, p=np.inf, distance_upper_bound=radius + 0.5)
    return np.flatnonzero(distance[:, 1] <= radius)


def _places(regions: Ints) -> npt.NDArray[np.float64]:
    # float64 holds all these numbers exactly: rows are below 2^31.
    return (regions * [_APART, 1, 1]).astype(np.float64)
