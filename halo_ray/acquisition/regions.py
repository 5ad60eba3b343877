"""Greedy region picking: the best pixel, then the best outside its exclusion window, and so on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from halo_ray.acquisition.threshold import order_keys

CHUNK = 4096
"""Pixels that are looked at together: between chunks, those that lie in the window of a pick are thrown out at once."""


class Picks(NamedTuple):
    """Region centres in falling order of score."""

    y: Tensor
    """int64 (K,)."""
    x: Tensor
    """int64 (K,)."""
    score: Tensor
    """float32 (K,)."""


def pick_regions(
    score: Tensor,
    count: int | None,
    *,
    region_radius: int,
    exclusion_radius: int,
    taken: Tensor | None = None,
    bound: float | None = None,
) -> Picks:
    """Picks greedily in the order (score falling, then y, then x rising).

    A pick takes the (2r+1)² square around it and forbids further picks within the (2e+1)² square; what is taken is
    not picked again either, where e < r. NaN and ±inf are never picked.

    Args:
        score: float32 (H, W).
        count: the most picks; None: as many as there are.
        region_radius: r of the region that a pick stands for.
        exclusion_radius: e.
        taken: bool (H, W), places that must not be picked.
        bound: picks below this score are left out.

    Raises:
        ValueError: ``count`` is below 0.
    """
    if count is not None and count < 0:
        raise ValueError(f"count is {count}: it must be 0 or more")
    values = score.float().contiguous().numpy()
    free = np.isfinite(values)
    if taken is not None:
        free &= ~taken.numpy()
    if bound is not None:
        # Nothing below the bound can be picked, and nothing there forbids a pick above it.
        free &= values >= np.float32(bound)
    radius = max(exclusion_radius, region_radius)
    limit = score.numel() if count is None else count
    # A pick forbids (2·radius+1)² pixels at most, itself included, so that the limit·(2·radius+1)² best hold all picks.
    order = _best(values, free, limit * (2 * radius + 1) ** 2)
    flat = np.array(_walk(order, free, radius, limit), np.int64)
    y, x = np.divmod(flat, score.shape[1])
    return Picks(torch.from_numpy(y), torch.from_numpy(x), torch.from_numpy(values[y, x]))


def exclusion_mask(size: tuple[int, int], y: Tensor, x: Tensor, exclusion_radius: int) -> Tensor:
    """bool (H, W): True within the (2e+1)² square of any of the regions centred at ``y``, ``x`` (K,)."""
    mask = torch.zeros(size, dtype=torch.bool)
    for row, col in zip(y.tolist(), x.tolist(), strict=True):
        mask[window(row, col, exclusion_radius)] = True
    return mask


def window(y: int, x: int, side_radius: int) -> tuple[slice, slice]:
    """The square of that radius around a pixel, clipped at the image's upper and left edge (slices clip the others)."""
    return (
        slice(max(y - side_radius, 0), y + side_radius + 1),
        slice(max(x - side_radius, 0), x + side_radius + 1),
    )


def _best(values: npt.NDArray[np.float32], free: npt.NDArray[np.bool_], number: int) -> npt.NDArray[np.int64]:
    """Flat indices of the ``number`` best free pixels (or all) in picking order."""
    places = np.flatnonzero(free)
    keys = ~order_keys(values.ravel()[places])  # rising where scores fall
    if number < len(places):
        cut = np.partition(keys, number - 1)[number - 1] if number else 0
        # Of those that tie with the last one, the first by y and x.
        better, tied = np.flatnonzero(keys < cut), np.flatnonzero(keys == cut)
        keep = np.concatenate([better, tied[: number - len(better)]])
        places, keys = places[keep], keys[keep]
    # One number a pixel, the key above the place: a plain sort is far faster than a stable one or one by two keys.
    joint = np.sort(keys.astype(np.uint64) << np.uint64(32) | places.astype(np.uint64))
    order: npt.NDArray[np.int64] = (joint & np.uint64(2**32 - 1)).astype(np.int64)
    return order


def _walk(order: npt.NDArray[np.int64], free: npt.NDArray[np.bool_], radius: int, limit: int) -> list[int]:
    """The picks among pixels that come in picking order; marks their windows in ``free``."""
    width = free.shape[1]
    flat = free.reshape(-1)
    look = flat.data  # a memoryview: single reads are faster than numpy's
    picks: list[int] = []
    for start in range(0, len(order), CHUNK):
        chunk = order[start : start + CHUNK]
        for place in chunk[flat[chunk]].tolist():
            if look[place]:
                if len(picks) == limit:
                    return picks
                picks.append(place)
                free[window(place // width, place % width, radius)] = False
    return picks
