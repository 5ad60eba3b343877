"""geometry.PoincareMLR: limits, gradients, precision, parameters, memory."""

import math
from typing import Any

import geoopt
import pytest
import torch
from geometry_twin import (
    NORMS,
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
    twin_mlr,
    twin_mobius_add,
    twin_upsampled_radius,
)
from geoopt.manifolds.stereographic import math as ball
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from halo_ray.errors import InputError
from halo_ray.geometry import PoincareMLR, exp0, radius, upsampled_radius


def test_mlr_tends_to_the_euclidean_classifier_as_the_ball_flattens() -> None:
    mlr = PoincareMLR(6, 3, 1e-8).double()
    with torch.no_grad():
        mlr.points.copy_(torch.randn(3, 6) * 0.3)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    offset = x[:, None] - mlr.points[None, :, :, None, None]
    expected = 4 * (offset * mlr.normals[None, :, :, None, None]).sum(2)
    torch.testing.assert_close(mlr(x), expected, rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("channels", [0, 1])
def test_a_ball_of_too_few_dimensions_is_refused(channels: int) -> None:
    with pytest.raises(InputError, match=f"{channels} dimensions"):
        PoincareMLR(channels, 3, 1.0)


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
