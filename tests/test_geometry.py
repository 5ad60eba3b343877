"""geometry against the official implementation's vectors and against the formulas, written out in float64."""

import math
from collections.abc import Callable
from typing import Any

import geoopt
import pytest
import torch
from geometry_twin import (
    CURVATURES,
    PRECISIONS,
    TOLERANCE,
    TWIN_CURVATURES,
    assert_close,
    at_reach,
    classifier,
    classifier_case,
    curvatures,
    directions,
    examples,
    seeds,
    twin_exp0,
    twin_mlr,
    twin_mobius_add,
    twin_radius,
    vector,
)
from geoopt.manifolds.stereographic import math as ball
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from halo_ray.errors import InputError
from halo_ray.geometry import PoincareMLR, exp0, max_radius, radius, upsampled_radius


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("curvature", CURVATURES)
class TestOfficialVectors:
    def away_from_rim(self, curvature: float, dtype: torch.dtype) -> Tensor:
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


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("curvature", TWIN_CURVATURES)
class TestTwin:
    def test_exp0(self, curvature: float, dtype: torch.dtype) -> None:
        # Up to √c‖v‖ = artanh(0.99).
        lengths = torch.linspace(0, math.atanh(0.99), 200, dtype=torch.float64)[:, None]
        v = at_reach(lengths, curvature, directions(0, 200, 16)).to(dtype)
        assert_close(exp0(v, curvature), twin_exp0(v.double(), curvature).to(dtype))

    def test_exp0_beyond_the_projection_margin(self, curvature: float, dtype: torch.dtype) -> None:
        v = at_reach(torch.logspace(0, 5, 200, dtype=torch.float64)[:, None], curvature, directions(0, 200, 16))
        assert_close(exp0(v.to(dtype), curvature), twin_exp0(v, curvature).to(dtype))

    def test_radius(self, curvature: float, dtype: torch.dtype) -> None:
        reaches = torch.linspace(0, 0.99, 200, dtype=torch.float64)[:, None]
        h = at_reach(reaches, curvature, directions(0, 200, 16)).to(dtype)
        assert_close(radius(h, curvature), twin_radius(h.double(), curvature).to(dtype))

    def test_poincare_mlr(self, curvature: float, dtype: torch.dtype) -> None:
        x, points, normals = classifier_case(curvature, dtype)
        logits, reach = twin_mlr(x.double(), points.double(), normals.double(), curvature)
        clamped = reach > 1 - 1e-3
        assert 0.2 < float(clamped.double().mean()) < 0.8
        ours = classifier(points, normals, curvature)(x).detach()
        for part in (clamped, ~clamped):
            assert_close(ours[part], logits[part].to(dtype))


@given(seeds, seeds, st.floats(0, 3), st.floats(0, 3), curvatures)
@examples
def test_the_twins_mobius_addition_is_geoopts(seed: int, other: int, near: float, far: float, c: float) -> None:
    x, y = (exp0(at_reach(t, c, directions(s, 1, 5)), c) for s, t in ((seed, near), (other, far)))
    k = torch.tensor(-c, dtype=torch.float64)
    for one, two in ((x, y), (-x, y), (x, -x), (y, y)):
        torch.testing.assert_close(twin_mobius_add(one, two, c, dim=1), ball.mobius_add(one, two, k=k, dim=1))


