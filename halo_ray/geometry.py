"""The Poincaré ball of curvature −c: what geoopt lacks for hyperbolic segmentation.

Throughout, ``curvature`` is the positive c; points satisfy √c‖h‖ < 1 and are kept at √c‖h‖ <= 1 − 1e-5, in half
precision at one rounding step from the rim. Every function raises InputError for a curvature that is no finite number
above 0.
"""

from __future__ import annotations

import math

import geoopt
import torch
from geoopt.manifolds.stereographic import math as ball
from torch import Tensor, nn
from torch.nn import functional as F

from halo_ray.errors import BadRecordError, InputError

BOUNDARY_EPS = 1e-5
"""Distance kept from the rim, in units of the ball's radius. geoopt's float32 default, 4e-3, caps the radius at 6.2."""

MLR_BOUNDARY_EPS = 1e-3
"""The same for −p⊕x inside PoincareMLR, as the official implementation has it."""

SMALLEST_SQUARE = 1e-30
"""Least squared norm that upsampled_radius takes the root of: at 0 its gradient would be NaN."""

TILE_ROWS = 128
"""Output rows that upsampled_radius computes at once; bounds its extra memory."""

CHANNELS_AT_ONCE = 8
"""Channels whose inner products upsampled_radius takes at once; the same."""


def exp0(v: Tensor, curvature: float, dim: int = 1) -> Tensor:
    """Exponential map at the origin, tanh(√c‖v‖)/(√c‖v‖) · v, projected into the ball.

    Args:
        v: tangent vectors along ``dim``, any shape; half precision is computed in float32.

    Returns:
        Points on the ball, shape and dtype of ``v``.
    """
    wide = v.to(_wide(v.dtype))
    k, eps = _k(curvature, wide), _boundary(v.dtype)
    # The map keeps directions: geoopt maps the lengths alone, and a single pass scales the vectors.
    length: Tensor = wide.norm(dim=dim, keepdim=True).clamp_min(1e-15)
    mapped: Tensor = ball.project(ball.expmap0(length, k=k, dim=dim), k=k, dim=dim, eps=eps)
    return (wide * (mapped / length)).to(v.dtype)


def radius(h: Tensor, curvature: float, dim: int = 1) -> Tensor:
    """Hyperbolic distance to the origin, (2/√c) artanh(√c‖h‖); ``dim`` is removed.

    Raises:
        BadRecordError: ``h`` holds NaN or infinity.
    """
    check_finite("the embedding", h)
    wide = h.to(_wide(h.dtype))
    distance: Tensor = ball.dist0(wide, k=_k(curvature, wide), dim=dim)
    return distance.to(h.dtype)


def max_radius(curvature: float, dtype: torch.dtype) -> float:
    """The largest radius that ``exp0`` gives in ``dtype``, up to rounding: that of a point at its margin."""
    rim = torch.tensor([1 - _boundary(dtype)], dtype=_wide(dtype)) / math.sqrt(check_curvature(curvature))
    return float(radius(rim, curvature, dim=0))


def upsampled_radius(h: Tensor, size: tuple[int, int], curvature: float) -> Tensor:
    """Radius of the bilinearly interpolated embedding (align_corners=True), without interpolating D channels.

    ‖Σ wᵢeᵢ‖² = Σᵢⱼ wᵢwⱼ⟨eᵢ,eⱼ⟩ over the four corners of a cell, so inner-product maps at low resolution suffice. They
    are float64: between opposite neighbours the sum almost vanishes, and its root would keep half of float32's digits.

    Args:
        h: points, (N, D, h, w).
        size: (H, W) in pixels.

    Returns:
        (N, H, W), dtype of ``h``.

    Raises:
        BadRecordError: ``h`` holds NaN or infinity.
    """
    rows, cols = h.shape[-2:]
    own, beside, below, diagonals = _inner_products(h)
    if not own.isfinite().all():
        check_finite("the embedding", h)

    # First along x: of every low-resolution row interpolated to full width, the squared norm, and the inner product
    # with the row below it.
    x, f = output_cells(size[1], cols, own)
    left, both, right = (1 - f) ** 2, f * (1 - f), f**2
    squared = left * own[..., x] + 2 * both * beside[..., x] + right * own[..., x + 1]
    product = left * below[..., x] + both * diagonals[..., x] + right * below[..., x + 1]

    y, fy = output_cells(size[0], rows, own)
    wide = _wide(h.dtype)
    k = _k(curvature, own).to(wide)
    out = h.new_empty(h.shape[0], *size)
    for start in range(0, size[0], TILE_ROWS):
        tile = slice(start, start + TILE_ROWS)
        i, f = y[tile], fy[tile, None]
        norm = squared[:, i].mul_((1 - f) ** 2)
        norm.addcmul_(product[:, i], 2 * f * (1 - f)).addcmul_(squared[:, i + 1], f**2)
        out[:, tile] = ball.dist0(norm.clamp_min_(SMALLEST_SQUARE).sqrt_().to(wide).unsqueeze(1), k=k, dim=1)
    return out


