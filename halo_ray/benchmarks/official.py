"""What the official HALO implementation computes, step by step and in float64 as it does: the other side of benchmarks.

Written from its formulas; the tests hold it against the same reference vectors as our own functions.
"""

from __future__ import annotations

import math

import torch
from geoopt.manifolds.stereographic import math as ball
from torch import Tensor, nn
from torch.nn import functional as F

from halo_ray.acquisition.regions import window
from halo_ray.geometry import BOUNDARY_EPS, MLR_BOUNDARY_EPS


def exp0_float64(v: Tensor, curvature: float) -> Tensor:
    """exp0 of (N, D, h, w) by geoopt on all channels, float64."""
    k = torch.tensor(-curvature, dtype=torch.float64, device=v.device)
    h: Tensor = ball.project(ball.expmap0(v.double(), k=k, dim=1), k=k, dim=1, eps=BOUNDARY_EPS)
    return h


def interpolated_radius_float64(h: Tensor, size: tuple[int, int], curvature: float) -> Tensor:
    """Radius (N, H, W) of (N, D, h, w), all channels upsampled first, float64."""
    full = F.interpolate(h.double(), size=size, mode="bilinear", align_corners=True)
    k = torch.tensor(-curvature, dtype=torch.float64, device=h.device)
    distance: Tensor = ball.dist0(full, k=k, dim=1)
    return distance


class PoincareMLRFloat64(nn.Module):
    """Logits (N, C, h, w) of ball points (N, D, h, w) by expanded Möbius addition, in the order of its definition.

    Args:
        points, normals: (C, D), float64.
    """

    def __init__(self, points: Tensor, normals: Tensor, curvature: float) -> None:
        super().__init__()
        self.points, self.normals, self.curvature = nn.Parameter(points), nn.Parameter(normals), curvature

    def forward(self, x: Tensor) -> Tensor:
        c, p = self.curvature, -self.points
        x2 = x.norm(dim=1, keepdim=True) ** 2
        p2 = (p.norm(dim=1) ** 2)[:, None, None]
        px = F.conv2d(x, p[:, :, None, None])
        denominator = (1 + 2 * c * px + c * x2 * c * p2).clamp_min(1e-12)
        alpha = (1 + 2 * c * px + c * x2) / denominator
        beta = (1 - c * p2) / denominator
        squared = alpha**2 * p2 + beta**2 * x2 + 2 * alpha * beta * px
        limit = (1 - MLR_BOUNDARY_EPS) / math.sqrt(c)
        length = squared.clamp_min(1e-24).sqrt()
        shrink = torch.where(length > limit, limit / length, torch.ones_like(length))
        projected = torch.where(length < limit, squared, torch.full_like(squared, limit**2))
        unit = F.normalize(self.normals, dim=1)
        inner = beta * F.conv2d(x, unit[:, :, None, None]) + alpha * (p * unit).sum(1)[:, None, None]
        conformal = 2 / (1 - c * projected).clamp_min(1e-12)
        scale: Tensor = (2 / math.sqrt(c) * self.normals.norm(dim=1))[:, None, None]
        return scale * torch.asinh(math.sqrt(c) * inner * shrink * conformal)


def region_score_float64(
    logits: Tensor, h: Tensor, size: tuple[int, int], curvature: float, region_radius: int
) -> Tensor:
    """Radius × region entropy (H, W), both maps interpolated whole.

    In the official dtypes: logits (1, C, h, w) float32, embedding (1, D, h, w) float64.
    """
    full = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
    radius = interpolated_radius_float64(h, size, curvature)
    p = full.softmax(1)
    entropy = -(p * (p + 1e-6).log()).sum(1, keepdim=True) / math.log(logits.shape[1])
    side = 2 * region_radius + 1
    kernel = torch.ones(1, 1, side, side, device=logits.device)
    return (radius * F.conv2d(entropy, kernel, padding=region_radius)[:, 0])[0]


def one_by_one(
    score: Tensor, count: int, region_radius: int, exclusion_radius: int
) -> tuple[list[tuple[int, int]], Tensor]:
    """The best pixel of the whole map, then its window taken out, ``count`` times; overwrites ``score`` (H, W).

    Returns:
        (y, x) of the picks, and what they cover, bool (H, W).
    """
    picks, selected = [], torch.zeros(score.shape, dtype=torch.bool, device=score.device)
    for _ in range(count):
        best, rows = score.max(0)
        x = int(best.argmax())
        y = int(rows[x])
        for mask, reach, value in ((score, exclusion_radius, -math.inf), (selected, region_radius, True)):
            mask[window(y, x, reach)] = value
        picks.append((y, x))
    return picks, selected
