"""geometry against the official implementation's vectors and against the formulas, written out in float64."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geoopt
import numpy as np
import pytest
import torch
from geoopt.manifolds.stereographic import math as ball
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from halo_ray.errors import InputError
from halo_ray.geometry import TILE_ROWS, PoincareMLR, exp0, max_radius, radius, upsampled_radius

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


@pytest.mark.parametrize(("dtype", "farthest"), [(torch.float64, 0.999), (torch.float32, 0.97)])
@pytest.mark.parametrize("curvature", TWIN_CURVATURES)
@torch.no_grad()
def test_logits_beside_class_points(curvature: float, dtype: torch.dtype, farthest: float) -> None:
    """Where −p⊕x is a difference of almost equal vectors; farther out, the digits of the dtype run short."""
    reaches = torch.tensor([0, 0.5, 0.9, farthest], dtype=torch.float64)[:, None]
    p, normals = at_reach(reaches, curvature, directions(0, 4, 8)), directions(1, 4, 8).to(dtype)
    beside = [F.normalize(p + apart * directions(2, 4, 8)) * p.norm(dim=1, keepdim=True) for apart in (0, 0.01, 0.1)]
    x = torch.stack(beside, 2)[:, :, :, None].to(dtype)
    logits, _ = twin_mlr(x.double(), p.to(dtype).double(), normals.double(), curvature)
    assert_close(classifier(p.to(dtype), normals, curvature)(x), logits.to(dtype))


@pytest.mark.parametrize("curvature", TWIN_CURVATURES)
def test_the_clamp_changes_the_twins_logits(curvature: float) -> None:
    """So that the test above tells whether PoincareMLR clamps."""
    x, points, normals = classifier_case(curvature, torch.float64)
    logits, reach = twin_mlr(x, points, normals, curvature)
    moved = twin_mobius_add(-points[None, :, :, None, None], x[:, None], curvature, dim=2)
    inner = (moved * F.normalize(normals)[None, :, :, None, None]).sum(2)
    conformal = 2 / (1 - curvature * moved.square().sum(2))
    a_norm = normals.norm(dim=1)[None, :, None, None]
    unclamped = 2 / math.sqrt(curvature) * a_norm * torch.asinh(math.sqrt(curvature) * conformal * inner)
    clamped = reach > 1 - 1e-3
    assert float((logits - unclamped)[~clamped].abs().max()) < 1e-9
    assert float((logits - unclamped)[clamped].abs().max()) > 0.1 * float(logits.abs().max())


@pytest.mark.parametrize("curvature", TWIN_CURVATURES)
def test_mlr_gradients_are_those_of_the_twin(curvature: float) -> None:
    ours, twins = ([part.requires_grad_() for part in classifier_case(curvature, torch.float64)] for _ in range(2))
    mlr = PoincareMLR(8, 19, curvature).double()
    logits = torch.func.functional_call(mlr, {"points": ours[1], "normals": ours[2]}, ours[0])
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = torch.autograd.grad((logits * weights).sum(), ours)
    expected_logits, reach = twin_mlr(*twins, curvature)
    assert float((reach - (1 - 1e-3)).detach().abs().min()) > 1e-9  # there, the clamp has no gradient
    expected = torch.autograd.grad((expected_logits * weights).sum(), twins)
    for name, gradient, reference in zip(("x", "points", "normals"), found, expected, strict=True):
        assert float((gradient - reference).abs().max()) < 1e-9 * float(reference.abs().max()), name


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


@given(seeds, st.floats(0, 1.5), st.floats(0, 1.5), st.floats(0.01, 5), curvatures)
@examples
def test_a_logit_is_the_distance_to_the_class_hyperplane(
    seed: int, near: float, far: float, steepness: float, c: float
) -> None:
    p, x = exp0(at_reach(near, c, directions(seed, 1, 5)), c), exp0(at_reach(far, c, directions(seed + 1, 1, 5)), c)
    a = steepness * directions(seed + 2, 1, 5)
    k = torch.tensor(-c, dtype=torch.float64)
    distance = ball.dist2plane(x, p, a, k=k, signed=True, dim=1)
    logit = classifier(p, a, c)(x[:, :, None, None]).flatten()
    torch.testing.assert_close(logit, 2 * steepness * distance, rtol=1e-8, atol=1e-8 * steepness / math.sqrt(c))


@given(seeds, st.floats(0, 3), st.floats(0, 3), st.floats(0.1, 5), st.floats(1e-10, 1e-6))
@examples
def test_mlr_of_a_flat_ball_is_linear(seed: int, near: float, far: float, steepness: float, c: float) -> None:
    p, a = near * directions(seed, 3, 6), steepness * directions(seed + 1, 3, 6)
    x = far * directions(seed + 2, 2, 6, 2, 2)
    logits = classifier(p, a, c)(x)
    expected = 4 * torch.einsum("ncdij,cd->ncij", x[:, None] - p[None, :, :, None, None], a)
    # The next term of the series falls with c: at these lengths, its factor is below 1000.
    assert float((logits - expected).detach().abs().max()) < steepness * (1000 * c + 1e-9)


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


NORMS = (0, 1e-8, 1e-3, 1, 10, 1e2, 1e3, 1e4)


@pytest.mark.parametrize("curvature", [0.1, 1, 4])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("half", [False, True])
def test_gradients_are_finite_through_a_convolution(norm: float, curvature: float, half: bool) -> None:
    convolution = nn.Conv2d(8, 8, 1)
    nn.init.dirac_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    features = (norm * directions(0, 2, 8, 3, 3)).float().requires_grad_()
    mlr = PoincareMLR(8, 5, curvature)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        v = convolution(features)
        assert v.dtype == (torch.bfloat16 if half else torch.float32)
        h = exp0(v.float(), curvature)
        logits = mlr(h)
    assert logits.dtype == torch.float32
    loss = F.cross_entropy(logits, torch.arange(18).view(2, 3, 3) % 5) + 0.1 * radius(h, curvature).mean()
    loss.backward()
    assert torch.isfinite(loss)
    for name, part in [("features", features), *convolution.named_parameters(), *mlr.named_parameters()]:
        assert torch.isfinite(part.grad).all(), name
    assert float(mlr.normals.grad.norm()) > 0


@pytest.mark.parametrize("curvature", [0.1, 1, 4])
@pytest.mark.parametrize("reach", [0, 0.5, 0.999, 1 - 1e-5, 1])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gradients_are_finite_at_a_class_point_and_at_the_rim(
    reach: float, curvature: float, dtype: torch.dtype
) -> None:
    points = at_reach(reach, curvature, directions(0, 4, 6)).to(dtype)
    # Half of the pixels lie on class points, the others across the ball or at its rim.
    across = torch.stack([-points[0], -points[3], *at_reach(1 - 1e-5, curvature, directions(1, 2, 6)).to(dtype)])
    x = torch.cat([points, across]).t().reshape(1, 6, 2, 4).contiguous().requires_grad_()
    assert torch.equal(x[0, :, 0, 0], points[0])
    mlr = classifier(points, directions(2, 4, 6).to(dtype), curvature)
    logits = mlr(x)
    assert torch.isfinite(logits).all()
    logits.square().sum().backward()
    for name, gradient in (("x", x.grad), ("points", mlr.points.grad), ("normals", mlr.normals.grad)):
        assert torch.isfinite(gradient).all(), name


def test_gradients_are_finite_at_a_hairs_breadth_from_a_class_point() -> None:
    # ‖x − p‖² is not zero here, but powers of its inverse exceed float32.
    lengths = torch.logspace(-20, -4, 33, dtype=torch.float64)
    x = (lengths * directions(0, 1, 6, 1, 33)).float().requires_grad_()
    mlr = classifier(torch.zeros(3, 6), directions(1, 3, 6).float(), 1.0)
    mlr(x).sum().backward()
    for name, gradient in (("x", x.grad), ("points", mlr.points.grad), ("normals", mlr.normals.grad)):
        assert torch.isfinite(gradient).all(), name


def test_gradients_are_finite_where_a_normal_is_zero() -> None:
    mlr = classifier(directions(0, 3, 6).float() * 0.3, torch.zeros(3, 6), 1.0)
    logits = mlr(directions(1, 2, 6, 2, 2).float() * 0.5)
    assert float(logits.detach().abs().max()) < 1e-12
    logits.sum().backward()
    assert torch.isfinite(mlr.normals.grad).all()
    assert torch.isfinite(mlr.points.grad).all()


@pytest.mark.parametrize("curvature", [0.1, 1, 4])
def test_autocast_changes_no_bit_of_the_logits(curvature: float) -> None:
    x, points, normals = classifier_case(curvature, torch.float32)
    mlr = classifier(points, normals, curvature)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.conv2d(x, normals[:, :, None, None]).dtype == torch.bfloat16
        inside = mlr(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, mlr(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        of_half = mlr(x.bfloat16())
    assert torch.equal(of_half, mlr(x.bfloat16().float()))


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


def twin_upsampled_radius(h: Tensor, size: tuple[int, int], c: float) -> Tensor:
    return twin_radius(F.interpolate(h.double(), size=size, mode="bilinear", align_corners=True), c)


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


@pytest.mark.parametrize("channels", [0, 1])
def test_a_ball_of_too_few_dimensions_is_refused(channels: int) -> None:
    with pytest.raises(InputError, match=f"{channels} dimensions"):
        PoincareMLR(channels, 3, 1.0)


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


class TestParameters:
    def test_points_are_on_the_ball_of_that_curvature(self) -> None:
        mlr = PoincareMLR(6, 4, 0.3)
        assert isinstance(mlr.points, geoopt.ManifoldParameter)
        assert isinstance(mlr.points.manifold, geoopt.PoincareBall)
        assert float(mlr.points.manifold.c) == pytest.approx(0.3)
        assert mlr.points.shape == mlr.normals.shape == (4, 6)
        assert {name for name, _ in mlr.named_parameters()} == {"points", "normals"}
        assert float(mlr.points.detach().norm(dim=1).max()) * math.sqrt(0.3) < 1

    def test_they_and_the_logits_are_float32(self) -> None:
        mlr = PoincareMLR(6, 4)
        assert mlr.points.dtype == mlr.normals.dtype == torch.float32
        assert mlr(torch.zeros(2, 6, 3, 5)).dtype == torch.float32
        assert mlr(torch.zeros(2, 6, 3, 5)).shape == (2, 4, 3, 5)
        assert mlr.double()(torch.zeros(2, 6, 3, 5)).dtype == torch.float64

    def test_the_curvature_is_1_unless_said(self) -> None:
        assert PoincareMLR(6, 4).curvature == 1

    @pytest.mark.parametrize("curvature", [0.1, 1, 4])
    def test_points_near_the_rim_load_bit_for_bit(self, curvature: float) -> None:
        reaches = 1 - torch.tensor([[1e-6], [1e-5], [1e-4], [1e-7]], dtype=torch.float64)
        stored = {
            "points": at_reach(reaches, curvature, directions(0, 4, 6)).float(),
            "normals": directions(1, 4, 6).float(),
        }
        mlr = PoincareMLR(6, 4, curvature)
        mlr.load_state_dict(stored)
        # geoopt would project these to 4e-3 from the rim.
        assert not torch.equal(mlr.points.manifold.projx(stored["points"]), stored["points"])
        again = PoincareMLR(6, 4, curvature)
        again.load_state_dict(mlr.state_dict())
        for module in (mlr, again):
            for name, part in module.state_dict().items():
                assert torch.equal(part, stored[name]), name
            assert isinstance(module.points, geoopt.ManifoldParameter)


class Largest(TorchDispatchMode):
    """Remembers how many elements the largest tensor had that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


