"""The optimizers against geoopt's and torch's own over all weights."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import geoopt
import pytest
import torch
from torch import nn

from halo_ray.models.segmenter import EuclideanHead, HyperbolicHead, Segmenter
from halo_ray.training.config import TrainingConfig
from halo_ray.training.optimizers import Optimizers

FACTORS = [0.25, 1.0, 0.7, 0.4, 0.1]
KINDS = ["sgd", "adam", "adamw"]
PARTS = ["backbone", "decoder", "reweighting", "head"]


def network(dtype: torch.dtype = torch.float64, curvature: float = 0.5) -> Segmenter:
    """With points far from the origin; Euclidean where ``curvature`` is 0."""
    torch.manual_seed(0)
    head = HyperbolicHead(6, 5, curvature=curvature) if curvature else EuclideanHead(6, 5)
    model = Segmenter(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 1), head, reweighting=nn.Linear(6, 6), mean=[0.5] * 3, std=[0.5] * 3
    ).to(dtype)
    if curvature:
        points = torch.randn(5, 6, dtype=torch.float64)
        reach = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64) / math.sqrt(curvature)
        model.head.classifier.points.data = (points / points.norm(dim=1, keepdim=True) * reach[:, None]).to(dtype)
    return model


def gradients(model: Segmenter, steps: int, scale: float = 1.0, seed: int = 1) -> Iterator[None]:
    """Sets the gradients of all weights, the same ones in every dtype, and yields, for each step."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in model.parameters():
            values = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = values.to(parameter.dtype)
        yield


def trained(model: Segmenter, config: TrainingConfig, rate: float = 0.05) -> Segmenter:
    optimizers = Optimizers(model, config, rate)
    for factor, _ in zip(FACTORS, gradients(model, len(FACTORS)), strict=False):
        optimizers.set_factor(factor)
        optimizers.step()
    return model


def by_one_optimizer(model: Segmenter, kind: type, rate: float, head_factor: float, **settings: float) -> Segmenter:
    """Trained by a single optimizer for all weights."""
    groups = [
        {"params": list(part.parameters()), "lr": rate * (1 if name == "backbone" else head_factor)}
        for name, part in model.named_children()
    ]
    rates = [group["lr"] for group in groups]
    optimizer = kind(groups, lr=rate, **settings)
    for factor, _ in zip(FACTORS, gradients(model, len(FACTORS)), strict=False):
        for group, own in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = own * factor
        optimizer.step()
    return model


def close(one: Segmenter, other: Segmenter, tolerance: float, names: str = "") -> None:
    compared = 0
    for name, value in one.state_dict().items():
        if names in name:
            torch.testing.assert_close(value, other.state_dict()[name], rtol=tolerance, atol=tolerance)
            compared += 1
    assert compared


