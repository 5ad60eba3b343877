"""What the tests of geometry share: the formulas written out in float64, reference vectors, cases."""

import math
from pathlib import Path

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from halo_ray.geometry import PoincareMLR

VECTORS = np.load(Path(__file__).parent / "reference" / "geometry.npz")


CURVATURES = (0.1, 0.5, 1, 2)


TWIN_CURVATURES = (0.05, 0.1, 0.25, 1, 3, 4)


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


curvatures = st.floats(0.05, 4)


seeds = st.integers(0, 2**32 - 1)


examples = settings(max_examples=60, deadline=None)


def vector(name: str, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(VECTORS[name]).to(dtype)


def assert_close(ours: Tensor, reference: Tensor) -> None:
    """To the tolerance of the dtype, relative to the reference's largest value."""
    assert ours.dtype == reference.dtype
    assert float((ours - reference).abs().max()) <= TOLERANCE[ours.dtype] * float(reference.abs().max())


def directions(seed: int, *shape: int, dim: int = 1) -> Tensor:
    """Float64 vectors of length 1 along ``dim``."""
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=dim)


def at_reach(reach: Tensor | float, curvature: float, vectors: Tensor) -> Tensor:
    """The unit vectors at the given part of the way from the origin to the rim."""
    return vectors * reach / math.sqrt(curvature)


def twin_exp0(v: Tensor, c: float) -> Tensor:
    length = math.sqrt(c) * v.norm(dim=1, keepdim=True)
    h = torch.where(length > 0, torch.tanh(length) / length, 1.0) * v
    reach = math.sqrt(c) * h.norm(dim=1, keepdim=True)
    return torch.where(reach > 1 - 1e-5, h / reach * (1 - 1e-5), h)


def twin_radius(h: Tensor, c: float, dim: int = 1) -> Tensor:
    return 2 / math.sqrt(c) * torch.atanh(math.sqrt(c) * h.norm(dim=dim))


def twin_mobius_add(x: Tensor, y: Tensor, c: float, dim: int) -> Tensor:
    xy, x2, y2 = ((one * other).sum(dim, keepdim=True) for one, other in ((x, y), (x, x), (y, y)))
    return ((1 + 2 * c * xy + c * y2) * x + (1 - c * x2) * y) / (1 + 2 * c * xy + c * c * x2 * y2)


def twin_mlr(x: Tensor, points: Tensor, normals: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """Logits, and √c‖−p⊕x‖ before the clamp; through the tensor (N, C, D, h, w) that the module avoids."""
    p, a = points[None, :, :, None, None], normals[None, :, :, None, None]
    moved = twin_mobius_add(-p, x[:, None], c, dim=2)
    length, limit = moved.norm(dim=2, keepdim=True), (1 - 1e-3) / math.sqrt(c)
    moved = torch.where(length > limit, moved / length.clamp_min(1e-300) * limit, moved)
    conformal = 2 / (1 - c * moved.square().sum(2))
    a_norm = a.norm(dim=2)
    inner = (moved * a).sum(2) / a_norm
    return 2 / math.sqrt(c) * a_norm * torch.asinh(math.sqrt(c) * conformal * inner), math.sqrt(c) * length[:, :, 0]


def classifier(points: Tensor, normals: Tensor, curvature: float) -> PoincareMLR:
    """The module with these parameters, in their dtype."""
    mlr = PoincareMLR(points.shape[1], points.shape[0], curvature).to(points.dtype)
    mlr.load_state_dict({"points": points, "normals": normals})
    return mlr


def classifier_case(curvature: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x (2, 8, 9, 11), points and normals (19, 8), from the origin to the rim, in directions of their own."""
    reaches = torch.tensor([0, 1e-4, 0.3, 0.6, 0.9, 0.99, 0.997, 0.9985, 0.9999, 1 - 1e-5], dtype=torch.float64)
    x = at_reach(reaches.repeat(20)[: 2 * 9 * 11].view(2, 1, 9, 11), curvature, directions(0, 2, 8, 9, 11))
    points = at_reach(reaches.repeat(2)[:19, None], curvature, directions(1, 19, 8))
    normals = torch.linspace(0.01, 3, 19, dtype=torch.float64)[:, None] * directions(2, 19, 8)
    return x.to(dtype), points.to(dtype), normals.to(dtype)


NORMS = (0, 1e-8, 1e-3, 1, 10, 1e2, 1e3, 1e4)


def twin_upsampled_radius(h: Tensor, size: tuple[int, int], c: float) -> Tensor:
    return twin_radius(F.interpolate(h.double(), size=size, mode="bilinear", align_corners=True), c)
