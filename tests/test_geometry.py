"""geometry against the official implementation's vectors and against the formulas, written out in float64."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from halo_ray.geometry import PoincareMLR, exp0, max_radius, radius, upsampled_radius

VECTORS = np.load(Path(__file__).parent / "reference" / "geometry.npz")
CURVATURES = (0.1, 0.5, 1, 2)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def vector(name: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(VECTORS[name]).to(dtype)


def assert_close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    """To the tolerance of the dtype, relative to the reference's largest value."""
    assert ours.dtype == reference.dtype
    assert float((ours - reference).abs().max()) <= TOLERANCE[ours.dtype] * float(reference.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("curvature", CURVATURES)
class TestOfficialVectors:
    def away_from_rim(self, curvature: float, dtype: torch.dtype) -> torch.Tensor:
        return vector(f"c{curvature}/ball", dtype).norm(dim=1, keepdim=True) * math.sqrt(curvature) < 0.99

    def test_exp0(self, curvature: float, dtype: torch.dtype) -> None:
        inside = self.away_from_rim(curvature, dtype)
        ours = exp0(vector(f"c{curvature}/tangent", dtype), curvature)
        assert_close(ours * inside, vector(f"c{curvature}/ball", dtype) * inside)

    def test_radius(self, curvature: float, dtype: torch.dtype) -> None:
        inside = self.away_from_rim(curvature, dtype)[:, 0]
        ours = radius(vector(f"c{curvature}/ball", dtype), curvature)
        assert_close(ours * inside, vector(f"c{curvature}/radius", dtype) * inside)

    def test_poincare_mlr(self, curvature: float, dtype: torch.dtype) -> None:
        mlr = PoincareMLR(8, 19, curvature).to(dtype)
        with torch.no_grad():
            mlr.points.copy_(vector(f"c{curvature}/mlr_points", dtype))
            mlr.normals.copy_(vector(f"c{curvature}/mlr_normals", dtype))
            assert_close(mlr(vector(f"c{curvature}/ball", dtype)), vector(f"c{curvature}/mlr_logits", dtype))


@pytest.mark.parametrize("curvature", [0.05, 1.0, 4.0])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_points_stay_at_the_projection_margin(curvature: float, dtype: torch.dtype) -> None:
    far = torch.tensor([[1e4], [0.0]], dtype=dtype)
    reached = exp0(far, curvature)
    assert float(reached.norm() * math.sqrt(curvature)) == pytest.approx(1 - 1e-5, abs=1e-6)
    exact = 2 / math.sqrt(curvature) * math.atanh(1 - 1e-5)
    assert max_radius(curvature, dtype) == pytest.approx(exact, rel=1e-9 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("size", [(48, 96), (12, 20), (5, 7), (1, 30), (200, 1)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_upsampled_radius_is_that_of_the_interpolated_embedding(size: tuple[int, int], dtype: torch.dtype) -> None:
    h = exp0(torch.randn(2, 16, 12, 20, generator=torch.Generator().manual_seed(0), dtype=dtype) * 0.4, 0.7)
    expected = radius(F.interpolate(h, size=size, mode="bilinear", align_corners=True), 0.7)
    ours = upsampled_radius(h, size, 0.7)
    assert ours.dtype == dtype
    assert float((ours - expected).abs().max()) < TOLERANCE[dtype]


def test_mlr_tends_to_the_euclidean_classifier_as_the_ball_flattens() -> None:
    mlr = PoincareMLR(6, 3, 1e-8).double()
    with torch.no_grad():
        mlr.points.copy_(torch.randn(3, 6) * 0.3)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    offset = x[:, None] - mlr.points[None, :, :, None, None]
    expected = 4 * (offset * mlr.normals[None, :, :, None, None]).sum(2)
    torch.testing.assert_close(mlr(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [0.0, 1e-6, 1.0, 50.0, 1e4])
def test_gradients_are_finite_wherever_the_tangent_vector_points(norm: float) -> None:
    v = torch.zeros(1, 4, 1, 1)
    v[0, 0] = norm
    v.requires_grad_()
    mlr = PoincareMLR(4, 3, 1.0)
    point = exp0(v, 1.0)
    (mlr(point).sum() + radius(point, 1.0).sum()).backward()
    for name, gradient in (("v", v.grad), ("points", mlr.points.grad), ("normals", mlr.normals.grad)):
        assert torch.isfinite(gradient).all(), name