DTYPES = [(torch.float32, 1e-6), (torch.float64, 1e-12)]
"""With the difference that their rounding makes."""


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("head_factor", [1.0, 3.0])
@pytest.mark.parametrize("curvature", [0.0, 0.5, 2.0])
def test_adam_is_geoopt_s_over_all_weights(
    curvature: float, head_factor: float, dtype: torch.dtype, tolerance: float
) -> None:
    found = trained(network(dtype, curvature), TrainingConfig(weight_decay=0.01, head_factor=head_factor))
    expected = by_one_optimizer(
        network(dtype, curvature), geoopt.optim.RiemannianAdam, 0.05, head_factor, weight_decay=0.01
    )
    close(found, expected, tolerance)
    start = network(dtype, curvature).state_dict()
    assert all(float((value - start[name]).abs().max()) > 1e-3 for name, value in found.state_dict().items())


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("head_factor", [1.0, 3.0])
@pytest.mark.parametrize(
    ("optimizer", "flat", "curved", "settings"),
    [
        ("sgd", torch.optim.SGD, geoopt.optim.RiemannianSGD, {"momentum": 0.9}),
        ("adamw", torch.optim.AdamW, geoopt.optim.RiemannianAdam, {}),
    ],
)
def test_sgd_and_adamw_are_torch_s_on_flat_weights_and_geoopt_s_on_the_ball(
    optimizer: str, flat: type, curved: type, settings: dict, head_factor: float, dtype: torch.dtype, tolerance: float
) -> None:
    config = TrainingConfig(optimizer=optimizer, weight_decay=0.1, head_factor=head_factor)
    found, start = trained(network(dtype), config), network(dtype).state_dict()
    on_flat, on_ball = (
        by_one_optimizer(network(dtype), kind, 0.05, head_factor, weight_decay=0.1, **settings)
        for kind in (flat, curved)
    )
    for part in ("backbone", "decoder", "reweighting", "normals"):
        close(found, on_flat, tolerance, part)
    close(found, on_ball, tolerance, "points")
    assert all(float((value - start[name]).abs().max()) > 1e-3 for name, value in found.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("curvature", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("optimizer", KINDS)
def test_points_stay_inside_the_ball_whatever_the_gradient(
    optimizer: str, curvature: float, dtype: torch.dtype
) -> None:
    model = network(dtype, curvature)
    optimizers = Optimizers(model, TrainingConfig(optimizer=optimizer), 1.0)
    for _ in gradients(model, 20, scale=1e6):
        optimizers.step()
        length = math.sqrt(curvature) * model.head.classifier.points.detach().norm(dim=1)
        assert float(length.max()) < 1


def moved(rate: float, head_factor: float, optimizer: str) -> dict[str, torch.Tensor]:
    """All weights after five steps."""
    config = TrainingConfig(optimizer=optimizer, head_factor=head_factor, weight_decay=0.01)
    return trained(network(), config, rate).state_dict()


@pytest.mark.parametrize("optimizer", KINDS)
def test_the_rest_learns_faster_than_the_backbone_by_the_factor(optimizer: str) -> None:
    found, slow, fast = moved(1e-3, 8.0, optimizer), moved(1e-3, 1.0, optimizer), moved(8e-3, 1.0, optimizer)
    for name, value in found.items():
        assert torch.equal(value, (slow if name.startswith("backbone") else fast)[name]), name
        assert not torch.equal(slow[name], fast[name]), name


def test_the_largest_rate_is_said() -> None:
    for factor, most in ((10.0, 5e-3), (0.1, 5e-4)):
        optimizers = Optimizers(network(), TrainingConfig(head_factor=factor), 1e-3)
        assert optimizers.set_factor(0.5) == pytest.approx(most)


@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("frozen", ["backbone", "head", "decoder.bias", "points"])
def test_frozen_weights_are_left_alone(frozen: str, optimizer: str) -> None:
    model, start = network(), network()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    trained(model, TrainingConfig(optimizer=optimizer, weight_decay=0.1))
    same = {name for name, value in start.state_dict().items() if torch.equal(value, model.state_dict()[name])}
    assert same == {name for name, _ in model.named_parameters() if frozen in name}
    assert same


def total(model: Segmenter) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.1, 0.999, 1.001, 30.0])
def test_a_gradient_is_scaled_to_the_longest_norm_and_no_further(share: float, dtype: torch.dtype) -> None:
    model = network(dtype)
    optimizers = Optimizers(model, TrainingConfig(), 1.0)
    next(gradients(model, 1))
    before, length = [p.grad.clone() for p in model.parameters()], total(model)
    norm = optimizers.clip(share * length)
    assert norm.item() == pytest.approx(length, rel=1e-6)
    for old, parameter in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, old * min(share, 1.0), rtol=1e-5, atol=0)
    assert total(model) == pytest.approx(min(share, 1.0) * length, rel=1e-5)


def test_without_a_longest_norm_gradients_stay_as_they_are() -> None:
    model = network()
    next(gradients(model, 1))
    before = [p.grad.clone() for p in model.parameters()]
    norm = Optimizers(model, TrainingConfig(), 1.0).clip(None)
    assert norm.item() == pytest.approx(total(model), rel=1e-12)
    assert all(torch.equal(old, p.grad) for old, p in zip(before, model.parameters(), strict=True))


