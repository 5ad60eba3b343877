"""Whether embeddings still use the ball: how many lie at its rim or its origin, where the radius tells nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from halo_ray.geometry import max_radius, radius

RIM = 0.99
"""Share of the largest radius from which a point is at the rim: √c‖h‖ within 1.2e-5 of 1 in float32."""

ORIGIN = 0.01
"""Share of the largest radius below which a point is at the origin: √c‖h‖ below 0.06."""


@dataclass(frozen=True)
class RadiusStatistics:
    """Radii of an embedding; those of a Euclidean one are norms, and have no rim and no origin to be at."""

    mean: float
    at_rim: float
    """Share of the vectors."""
    at_origin: float
    """Share of the vectors."""

    @classmethod
    def of(cls, h: Tensor, curvature: float) -> RadiusStatistics:
        """Of points (N, D, h, w); ``curvature`` 0 means vectors of a Euclidean space."""
        r = radii(h, curvature)
        rim, origin = extremes(r, curvature, h.dtype)
        return cls(float(r.mean()), rim / r.numel(), origin / r.numel())


def radii(h: Tensor, curvature: float) -> Tensor:
    """(N, h, w) hyperbolic radius of points (N, D, h, w), or their norm where ``curvature`` is 0."""
    return radius(h.detach(), curvature) if curvature else h.detach().norm(dim=1)


def extremes(r: Tensor, curvature: float, dtype: torch.dtype) -> tuple[int, int]:
    """How many of the radii of points of ``dtype`` lie at the rim and at the origin; none where ``curvature`` is 0."""
    if not curvature:
        return 0, 0
    most = max_radius(curvature, dtype)
    return int((r >= RIM * most).sum()), int((r <= ORIGIN * most).sum())


def radius_of_classes(r: Tensor, labels: Tensor, classes: int) -> list[float]:
    """Mean radius of the vectors of each class, NaN where there is none.

    Args:
        r: (N, h, w).
        labels: (N, H, W) classes, of which the nearest to each vector is taken.
    """
    near = nearest_labels(labels, r)
    return [float(r[near == number].mean()) if (near == number).any() else math.nan for number in range(classes)]


def nearest_labels(labels: Tensor, r: Tensor) -> Tensor:
    """(N, h, w): of labels (N, H, W) those nearest to the vectors whose radii are ``r`` (N, h, w); float32."""
    return F.interpolate(labels[:, None].float(), size=r.shape[1:], mode="nearest-exact")[:, 0]


def warning(rim: float, origin: float, most: float) -> str | None:
    """What is wrong with an embedding of which such shares lie at the rim and at the origin; None below ``most``."""
    for share, where, hint in (
        (rim, "at the rim of the ball", "lower the learning rate or model.curvature, or use model.hfr"),
        (origin, "at its origin", "train longer, or raise model.curvature"),
    ):
        if share > most:
            return f"{100 * share:.0f} % of the embedding lies {where}, where the radius tells nothing: {hint}"
    return None
