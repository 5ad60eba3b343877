"""The Poincaré ball of curvature −c: what geoopt lacks for hyperbolic segmentation.

Throughout, ``curvature`` is the positive c; points satisfy √c‖h‖ < 1 and are kept at √c‖h‖ <= 1 − 1e-5 in every dtype.
"""

from __future__ import annotations

import math

import geoopt
import torch
from geoopt.manifolds.stereographic import math as ball
from torch import Tensor, nn
from torch.nn import functional as F

BOUNDARY_EPS = 1e-5
"""Distance kept from the rim, in units of the ball's radius. geoopt's float32 default, 4e-3, caps the radius at 6.2."""

MLR_BOUNDARY_EPS = 1e-3
"""The same for −p⊕x inside PoincareMLR, as the official implementation has it."""

TILE_ROWS = 128
"""Output rows that upsampled_radius computes at once; bounds its extra memory."""


def exp0(v: Tensor, curvature: float, dim: int = 1) -> Tensor:
    """Exponential map at the origin, tanh(√c‖v‖)/(√c‖v‖) · v, projected into the ball.

    Args:
        v: tangent vectors along ``dim``, any shape.

    Returns:
        Points on the ball, shape and dtype of ``v``.
    """
    k = _k(curvature, v)
    h: Tensor = ball.project(ball.expmap0(v, k=k, dim=dim), k=k, dim=dim, eps=BOUNDARY_EPS)
    return h


def radius(h: Tensor, curvature: float, dim: int = 1) -> Tensor:
    """Hyperbolic distance to the origin, (2/√c) artanh(√c‖h‖); ``dim`` is removed."""
    distance: Tensor = ball.dist0(h, k=_k(curvature, h), dim=dim)
    return distance


def max_radius(curvature: float, dtype: torch.dtype) -> float:
    """The largest radius that ``exp0`` can give: that of a point at the projection margin."""
    rim = torch.tensor([(1 - BOUNDARY_EPS) / math.sqrt(curvature)], dtype=dtype)
    return float(radius(rim, curvature, dim=0))


def upsampled_radius(h: Tensor, size: tuple[int, int], curvature: float) -> Tensor:
    """Radius of the bilinearly interpolated embedding (align_corners=True), without interpolating D channels.

    ‖Σ wᵢeᵢ‖² = Σᵢⱼ wᵢwⱼ⟨eᵢ,eⱼ⟩ over the four corners of a cell, so five inner-product maps at low resolution suffice.

    Args:
        h: points, (N, D, h, w).
        size: (H, W) in pixels.

    Returns:
        (N, H, W), dtype of ``h``.
    """
    rows, cols = h.shape[-2:]
    # Repeating the last row and column makes every pixel lie in a cell; their weight there is zero.
    padded = F.pad(h, (0, 1, 0, 1), mode="replicate")
    here, right = padded[..., :rows, :cols], padded[..., :rows, 1:]
    below, diagonal = padded[..., 1:, :cols], padded[..., 1:, 1:]
    own = (padded * padded).sum(1)
    horizontal = (padded[..., :, :-1] * padded[..., :, 1:]).sum(1)
    vertical = (padded[..., :-1, :] * padded[..., 1:, :]).sum(1)
    falling, rising = (here * diagonal).sum(1), (right * below).sum(1)

    y, fy = _cells(size[0], rows, h)
    x, fx = _cells(size[1], cols, h)
    out = h.new_empty(h.shape[0], *size)
    for start in range(0, size[0], TILE_ROWS):
        i, f = y[start : start + TILE_ROWS, None], fy[start : start + TILE_ROWS, None]
        a, b, c, d = (1 - f) * (1 - fx), (1 - f) * fx, f * (1 - fx), f * fx
        squared = (
            a * a * own[:, i, x] + b * b * own[:, i, x + 1] + c * c * own[:, i + 1, x] + d * d * own[:, i + 1, x + 1]
        )
        squared += 2 * (a * b * horizontal[:, i, x] + c * d * horizontal[:, i + 1, x])
        squared += 2 * (a * c * vertical[:, i, x] + b * d * vertical[:, i, x + 1])
        squared += 2 * (a * d * falling[:, i, x] + b * c * rising[:, i, x])
        norm = squared.clamp_min_(0).sqrt_()
        out[:, start : start + TILE_ROWS] = radius(norm.unsqueeze(1), curvature)
    return out


class PoincareMLR(nn.Module):
    """Hyperbolic multinomial logistic regression (Ganea et al. 2018, eq. 25, as the official HALO code has it).

    logit = (2/√c)‖a‖ asinh(√c λ ⟨−p⊕x, a/‖a‖⟩) with λ = 2/(1 − c‖−p⊕x‖²) and ‖−p⊕x‖ clamped to (1 − 1e-3)/√c;
    as c→0 it tends to 4⟨x − p, a⟩. ⊕ is expanded into inner products, so no (N, classes, D, h, w) tensor arises.

    Args:
        channels: D.
        classes: number of classes C.
        curvature: c > 0.

    Parameters ``points`` p (on the ball) and ``normals`` a (tangent at the origin) are (classes, channels), float32.
    """

    def __init__(self, channels: int, classes: int, curvature: float = 1.0) -> None:
        super().__init__()
        self.curvature = float(curvature)
        # The points start near the origin, where the classifier is almost linear.
        start = exp0(torch.randn(classes, channels) * (0.1 / math.sqrt(channels)), self.curvature)
        manifold = geoopt.PoincareBall(c=self.curvature)
        self.points = geoopt.ManifoldParameter(start, manifold=manifold)
        self.normals = nn.Parameter(torch.randn(classes, channels) / math.sqrt(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes, h, w) of ball points (N, channels, h, w)."""
        c = self.curvature
        p, a = self.points.as_subclass(Tensor), self.normals
        xp = F.conv2d(x, p[:, :, None, None])
        xa = F.conv2d(x, a[:, :, None, None])
        x2 = (x * x).sum(1, keepdim=True)
        p2 = _per_class((p * p).sum(1))
        pa = _per_class((p * a).sum(1))
        a_norm = _per_class(a.norm(dim=1).clamp_min(1e-15))

        # −p⊕x = (−α p + β x) / γ, and ‖−p⊕x‖² = ‖x − p‖² / γ.
        alpha = 1 - 2 * c * xp + c * x2
        beta = 1 - c * p2
        gamma = (1 - 2 * c * xp + c * c * p2 * x2).clamp_min(1e-15)
        squared = ((x2 - 2 * xp + p2) / gamma).clamp_min(1e-30)
        limit = ((1 - MLR_BOUNDARY_EPS) / math.sqrt(c)) ** 2
        inner = (beta * xa - alpha * pa) / gamma * (limit / squared).clamp_max(1).sqrt()
        conformal = 2 / (1 - c * squared.clamp_max(limit))
        return 2 / math.sqrt(c) * a_norm * torch.asinh(math.sqrt(c) * conformal * inner / a_norm)


def _k(curvature: float, like: Tensor) -> Tensor:
    return torch.tensor(-curvature, dtype=like.dtype, device=like.device)


def _per_class(values: Tensor) -> Tensor:
    return values[None, :, None, None]


def _cells(size: int, cells: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """For each of ``size`` output places: the index of the cell it lies in and the fraction within."""
    step = (cells - 1) / (size - 1) if size > 1 else 0.0
    place = torch.arange(size, device=like.device, dtype=torch.float64) * step
    index = place.floor().clamp_max(cells - 1).long()
    return index, (place - index).to(like.dtype)
