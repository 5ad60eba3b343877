"""geometry.upsampled_radius against the radius of the embedding that was interpolated first."""

import pytest
import torch
from geometry_twin import TOLERANCE, at_reach, directions, twin_upsampled_radius
from torch.nn import functional as F

from halo_ray.geometry import TILE_ROWS, exp0, max_radius, radius, upsampled_radius


@pytest.mark.parametrize("size", [(48, 96), (12, 20), (5, 7), (1, 30), (200, 1)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_upsampled_radius_is_that_of_the_interpolated_embedding(size: tuple[int, int], dtype: torch.dtype) -> None:
    h = exp0(torch.randn(2, 16, 12, 20, generator=torch.Generator().manual_seed(0), dtype=dtype) * 0.4, 0.7)
    expected = radius(F.interpolate(h, size=size, mode="bilinear", align_corners=True), 0.7)
    ours = upsampled_radius(h, size, 0.7)
    assert ours.dtype == dtype
    assert float((ours - expected).abs().max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("curvature", [0.05, 0.25, 1, 4])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_upsampled_radius_of_64_channels(dtype: torch.dtype, curvature: float) -> None:
    lengths = 0.2 + 1.5 * torch.rand(2, 1, 16, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    h = exp0(at_reach(lengths, curvature, directions(0, 2, 64, 16, 32)), curvature).to(dtype)
    ours = upsampled_radius(h, (100, 200), curvature)
    assert ours.dtype == dtype
    assert float((ours - twin_upsampled_radius(h, (100, 200), curvature)).abs().max()) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("cells", "size"),
    [
        ((5, 3), (TILE_ROWS, 4)),
        ((5, 3), (TILE_ROWS + 1, 4)),
        ((300, 2), (2 * TILE_ROWS + 3, 5)),
        ((7, 9), (7, 9)),
        ((9, 7), (4, 3)),
        ((1, 1), (6, 5)),
        ((1, 4), (3, 9)),
        ((4, 1), (9, 3)),
        ((3, 4), (1, 1)),
    ],
)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_upsampled_radius_at_odd_sizes(cells: tuple[int, int], size: tuple[int, int], dtype: torch.dtype) -> None:
    h = at_reach(0.8, 0.7, directions(0, 2, 8, *cells)).to(dtype)
    ours = upsampled_radius(h, size, 0.7)
    assert ours.shape == (2, *size)
    assert float((ours - twin_upsampled_radius(h, size, 0.7)).abs().max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_upsampled_radius_of_half_precision_is_rounded_only_once(dtype: torch.dtype) -> None:
    h = exp0(directions(0, 2, 64, 6, 8).to(dtype), 0.5)
    ours = upsampled_radius(h, (40, 31), 0.5)
    assert ours.dtype == dtype
    expected = twin_upsampled_radius(h, (40, 31), 0.5)
    assert float(((ours - expected) / expected).abs().max()) < 0.51 * torch.finfo(dtype).eps


@pytest.mark.parametrize("curvature", [0.05, 1, 4])
def test_upsampled_radius_is_exact_between_opposite_neighbours(curvature: float) -> None:
    """The squared norm of the sum is tiny there, and made of terms that are not."""
    h = at_reach(0.9, curvature, directions(0, 50, 64, 2, 1)).float()
    h = torch.cat([h, -0.9999 * h], 3)
    apart = (upsampled_radius(h, (3, 1001), curvature) - twin_upsampled_radius(h, (3, 1001), curvature)).abs()
    assert float(apart.max()) < 1e-5 * max_radius(curvature, torch.float32)


def test_upsampled_radius_of_the_origin_is_zero_and_has_a_gradient() -> None:
    h = torch.zeros(1, 4, 2, 2, requires_grad=True)
    found = upsampled_radius(h, (3, 3), 1.0)
    found.sum().backward()
    assert float(found.detach().abs().max()) < 1e-12
    assert h.grad.isfinite().all()