@given(seeds, seeds, st.floats(0, 3), st.floats(0, 3), curvatures)
@examples
def test_points_of_exp0_obey_the_gyrogroup(seed: int, other: int, near: float, far: float, c: float) -> None:
    p, x = (exp0(at_reach(t, c, directions(s, 1, 5)), c) for s, t in ((seed, near), (other, far)))
    k = torch.tensor(-c, dtype=torch.float64)
    manifold = geoopt.PoincareBall(c=-k)
    unit = 1 / math.sqrt(c)
    cancelled = ball.mobius_add(-p, ball.mobius_add(p, x, k=k, dim=1), k=k, dim=1)
    torch.testing.assert_close(cancelled, x, rtol=0, atol=1e-8 * unit)
    # exp0 is geoopt's, and a line through the origin is a geodesic.
    twice = ball.mobius_scalar_mul(torch.tensor(2.0, dtype=torch.float64), x, k=k, dim=1)
    torch.testing.assert_close(exp0(at_reach(2 * far, c, directions(other, 1, 5)), c), twice, rtol=0, atol=2e-5 * unit)
    torch.testing.assert_close(radius(x, c), manifold.dist0(x, dim=1), rtol=0, atol=1e-9 * unit)
    torch.testing.assert_close(radius(x, c), manifold.dist(torch.zeros_like(x), x, dim=1), rtol=0, atol=1e-9 * unit)
    between = radius(ball.mobius_add(-p, x, k=k, dim=1), c)
    torch.testing.assert_close(between, manifold.dist(p, x, dim=1), rtol=0, atol=1e-6 * unit)
    assert float(between) <= float(radius(p, c) + radius(x, c)) + 1e-6 * unit


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(seed=seeds, some=st.floats(0, 20), more=st.floats(0, 1e4), share=st.floats(0, 1), c=curvatures)
@examples
def test_longer_tangent_vectors_have_no_smaller_radius(
    dtype: torch.dtype, seed: int, some: float, more: float, share: float, c: float
) -> None:
    direction = directions(seed, 1, 8)
    for longer in (some / math.sqrt(c), more):
        shorter = share * longer
        near, far = (float(radius(exp0((t * direction).to(dtype), c), c)) for t in (shorter, longer))
        # A rounding step of √c‖h‖ is as many steps of the radius as artanh is steep.
        steep = math.cosh(math.sqrt(c) * near / 2) ** 2
        assert near <= far + 8 * torch.finfo(dtype).eps * (2 / math.sqrt(c) * steep + near)
        if shorter < 0.9 * longer and 0.01 < math.sqrt(c) * longer < 4:
            assert near < far


@pytest.mark.parametrize(("dtype", "moderate"), [(torch.float64, 5.0), (torch.float32, 3.0)])
@given(seed=seeds, share=st.floats(0, 1), c=curvatures, channels=st.integers(1, 64))
@examples
def test_the_radius_is_twice_the_tangent_vectors_length(
    dtype: torch.dtype, moderate: float, seed: int, share: float, c: float, channels: int
) -> None:
    v = at_reach(share * moderate, c, directions(seed, 4, channels)).to(dtype)
    expected = 2 * v.double().norm(dim=1)
    found = radius(exp0(v, c), c).double()
    assert float((found - expected).abs().max()) <= TOLERANCE[dtype] * 2 * moderate / math.sqrt(c)


@pytest.mark.parametrize("dtype", PRECISIONS)
@given(
    seed=seeds,
    norm=st.one_of(st.floats(0, 1e4), st.floats(0, 20)),
    c=st.one_of(st.sampled_from(TWIN_CURVATURES), curvatures),
    channels=st.integers(1, 64),
)
@examples
def test_exp0_never_leaves_the_ball(dtype: torch.dtype, seed: int, norm: float, c: float, channels: int) -> None:
    h = exp0((norm * directions(seed, 64, channels)).to(dtype), c)
    assert h.dtype == dtype
    assert float(h.double().norm(dim=1).max()) * math.sqrt(c) < 1


@given(
    seed=seeds,
    dtype=st.sampled_from(PRECISIONS),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    place=st.integers(0, 3),
    norm=st.floats(1e-2, 1e4),
    c=curvatures,
)
@examples
def test_exp0_keeps_shape_dtype_and_direction(
    seed: int, dtype: torch.dtype, shape: list[int], place: int, norm: float, c: float
) -> None:
    dim = place % len(shape)
    v = (norm * directions(seed, *shape, dim=dim)).to(dtype)
    for axis in (dim, dim - len(shape)):
        h = exp0(v, c, dim=axis)
        assert h.shape == v.shape
        assert h.dtype == dtype
        apart = F.normalize(h.double(), dim=dim) - F.normalize(v.double(), dim=dim)
        # float16 has subnormal numbers from 6e-5 on, of 6e-8 each.
        assert float(apart.norm(dim=dim).max()) <= 4 * torch.finfo(dtype).eps + 2e-5 * (dtype == torch.float16)
        assert radius(h, c, dim=axis).shape == v.norm(dim=dim).shape


