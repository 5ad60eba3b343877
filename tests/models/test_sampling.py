"""Reading single places against torch's own upsampling of the whole map."""

import pytest
import torch
from torch.nn import functional as F

from halo_ray.models.sampling import at_places, upsample

SIZES = [
    ((3, 5), (12, 19)),
    ((4, 4), (4, 4)),
    ((1, 6), (1, 20)),
    ((6, 1), (20, 1)),
    ((1, 1), (7, 9)),
    ((2, 3), (1, 8)),
    ((9, 7), (4, 3)),
    ((40, 80), (101, 203)),
]
"""Of the maps and of the image."""


def every_pixel(count: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, y and x of all pixels of ``count`` images, in a mixed order."""
    order = torch.randperm(count * size[0] * size[1], generator=torch.Generator().manual_seed(0))
    image, y, x = torch.unravel_index(order, (count, *size))
    return image, y.double() / max(size[0] - 1, 1), x.double() / max(size[1] - 1, 1)


def in_that_order(full: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    order = torch.randperm(len(full) * size[0] * size[1], generator=torch.Generator().manual_seed(0))
    return full.permute(0, 2, 3, 1).flatten(0, 2)[order]


def maps(small: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *small, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("small", "size"), SIZES)
@pytest.mark.parametrize(
    ("dtype", "place_dtype", "tolerance"),
    [(torch.float64, torch.float64, 1e-12), (torch.float32, torch.float32, 1e-4), (torch.float32, torch.float64, 1e-5)],
)
def test_a_place_reads_what_upsampling_shows_at_that_pixel(
    small: tuple[int, int], size: tuple[int, int], dtype: torch.dtype, place_dtype: torch.dtype, tolerance: float
) -> None:
    image, y, x = every_pixel(2, size)
    found = at_places(maps(small).to(dtype), image, y.to(place_dtype), x.to(place_dtype))
    expected = F.interpolate(maps(small), size=size, mode="bilinear", align_corners=True)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), in_that_order(expected, size), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("small", "size"), SIZES)
def test_its_gradient_is_that_of_upsampling(small: tuple[int, int], size: tuple[int, int]) -> None:
    one, other = maps(small).requires_grad_(), maps(small).requires_grad_()
    read = at_places(one, *every_pixel(2, size))
    shown = in_that_order(F.interpolate(other, size=size, mode="bilinear", align_corners=True), size)
    weights = torch.randn(read.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (read * weights).sum().backward()
    (shown * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, atol=1e-11, rtol=0)


def test_corners_read_the_corner_cells_themselves() -> None:
    corner = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    for dtype in (torch.float32, torch.bfloat16):
        low = maps((3, 5)).to(dtype)
        found = at_places(low, torch.tensor([0, 1, 1, 0]), *corner)
        expected = torch.stack([low[0, :, 0, 0], low[1, :, 0, 4], low[1, :, 2, 0], low[0, :, 2, 4]])
        assert torch.equal(found, expected)


def test_between_two_cells_it_is_linear() -> None:
    low = torch.tensor([[[[0.0, 8.0], [16.0, 40.0]]]])
    places = torch.tensor([0.25, 0.5, 0.75]), torch.tensor([0.5, 0.5, 0.25])
    assert at_places(low, torch.zeros(3, dtype=torch.long), *places)[:, 0].tolist() == [10.0, 16.0, 17.0]


def test_no_place_reads_nothing() -> None:
    nothing = torch.empty(0)
    low = maps((3, 5)).requires_grad_()
    found = at_places(low, nothing.long(), nothing, nothing)
    assert found.shape == (0, 3)
    found.sum().backward()
    assert torch.equal(low.grad, torch.zeros_like(low))


@pytest.mark.parametrize(("small", "size"), SIZES)
def test_upsampling_keeps_the_corners_at_the_corners(small: tuple[int, int], size: tuple[int, int]) -> None:
    full = upsample(maps(small), size)
    assert full.shape == (2, 3, *size)
    if min(size) > 1:
        torch.testing.assert_close(full[..., 0, 0], maps(small)[..., 0, 0])
        torch.testing.assert_close(full[..., -1, -1], maps(small)[..., -1, -1])
