"""The rows of the ledger: what each round bought, and what all rounds before it did."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.verification.subject import Pool

Ints = npt.NDArray[np.int64]

SAID = ("score", "radius", "entropy", "guess", "probability")
"""What the model said of a region."""


def keys(row: Ints, y: Ints, x: Ints) -> Ints:
    """One number for each place: rows are below 2^31, sides at most 2^16."""
    return row << 32 | y << 16 | x


def bits(table: pa.Table, name: str) -> npt.NDArray[np.uint32]:
    """(N,): the values of a column of SAID, exactly, so that NaN is equal to itself."""
    values = table[name].to_numpy()
    exact: npt.NDArray[np.uint32] = values.view(np.uint32) if values.dtype == np.float32 else values.astype(np.uint32)
    return exact


@dataclass(frozen=True)
class Purchase:
    """What a round bought, of images that the pool has."""

    table: pa.Table
    """LEDGER."""
    row: Ints
    """(N,): each pixel's image."""
    y: Ints
    x: Ints
    region: Ints
    """(N,): each pixel's region, an index of ``regions``."""
    regions: Ints
    """(K, 3): row, y and x of each region's centre, sorted."""
    first: Ints
    """(K,): the first pixel of each."""

    @classmethod
    def of(cls, table: pa.Table, row: Ints) -> Purchase:
        y, x, region_y, region_x = (
            table[name].to_numpy().astype(np.int64) for name in ("y", "x", "region_y", "region_x")
        )
        centres, first, region = np.unique(keys(row, region_y, region_x), return_index=True, return_inverse=True)
        regions = np.stack([centres >> 32, centres >> 16 & 0xFFFF, centres & 0xFFFF], axis=1)
        return cls(table, row, y, x, region, regions, first)

    @property
    def pixels(self) -> Ints:
        """(N,): keys of the pixels."""
        return keys(self.row, self.y, self.x)

    def per_image(self, pool: Pool) -> dict[str, int]:
        """Regions by image id."""
        rows, counts = np.unique(self.regions[:, 0], return_counts=True)
        return {pool.id(row): count for row, count in zip(rows.tolist(), counts.tolist(), strict=True)}

    def place(self, region: int, pool: Pool) -> str:
        """Names a region."""
        row, y, x = self.regions[region].tolist()
        return f"image {pool.id(row)!r}, region at y {y}, x {x}"

    def pixel(self, number: int, pool: Pool) -> str:
        """Names a pixel."""
        return f"image {pool.id(self.row[number])!r}, pixel at y {self.y[number]}, x {self.x[number]}"


@dataclass
class Earlier:
    """All that was labelled before a round."""

    pixels: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """Sorted keys."""
    regions: Ints = field(default_factory=lambda: np.empty((0, 3), np.int64))
    """(K, 3): no later region is centred in their windows, be they bought or known before (each pixel a region)."""
    bought: int = 0
    """Regions that were paid for."""
    paid: int = 0
    """Pixels that were paid for."""

    def add(self, number: int, purchase: Purchase) -> None:
        self.pixels = np.union1d(self.pixels, purchase.pixels)
        self.regions = np.concatenate([self.regions, purchase.regions])
        if number:
            self.bought += len(purchase.regions)
            self.paid += len(purchase.row)


def region_pixels_of(regions: Ints, radius: int, pool: Pool) -> Ints:
    """Sorted keys of all pixels in the (2r+1)² squares around regions (K, 3), clipped to their images."""
    side = np.arange(-radius, radius + 1)
    row, y, x = (regions[:, place, None, None] for place in range(3))
    y, x = np.broadcast_arrays(y + side[None, :, None], x + side[None, None, :])
    inside = (y >= 0) & (x >= 0) & (y < pool.height[row]) & (x < pool.width[row])
    found: Ints = np.unique(keys(np.broadcast_to(row, y.shape)[inside], y[inside], x[inside]))
    return found
