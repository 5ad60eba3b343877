"""Read maps of the network at places in the image, as if they had been upsampled (bilinear, align_corners=True)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from halo_ray.geometry import output_cells


def at_places(maps: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values of low-resolution maps at single places, without upsampling the maps.

    Args:
        maps: (N, C, h, w).
        image: (P,) index of each place's image, 0..N−1.
        y, x: (P,) places in [0, 1], from the centre of the first pixel to that of the last.

    Returns:
        (P, C), differentiable with respect to ``maps``.
    """
    rows, cols = maps.shape[-2:]
    i, fy = _cell(y * (rows - 1), rows)
    j, fx = _cell(x * (cols - 1), cols)
    below, right = (i + 1).clamp_max(rows - 1), (j + 1).clamp_max(cols - 1)
    channels_last = maps.permute(0, 2, 3, 1)
    top = torch.lerp(channels_last[image, i, j], channels_last[image, i, right], fx.to(maps.dtype)[:, None])
    bottom = torch.lerp(channels_last[image, below, j], channels_last[image, below, right], fx.to(maps.dtype)[:, None])
    return torch.lerp(top, bottom, fy.to(maps.dtype)[:, None])


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) of maps (N, C, h, w)."""
    if maps.shape[2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


def upsampled_rows(maps: Tensor, size: tuple[int, int], rows: int) -> Iterator[tuple[int, Tensor]]:
    """``upsample(maps, size)`` in tiles of ``rows`` rows from the top, so that it never stands in memory as a whole.

    Yields:
        The tile's first row and the tile (N, C, at most ``rows``, W), which may be changed in place.
    """
    height, width = size
    low = maps.shape[2]
    cell, weight = output_cells(height, low, maps)
    of_row = cell.tolist()
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        first, last = of_row[start], min(of_row[stop - 1] + 1, low - 1)
        wide = upsample(maps[:, :, first : last + 1], (last - first + 1, width))
        tile = maps.new_empty(*maps.shape[:2], stop - start, width)
        above = start
        while above < stop:
            # All rows that lie between the same two low-resolution rows at once: nothing is gathered, only mixed.
            below = bisect_right(of_row, of_row[above], above, stop)
            top = of_row[above] - first
            under = min(top + 1, last - first)
            mix = weight[above:below, None]
            torch.lerp(
                wide[:, :, top : top + 1],
                wide[:, :, under : under + 1],
                mix,
                out=tile[:, :, above - start : below - start],
            )
            above = below
        yield start, tile


def _cell(place: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    index = place.floor().clamp(0, cells - 1)
    return index.long(), place - index
