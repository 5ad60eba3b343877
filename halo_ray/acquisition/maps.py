"""What a network says of every pixel, at label resolution: the maps that acquisition functions are made of.

Logits and embedding stay at low resolution; full-size maps have one value a pixel and are computed in tiles of rows, so
that (C, H, W) or (D, H, W) never stands in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from halo_ray.geometry import max_radius, upsampled_radius
from halo_ray.models.sampling import upsampled_rows

TILE_ROWS = 32
"""Rows of a tile: 19 classes of 2,048 columns are 5 MB, which stays in a processor's cache."""

RADIUS_BINS = 100
"""Into so many equal bins hyperbolic impurity sorts an image's radii (K of the official code)."""


class Maps:
    """Maps of N images, each computed when it is first asked for and then kept: do not change one in place.

    Args:
        logits: (N, C, h, w).
        embedding: (N, D, h, w), on the ball, or Euclidean vectors where ``curvature`` is 0.
        size: (H, W) of the maps.
        curvature: c > 0 of the ball; 0 for Euclidean embeddings.
        region_radius: r of the (2r+1)² region that is labelled together.
        normalize: ``minmax``: ``normalized`` scales a map to [0, 1] in each image; ``none``: it leaves it.
        uncertainty: whether ``uncertainty`` is summed over the region or taken at its centre.
        image_ids: N ids, for functions that are seeded per image.
        seed: for the same.

    Attributes of the same names hold them. All maps are (N, H, W).
    """

    def __init__(
        self,
        logits: Tensor,
        embedding: Tensor,
        size: tuple[int, int],
        *,
        curvature: float,
        region_radius: int = 1,
        normalize: Literal["none", "minmax"] = "none",
        uncertainty: Literal["region", "pixel"] = "region",
        image_ids: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.logits, self.embedding, self.size, self.curvature = logits, embedding, size, curvature
        self.region_radius, self.normalize, self.uncertainty_of = region_radius, normalize, uncertainty
        self.image_ids, self.seed = image_ids, seed

    def per_pixel(self, function: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> Tensor:
        """The map of a function of upsampled logits, (N, C, rows, W) -> (N, rows, W), called tile by tile.

        The function may overwrite what it is given.
        """
        return _tiled(self.logits, self.size, function, dtype)

    @cached_property
    def entropy(self) -> Tensor:
        """Prediction entropy −Σ p log p / log C, in [0, 1]."""
        return self.per_pixel(prediction_entropy)

    @cached_property
    def margin(self) -> Tensor:
        """1 − (p of the likeliest class − p of the second): 1 where they are as likely, 0 where there is no doubt."""
        return self.per_pixel(_margin)

    @cached_property
    def least_confidence(self) -> Tensor:
        """1 − p of the likeliest class."""
        return self.per_pixel(lambda z: 1 - z.softmax(1).amax(1))

    @cached_property
    def guess(self) -> Tensor:
        """The likeliest class, int64."""
        return self.per_pixel(lambda z: z.argmax(1), torch.int64)

    @cached_property
    def radius(self) -> Tensor:
        """Hyperbolic radius of the upsampled embedding; its norm where the embedding is Euclidean."""
        if self.curvature:
            return upsampled_radius(self.embedding, self.size, self.curvature)
        return _tiled(self.embedding, self.size, lambda tile: tile.norm(dim=1))

    @property
    def scarcity(self) -> Tensor:
        """Radius over R_max, the largest that the ball's margin admits: comparable across images. Euclidean: radius."""
        return self.radius / max_radius(self.curvature, self.radius.dtype) if self.curvature else self.radius

    @cached_property
    def uncertainty(self) -> Tensor:
        """Entropy summed over the region, zero padding; that of the pixel itself where so configured."""
        return self.entropy if self.uncertainty_of == "pixel" else region_sum(self.entropy, self.region_radius)

    def mean_uncertainty(self, radius: int) -> Tensor:
        """Mean entropy over the part of the (2·radius+1)² window that lies in the image; or the pixel's own."""
        if self.uncertainty_of == "pixel":
            return self.entropy
        return region_sum(self.entropy, radius) / region_sum(torch.ones_like(self.entropy[:1]), radius)

    @cached_property
    def radius_bins(self) -> Tensor:
        """Each radius by its place in its image's range: int64 in 0..RADIUS_BINS−1, the largest radius in bin 0."""
        place = (1 - minmax(self.radius)) * RADIUS_BINS
        return (place - 0.5).round().clamp(0, RADIUS_BINS - 1).long()

    def normalized(self, score: Tensor) -> Tensor:
        """The map, scaled to [0, 1] in each image where so configured."""
        return minmax(score) if self.normalize == "minmax" else score


def minmax(score: Tensor) -> Tensor:
    """Each image's map scaled to [0, 1]; 0 where it is constant."""
    low, high = score.amin((1, 2), keepdim=True), score.amax((1, 2), keepdim=True)
    return (score - low) / (high - low).clamp_min(torch.finfo(score.dtype).tiny)


def region_sum(score: Tensor, radius: int) -> Tensor:
    """Sum of (N, H, W) over the (2·radius+1)² window around each pixel, zero padding."""
    if radius == 0:
        return score
    return F.avg_pool2d(score[:, None], 2 * radius + 1, stride=1, padding=radius, divisor_override=1)[:, 0]


def impurity(labels: Tensor, classes: int, radius: int) -> Tensor:
    """Entropy of the classes in the (2·radius+1)² window around each pixel, over log ``classes``, in [0, 1].

    RIPU's region impurity (Xie et al. 2022, eq. 4). Window pixels outside the image do not count.

    Args:
        labels: int64 (N, H, W) in 0..classes−1.
    """
    height = labels.shape[1]
    out = torch.empty(labels.shape, device=labels.device)
    numbers = torch.arange((2 * radius + 1) ** 2 + 1.0, device=labels.device)
    n_log_n = torch.special.xlogy(numbers, numbers)
    for start in range(0, height, TILE_ROWS):
        above, stop = max(start - radius, 0), min(start + TILE_ROWS, height)
        tile = labels[:, above : stop + radius]
        n = _count(torch.ones(1, *tile.shape[1:], dtype=torch.bool, device=labels.device), radius)
        # Σ p log(1/p) with p = n_c/n is log n − Σ n_c log n_c / n; classes that the tile lacks add nothing.
        total = torch.zeros(tile.shape, device=labels.device)
        for present in tile.flatten().bincount(minlength=classes).nonzero().flatten().tolist():
            total += torch.take(n_log_n, _count(tile == present, radius))
        inside = slice(start - above, stop - above)
        # From the same table, so that a window of one class has exactly 0.
        out[:, start:stop] = ((torch.take(n_log_n, n) - total) / n)[:, inside].clamp_min(0) / math.log(classes)
    return out


def _tiled(
    low: Tensor, size: tuple[int, int], function: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None
) -> Tensor:
    """(N, H, W) of a function of the upsampled (N, C, h, w), tile by tile."""
    out = low.new_empty(low.shape[0], *size, dtype=dtype)
    for start, tile in upsampled_rows(low, size, TILE_ROWS):
        out[:, start : start + tile.shape[2]] = function(tile)
    return out


def _count(present: Tensor, radius: int) -> Tensor:
    """How many of bool (N, H, W) are true in the window around each pixel, int64; four times as fast as pooling."""
    height, width = present.shape[1:]
    padded = F.pad(present.int(), (radius, radius, radius, radius))
    rows = reduce(torch.add, (padded[:, :, shift : shift + width] for shift in range(2 * radius + 1)))
    return reduce(torch.add, (rows[:, shift : shift + height] for shift in range(2 * radius + 1))).long()


def prediction_entropy(logits: Tensor) -> Tensor:
    """−Σ p log p / log C of logits (N, C, h, w), in [0, 1]: (N, h, w)."""
    log_p = logits.log_softmax(1)
    return (log_p.exp().mul_(log_p)).sum(1).div_(-math.log(logits.shape[1])).clamp_min_(0)


def _margin(logits: Tensor) -> Tensor:
    p = logits.softmax(1)
    best, guess = p.max(1, keepdim=True)
    second = p.scatter_(1, guess, -1).amax(1)  # without the likeliest: far faster than topk over classes
    return 1 - (best[:, 0] - second)