class PoincareMLR(nn.Module):
    """Hyperbolic multinomial logistic regression (Ganea et al. 2018, eq. 25, as the official HALO code has it).

    logit = (2/√c)‖a‖ asinh(√c λ ⟨−p⊕x, a/‖a‖⟩) with λ = 2/(1 − c‖−p⊕x‖²) and ‖−p⊕x‖ clamped to (1 − 1e-3)/√c;
    as c→0 it tends to 4⟨x − p, a⟩. ⊕ is expanded into inner products, so no (N, classes, D, h, w) tensor arises.
    It is computed in the dtype of the parameters, whatever autocast says.

    Args:
        channels: D >= 2.
        classes: number of classes C.
        curvature: c > 0.

    Parameters ``points`` p (on the ball) and ``normals`` a (tangent at the origin) are (classes, channels), float32.

    Raises:
        InputError: ``curvature`` is no finite number above 0, or ``channels`` below 2.
    """

    def __init__(self, channels: int, classes: int, curvature: float = 1.0) -> None:
        super().__init__()
        if channels < 2:
            raise InputError(f"the embedding has {channels} dimensions: a Poincaré ball needs at least 2")
        self.curvature = check_curvature(curvature)
        # The points start near the origin, where the classifier is almost linear.
        with torch.device("cpu"):  # geoopt looks at numbers, which a network that is built without data lacks
            start = exp0(torch.randn(classes, channels) * (0.1 / math.sqrt(channels)), self.curvature)
        start = start.to(torch.get_default_device())
        manifold = geoopt.PoincareBall(c=self.curvature)
        self.points = geoopt.ManifoldParameter(start, manifold=manifold)
        self.normals = nn.Parameter(torch.randn(classes, channels) / math.sqrt(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes, h, w) of ball points (N, channels, h, w)."""
        with torch.autocast(x.device.type, enabled=False):
            return self._logits(x.to(_wide(self.points.dtype)))

    def _logits(self, x: Tensor) -> Tensor:
        c = self.curvature
        p, a = self.points.as_subclass(Tensor).to(x.dtype), self.normals.to(x.dtype)
        a_norm = a.norm(dim=1, keepdim=True).clamp_min(1e-15)
        unit = a / a_norm
        p2, pa = (p * p).sum(1, keepdim=True), (p * unit).sum(1, keepdim=True)
        x2 = (x * x).sum(1, keepdim=True)

        # −p⊕x = (β x − α p)/γ with α = 1 − 2c⟨p,x⟩ + c‖x‖², β = 1 − c‖p‖², γ = 1 − 2c⟨p,x⟩ + c²‖p‖²‖x‖². So
        # ⟨−p⊕x, a/‖a‖⟩ γ = ⟨x, k⟩ − ⟨p, a/‖a‖⟩(1 + c‖x‖²) with one kernel k for each class.
        beta = 1 - c * p2
        kernel = beta * unit + 2 * c * pa * p
        xp, xk = _products(x, torch.cat([p, kernel])).chunk(2, 1)
        inner = torch.addcmul(xk, _per_class(-pa), 1 + c * x2)

        # c‖−p⊕x‖² = c δ/γ with δ = ‖x − p‖², and γ − cδ = (1 − c‖p‖²)(1 − c‖x‖²): unclamped, λ/γ needs no division
        # for each class. Clamped, it falls with 1/√(γδ). The smaller of the two is the one that holds.
        gamma = torch.addcmul(1 - 2 * c * xp, _per_class(c * c * p2), x2)
        delta = x2 + _per_class(p2) - 2 * xp
        limit = (1 - MLR_BOUNDARY_EPS) ** 2
        # 1e-24: its inverse root cubed, which the gradient takes, is still finite in float32.
        clamped = (gamma * delta).clamp_min(1e-24).rsqrt() * (2 * math.sqrt(limit / c) / (1 - limit))
        free = _per_class(2 / beta.clamp_min(1e-12)) / (1 - c * x2).clamp_min(1e-12)
        return _per_class(2 / math.sqrt(c) * a_norm) * torch.asinh(math.sqrt(c) * inner * torch.minimum(free, clamped))


def _products(x: Tensor, kernels: Tensor) -> Tensor:
    """Inner products (N, K, h, w) of x (N, D, h, w) with kernels (K, D)."""
    if x.is_cuda:  # there a convolution would round float32 to the 10 bits of TF32, which a matrix product does not
        return F.linear(x.movedim(1, -1), kernels).movedim(-1, 1)
    return F.conv2d(x, kernels[:, :, None, None])


def check_curvature(curvature: float) -> float:
    """``curvature`` as it is.

    Raises:
        InputError: it is no finite number above 0.
    """
    if not (curvature > 0 and math.isfinite(curvature)):
        raise InputError(f"curvature is {curvature}: it must be a finite number above 0")
    return float(curvature)


def check_finite(name: str, values: Tensor) -> None:
    """Raises BadRecordError where ``values`` hold NaN or infinity; the message calls them ``name`` and says where."""
    finite = values.isfinite()
    if not finite.all():
        place = (~finite).nonzero()[0].tolist()
        value, shape = values[tuple(place)].item(), list(values.shape)
        raise BadRecordError(
            f"{value} in {name}, at index {place} of shape {shape}: the weights or the image are broken; a lower "
            "training.learning_rate keeps training from diverging"
        )


def output_cells(size: int, cells: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """For each of ``size`` output places (align_corners=True): index of the cell it lies in, and fraction within.

    Both (size,), on the device of ``like``; the fraction has its dtype too.
    """
    step = (cells - 1) / (size - 1) if size > 1 else 0.0
    place = torch.arange(size, device=like.device, dtype=torch.float64) * step
    index = place.floor().clamp_max(cells - 1).long()
    return index, (place - index).to(like.dtype)


def _inner_products(h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every place of (N, D, h, w) with itself, its right and its lower neighbour, and the sum over both diagonals.

    float64, (N, h + 1, w + 1) and one less where neighbours are asked: the last row and column are there twice, so that
    every pixel lies in a cell; its weight there is zero.
    """
    own = beside = below = diagonals = h.new_zeros((), dtype=torch.float64)
    padded = F.pad(h, (0, 1, 0, 1), mode="replicate")
    for start in range(0, h.shape[1], CHANNELS_AT_ONCE):
        e = padded[:, start : start + CHANNELS_AT_ONCE].double()
        own = own + (e * e).sum(1)
        beside = beside + (e[..., :-1] * e[..., 1:]).sum(1)
        below = below + (e[..., :-1, :] * e[..., 1:, :]).sum(1)
        diagonals = diagonals + (e[..., :-1, :-1] * e[..., 1:, 1:] + e[..., :-1, 1:] * e[..., 1:, :-1]).sum(1)
    return own, beside, below, diagonals


def _k(curvature: float, like: Tensor) -> Tensor:
    # full, not tensor: that would wait for the device to copy a number to it.
    return torch.full((), -check_curvature(curvature), dtype=like.dtype, device=like.device)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, in which a ball has no room near its rim; otherwise ``dtype``."""
    return torch.promote_types(dtype, torch.float32)


def _boundary(dtype: torch.dtype) -> float:
    """Distance that rounding to ``dtype`` cannot bridge to the rim."""
    return max(BOUNDARY_EPS, torch.finfo(dtype).eps)


def _per_class(values: Tensor) -> Tensor:
    """(1, classes, 1, 1) of (classes, 1)."""
    return values[None, :, :, None]