class TestMemory:
    @pytest.mark.parametrize("twin", [False, True])
    def test_mlr_makes_no_tensor_of_all_classes_and_channels(self, twin: bool) -> None:
        mlr = PoincareMLR(64, 19, 1.0)
        x = exp0(directions(0, 1, 64, 16, 16).float(), 1.0).requires_grad_()
        with Largest() as forward:
            logits = twin_mlr(x, mlr.points, mlr.normals, 1.0)[0] if twin else mlr(x)
        with Largest() as backward:
            logits.sum().backward()
        assert torch.count_nonzero(x.grad) == x.numel()
        if twin:  # the counter sees such tensors where there are some
            assert min(forward.numel, backward.numel) == 19 * x.numel()
        else:
            # The inputs, or two maps of each class.
            assert max(forward.numel, backward.numel) <= max(x.numel(), 2 * 19 * 16 * 16)

    @pytest.mark.parametrize("twin", [False, True])
    def test_upsampled_radius_interpolates_no_channels(self, twin: bool) -> None:
        h = exp0(directions(0, 1, 64, 8, 12).float(), 1.0)
        with Largest() as largest:
            twin_upsampled_radius(h, (80, 120), 1.0) if twin else upsampled_radius(h, (80, 120), 1.0)
        if twin:
            assert largest.numel == 64 * 80 * 120
        else:
            # The embedding with a row and a column repeated, or the output.
            assert largest.numel <= max(64 * 9 * 13, 80 * 120)


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