def test_the_norm_is_that_of_trained_weights_that_have_a_gradient() -> None:
    model = network()
    optimizers = Optimizers(model, TrainingConfig(), 1.0)
    assert optimizers.clip(1.0).item() == 0
    model.decoder.weight.grad = torch.full_like(model.decoder.weight, 2.0)
    model.backbone.weight.grad = torch.full_like(model.backbone.weight, 5.0)
    model.backbone.weight.requires_grad_(False)
    assert optimizers.clip(None).item() == pytest.approx(2 * math.sqrt(model.decoder.weight.numel()))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", PARTS)
def test_the_norm_shows_a_gradient_that_is_no_number(part: str, value: float) -> None:
    model = network()
    next(gradients(model, 1))
    next(getattr(model, part).parameters()).grad.view(-1)[0] = value
    assert not math.isfinite(Optimizers(model, TrainingConfig(), 1.0).clip(1.0).item())


def steps(model: Segmenter, optimizers: Optimizers, first: int, last: int) -> None:
    for step, _ in enumerate(gradients(model, last)):
        if step >= first:
            optimizers.set_factor(1 / (1 + step))
            optimizers.step()
    optimizers.zero_grad()


def stored(state: dict) -> dict:
    """As it is after the way through a file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("curvature", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", KINDS)
@pytest.mark.parametrize("through_file", [False, True])
def test_a_state_goes_on_to_the_last_bit(optimizer: str, curvature: float, through_file: bool) -> None:
    config = TrainingConfig(optimizer=optimizer, head_factor=2.0, weight_decay=0.01)
    whole = network(curvature=curvature)
    steps(whole, Optimizers(whole, config, 0.1), 0, 10)
    first = network(curvature=curvature)
    optimizers = Optimizers(first, config, 0.1)
    steps(first, optimizers, 0, 5)
    second, forgetful = network(curvature=curvature), network(curvature=curvature)
    for model in (second, forgetful):
        model.load_state_dict(first.state_dict())
    again = Optimizers(second, config, 0.1)
    again.load_state_dict(stored(optimizers.state_dict()) if through_file else optimizers.state_dict())
    steps(second, again, 5, 10)
    steps(forgetful, Optimizers(forgetful, config, 0.1), 5, 10)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
        assert not torch.equal(value, forgetful.state_dict()[name]), name


def test_a_state_brings_no_learning_rate_along() -> None:
    config, model = TrainingConfig(head_factor=3.0), network()
    fast, slow = Optimizers(model, config, 1.0), Optimizers(model, config, 0.01)
    for _ in gradients(model, 1):
        fast.step()
    slow.load_state_dict(fast.state_dict())
    assert slow.set_factor(0.5) == pytest.approx(0.015)


def test_euclidean_models_have_no_points_on_a_ball() -> None:
    def held(optimizers: Optimizers) -> dict[str, int]:
        return {
            name: sum(len(group["params"]) for group in state["param_groups"])
            for name, state in optimizers.state_dict().items()
        }

    assert held(Optimizers(network(), TrainingConfig(), 1.0)) == {"flat": 7, "curved": 1}
    assert held(Optimizers(network(curvature=0.0), TrainingConfig(), 1.0)) == {"flat": 8}


def test_gradients_are_forgotten_after_a_step() -> None:
    model = network()
    optimizers = Optimizers(model, TrainingConfig(), 1.0)
    next(gradients(model, 1))
    optimizers.zero_grad()
    assert [p.grad for p in model.parameters()] == [None] * 8


def test_a_network_that_is_all_frozen_has_nothing_to_do() -> None:
    model: Segmenter = network().requires_grad_(False)
    optimizers = Optimizers(model, TrainingConfig(), 1.0)
    assert (optimizers.set_factor(1.0), optimizers.state_dict(), float(optimizers.clip(1.0))) == (0, {}, 0)
