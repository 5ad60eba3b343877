"""Greedy region picking: the best pixel, then the best outside its exclusion window, and so on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


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
    """
    forbidden = ~torch.isfinite(score)
    if taken is not None:
        forbidden = forbidden | taken
    free = ~forbidden.numpy()
    values = score.numpy()
    allowed = free if bound is None else free & (values >= np.float32(bound))
    candidates = np.flatnonzero(allowed)
    limit = len(candidates) if count is None else count
    free = free.copy()
    picks: list[int] = []
    # Best pixels first, a part at a time: sorting all of them would cost more than a small count needs.
    part = max(4096, 16 * limit) if count is not None else len(candidates)
    while len(candidates) and len(picks) < limit:
        chunk, candidates = _split_best(candidates, values, part)
        _walk(chunk, values.shape[1], free, max(exclusion_radius, region_radius), limit, picks)
        candidates = candidates[free.ravel()[candidates]]
    flat = np.array(picks, np.int64)
    y, x = np.divmod(flat, score.shape[1])
    return Picks(torch.from_numpy(y), torch.from_numpy(x), score[torch.from_numpy(y), torch.from_numpy(x)])


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


def _split_best(
    candidates: npt.NDArray[np.int64], values: npt.NDArray[np.float32], part: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The ``part`` best candidates (all that tie with the last included) in picking order, and the rest."""
    scores = values.ravel()[candidates]
    if part < len(candidates):
        cut = np.partition(scores, len(scores) - part)[len(scores) - part]
        best, rest = candidates[scores >= cut], candidates[scores < cut]
    else:
        best, rest = candidates, candidates[:0]
    # Candidates rise in (y, x), and a stable sort keeps that order among equal scores.
    return best[np.argsort(-values.ravel()[best], kind="stable")], rest


def _walk(
    order: npt.NDArray[np.int64],
    width: int,
    free: npt.NDArray[np.bool_],
    exclusion_radius: int,
    limit: int,
    picks: list[int],
) -> None:
    for place in order.tolist():
        y, x = divmod(place, width)
        if free[y, x]:
            picks.append(place)
            free[window(y, x, exclusion_radius)] = False
            if len(picks) == limit:
                return