@pytest.mark.parametrize("curvature", [0.1, 1, 4])
class TestGradcheck:
    def test_exp0(self, curvature: float) -> None:
        lengths = torch.tensor([0.01, 0.5, 1, 2, 4], dtype=torch.float64)[:, None]
        v = at_reach(lengths, curvature, directions(0, 5, 4)).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: exp0(v, curvature), v)

    def test_radius(self, curvature: float) -> None:
        reaches = torch.tensor([0.01, 0.3, 0.9, 0.99], dtype=torch.float64)[:, None]
        h = at_reach(reaches, curvature, directions(0, 4, 4)).requires_grad_()
        assert torch.autograd.gradcheck(lambda h: radius(h, curvature), h)

    def test_poincare_mlr(self, curvature: float) -> None:
        # The first column of x is clamped against both points, the others are not; neither stands near that kink.
        reaches = torch.tensor([1 - 1e-4, 0.9, 0.2], dtype=torch.float64)
        x = at_reach(reaches, curvature, directions(0, 1, 4, 2, 3))
        points = at_reach(torch.tensor([[0.3], [0.6]], dtype=torch.float64), curvature, directions(1, 2, 4))
        normals = 0.7 * directions(2, 2, 4)
        _, reach = twin_mlr(x, points, normals, curvature)
        clamped = torch.tensor([True, False, False])
        assert torch.equal(reach > 1 - 1e-3, clamped.expand_as(reach))
        assert float((reach - (1 - 1e-3)).abs().min()) > 1e-5
        mlr = PoincareMLR(4, 2, curvature).double()

        def logits(x: Tensor, points: Tensor, normals: Tensor) -> Tensor:
            return torch.func.functional_call(mlr, {"points": points, "normals": normals}, x)

        # The smallest step that the clamped column bears: the rim is 1e-4 away.
        inputs = [part.requires_grad_() for part in (x, points, normals)]
        assert torch.autograd.gradcheck(logits, inputs, eps=1e-7, atol=1e-5, rtol=1e-4)

    def test_upsampled_radius(self, curvature: float) -> None:
        h = at_reach(0.7, curvature, directions(0, 1, 3, 2, 3)).requires_grad_()
        assert torch.autograd.gradcheck(lambda h: upsampled_radius(h, (4, 5), curvature), h)


CURVED: dict[str, Callable[[float], Any]] = {
    "exp0": lambda c: exp0(torch.zeros(1, 4), c),
    "radius": lambda c: radius(torch.zeros(1, 4), c),
    "max_radius": lambda c: max_radius(c, torch.float32),
    "upsampled_radius": lambda c: upsampled_radius(torch.zeros(1, 4, 2, 2), (3, 3), c),
    "PoincareMLR": lambda c: PoincareMLR(4, 3, c),
}


@pytest.mark.parametrize("curvature", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("call", CURVED)
def test_a_curvature_that_is_none_is_refused(call: str, curvature: float) -> None:
    assert CURVED[call](1) is not None
    with pytest.raises(InputError, match=f"curvature is {curvature}"):
        CURVED[call](curvature)


@pytest.mark.parametrize("call", ["radius", "upsampled_radius"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_broken_embedding_is_refused_by_its_first_broken_value(call: str, value: float, dtype: torch.dtype) -> None:
    h = torch.zeros(2, 4, 3, 5, dtype=dtype)
    h[1, 3, 2, 4] = h[1, 2, 2, 1] = math.nan
    h[1, 2, 0, 3] = value
    with pytest.raises(InputError) as refusal:
        radius(h, 1.0) if call == "radius" else upsampled_radius(h, (6, 6), 1.0)
    message = str(refusal.value)
    assert "embedding" in message
    assert "[1, 2, 0, 3]" in message
    assert message.startswith(str(value))


@pytest.mark.parametrize("curvature", TWIN_CURVATURES)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_max_radius_is_that_of_a_huge_vector(dtype: torch.dtype, curvature: float) -> None:
    h = exp0((1e4 * directions(0, 500, 8)).to(dtype), curvature).double()
    # √c‖h‖ is moved by rounding h to dtype, by a few operations in float32 at the least, and by the 1e-15 that geoopt
    # adds to c.
    wide = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    step = torch.finfo(dtype).eps / 2 + 4 * wide + 1e-15 / curvature
    reach = math.tanh(max_radius(curvature, dtype) * math.sqrt(curvature) / 2)
    found = math.sqrt(curvature) * h.norm(dim=1)
    assert float(found.min()) >= reach * (1 - step)
    assert float(found.max()) <= reach * (1 + step)
    assert reach == pytest.approx(1 - max(1e-5, torch.finfo(dtype).eps), rel=step)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_max_radius_rises_as_the_ball_flattens(dtype: torch.dtype) -> None:
    rising = [max_radius(curvature, dtype) for curvature in sorted(TWIN_CURVATURES, reverse=True)]
    assert rising == sorted(set(rising))
