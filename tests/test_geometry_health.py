"""What is said of an embedding's radii, at points whose radii are known."""

import math

import numpy as np
import pytest
import torch

from halo_ray.data.classes import IGNORE
from halo_ray.errors import BadRecordError
from halo_ray.geometry import exp0, max_radius
from halo_ray.geometry_health import RadiusStatistics, extremes, radii, radius_of_classes, warning


def vectors(lengths: torch.Tensor) -> torch.Tensor:
    """Of those lengths (N, h, w), in random directions of 6 dimensions: (N, 6, h, w), float64."""
    directions = torch.randn(len(lengths), 6, *lengths.shape[1:], dtype=torch.float64)
    return directions / directions.norm(dim=1, keepdim=True) * lengths[:, None]


def points(r: torch.Tensor, curvature: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """On the ball, at radii (N, h, w): exp0 of a vector lies at twice the vector's length."""
    return exp0(vectors(r.double() / 2), curvature).to(dtype)


@pytest.mark.parametrize("curvature", [0.1, 1.0, 2.0])
def test_a_point_s_radius_is_twice_its_tangent_vector_s_length(curvature: float) -> None:
    lengths = torch.rand(2, 3, 4, dtype=torch.float64) * 4
    torch.testing.assert_close(radii(exp0(vectors(lengths), curvature), curvature), 2 * lengths)


def test_euclidean_vectors_have_their_norm_as_radius_and_no_extremes() -> None:
    lengths = torch.cat([torch.zeros(1, 3, 4), torch.full((1, 3, 4), 1e6)]).double()
    h = vectors(lengths)
    torch.testing.assert_close(radii(h, 0.0), lengths)
    found = RadiusStatistics.of(h, 0.0)
    assert (found.at_rim, found.at_origin) == (0, 0)
    assert found.mean == pytest.approx(5e5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("curvature", [0.1, 1.0, 2.0])
@pytest.mark.parametrize(("rim", "origin"), [(0, 0), (5, 2), (1, 23), (24, 0)])
def test_shares_at_rim_and_origin_are_those_that_were_put_there(
    rim: int, origin: int, curvature: float, dtype: torch.dtype
) -> None:
    most = max_radius(curvature, dtype)
    r = torch.full((24,), 0.5 * most)
    r[:rim], r[rim : rim + origin] = 3 * most, 0.001 * most
    h = exp0(vectors(r[torch.randperm(24)].view(2, 3, 4).double() / 2).to(dtype), curvature)
    found = RadiusStatistics.of(h, curvature)
    assert (found.at_rim, found.at_origin) == (rim / 24, origin / 24)
    expected = (rim * most + origin * 0.001 * most + (24 - rim - origin) * 0.5 * most) / 24
    assert found.mean == pytest.approx(expected, rel=3e-3)


def test_rim_and_origin_begin_at_a_hundredth_of_the_largest_radius() -> None:
    most = max_radius(0.5, torch.float64)
    assert most == pytest.approx(2 / math.sqrt(0.5) * math.atanh(1 - 1e-5))
    r = torch.tensor([[[0.0, 0.0099, 0.0101, 0.5, 0.9899, 0.9901, 1.0]]], dtype=torch.float64) * most
    assert extremes(radii(points(r, 0.5), 0.5), 0.5, torch.float64) == (2, 2)


def test_embeddings_of_a_training_network_need_no_gradient_here() -> None:
    h = points(torch.ones(1, 2, 3), 1.0).requires_grad_()
    assert not radii(h, 1.0).requires_grad
    assert not radii(h, 0.0).requires_grad


def test_what_is_not_a_number_is_an_error() -> None:
    h = points(torch.ones(1, 2, 3), 1.0)
    h[0, 2, 1, 1] = math.nan
    with pytest.raises(BadRecordError, match=r"nan in the embedding, at index \[0, 2, 1, 1\]"):
        RadiusStatistics.of(h, 1.0)


@pytest.mark.parametrize("size", [(12, 20), (13, 18), (3, 5), (2, 3), (50, 41)])
def test_a_class_s_radius_is_the_mean_over_cells_whose_central_pixel_has_it(size: tuple[int, int]) -> None:
    random, (height, width) = np.random.default_rng(0), size
    labels = random.choice([0, 1, 2, 4, IGNORE], (2, *size)).astype(np.uint8)
    r = random.random((2, 3, 5))
    of_class: dict[int, list[float]] = {}
    for n, y, x in np.ndindex(r.shape):
        # The pixel in which the cell's centre lies.
        label = labels[n, int((y + 0.5) * height / 3), int((x + 0.5) * width / 5)]
        of_class.setdefault(int(label), []).append(r[n, y, x])
    expected = [float(np.mean(of_class[number])) if number in of_class else math.nan for number in range(6)]
    assert math.isnan(expected[3])
    found = radius_of_classes(torch.from_numpy(r), torch.from_numpy(labels), 6)
    assert found == pytest.approx(expected, nan_ok=True)


def test_the_warning_says_how_much_lies_where_and_what_to_do() -> None:
    assert warning(0.2, 0.2, 0.2) is None
    rim, origin = warning(0.374, 0.1, 0.2), warning(0.1, 0.916, 0.2)
    assert rim is not None
    assert rim.startswith("37 % of the embedding lies at the rim")
    assert "lower the learning rate" in rim
    assert origin is not None
    assert origin.startswith("92 % of the embedding lies at its origin")
    assert "raise model.curvature" in origin
