"""What hyperbolic geometry costs, against the official procedure and against the Euclidean model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from halo_ray.benchmarks.compare import Comparison, compare, extra_memory
from halo_ray.benchmarks.measurement import Line, Measurement
from halo_ray.benchmarks.official import PoincareMLRFloat64, exp0_float64, interpolated_radius_float64
from halo_ray.benchmarks.settings import CLASSES, CURVATURE, EMBEDDING, check, low_resolution
from halo_ray.geometry import PoincareMLR, exp0, upsampled_radius
from halo_ray.models.build import ModelConfig, build_model
from halo_ray.models.segmenter import EuclideanHead, HyperbolicHead


@dataclass(frozen=True)
class ModelBenchmark:
    """Radius, hyperbolic head and whole networks against the official procedure and the Euclidean model."""

    height: int = 1024
    """Rows of the full image in pixels, a multiple of 32."""
    width: int = 2048
    """Columns of the full image in pixels, a multiple of 32."""
    image_height: int = 256
    """Rows of the images that whole networks are timed on."""
    image_width: int = 512
    """Columns of the images that whole networks are timed on."""
    batch: int = 2
    """Images of a training step of whole networks."""
    backbones: tuple[str, ...] = ("mobilenet-v2", "resnet-101")
    """Backbones of the whole networks."""
    repeats: int = 10
    """Measurements of each pair; medians are printed."""
    threads: int = 2
    """Torch threads."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it is measured."""

    def __post_init__(self) -> None:
        sizes = ("height", "width", "image_height", "image_width")
        check(self, {"batch": 1, "repeats": 1, "threads": 1}, self.device, sizes)


def benchmark_model(settings: ModelBenchmark) -> Iterator[Line]:
    """Lines of the report, as they are measured."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    machine = f"device {settings.device}, {settings.threads} threads, torch {torch.__version__}"
    yield f"{machine}; medians of {settings.repeats} repetitions, ratios of the times within each"
    yield from _upsampled_radius(settings)
    yield from _head(settings)
    for backbone in settings.backbones:
        yield _network(settings, backbone)


def _upsampled_radius(settings: ModelBenchmark) -> Iterator[Line]:
    size, low = (settings.height, settings.width), low_resolution(settings.height, settings.width)
    h = exp0(0.3 * torch.randn(1, EMBEDDING, *low, device=settings.device), CURVATURE)

    def ours() -> object:
        return upsampled_radius(h, size, CURVATURE)

    def official() -> object:
        return interpolated_radius_float64(h, size, CURVATURE)

    with torch.inference_mode():
        memory = extra_memory(ours, settings.device), extra_memory(official, settings.device)
        time = compare(ours, official, repeats=settings.repeats, device=settings.device)
    name = f"upsampled_radius, D={EMBEDDING}, {low[0]}x{low[1]} -> {size[0]}x{size[1]}"
    yield _official(
        f"{name}: {time.ours:.3f} s, interpolate-then-radius in float64 {time.other:.2f} s: {time.ratio:.1f} times "
        "faster",
        name,
        time,
        *(None if each is None else each / 2**20 for each in memory),
    )
    if memory[0] is None or memory[1] is None:
        yield "  memory: this system does not tell"
    else:
        yield (
            f"  memory: {memory[0] / 2**20:.0f} MiB against {memory[1] / 2**20:.0f} MiB: "
            f"1/{memory[1] / max(memory[0], 1):.0f}"
        )


def _head(settings: ModelBenchmark) -> Iterator[Line]:
    shape = (settings.batch, EMBEDDING, settings.image_height // 4, settings.image_width // 4)
    v = torch.randn(shape, device=settings.device).requires_grad_()
    ours = PoincareMLR(EMBEDDING, CLASSES, CURVATURE).to(settings.device)
    wide = PoincareMLR(EMBEDDING, CLASSES, CURVATURE).double().to(settings.device)
    points, normals = ours.points.detach().double(), ours.normals.detach().double()
    official = PoincareMLRFloat64(points, normals, CURVATURE)

    def forward() -> object:
        return ours(exp0(v, CURVATURE))

    def official_forward() -> object:
        return official(exp0_float64(v, CURVATURE)).float()

    def step() -> None:
        _backward(ours(exp0(v, CURVATURE)), v, ours)

    def official_step() -> None:
        _backward(official(exp0_float64(v, CURVATURE)).float(), v, official)

    def wide_step() -> None:
        _backward(wide(exp0(v.double(), CURVATURE)), v, wide)

    name = f"hyperbolic head (exp0 and PoincareMLR), {'x'.join(map(str, shape))} -> {CLASSES} classes"
    with torch.no_grad():
        time = compare(forward, official_forward, repeats=settings.repeats, device=settings.device)
    line = f"forward {time.ours:.3f} s, official {time.other:.3f} s: {time.ratio:.1f} times faster"
    yield _official(f"{name}: {line}", f"{name}, forward", time)
    time = compare(step, official_step, repeats=settings.repeats, device=settings.device)
    line = f"  forward and backward {time.ours:.3f} s, official {time.other:.3f} s: {time.ratio:.1f} times faster"
    yield _official(line, f"{name}, forward and backward", time)
    time = compare(step, wide_step, repeats=settings.repeats, device=settings.device)
    yield f"  ours in float64 {time.other:.3f} s: {time.ratio:.1f} times slower"


def _network(settings: ModelBenchmark, backbone: str) -> Measurement:
    """One network with either head in turn: two networks would differ by where their weights lie in memory."""
    shape = (settings.batch, 3, settings.image_height, settings.image_width)
    pixels = torch.randn(shape, device=settings.device)
    config = ModelConfig(backbone=backbone, decoder="deeplabv3plus", embedding=EMBEDDING, frozen_batch_norm=True)
    model = build_model(config, CLASSES).to(settings.device).train()
    heads = HyperbolicHead(EMBEDDING, CLASSES, curvature=CURVATURE), EuclideanHead(EMBEDDING, CLASSES)
    hyperbolic, euclidean = (head.to(settings.device) for head in heads)

    def step(head: nn.Module) -> None:
        model.head = head
        model.zero_grad(set_to_none=True)
        model.segment(pixels).logits.square().mean().backward()  # type: ignore[no-untyped-call]

    time = compare(lambda: step(hyperbolic), lambda: step(euclidean), repeats=settings.repeats, device=settings.device)
    overhead = 100 * (1 / time.ratio - 1)
    name = f"DeepLabV3+ {backbone}, {'x'.join(map(str, shape))}, forward and backward"
    line = f"{name}: hyperbolic {time.ours:.2f} s, Euclidean {time.other:.2f} s: {overhead:+.1f} %"
    euclidean_too = f"{name}, of a Euclidean classifier"
    return Measurement(line, euclidean_too, time.ours, time.other, "s", time.ratio, "bare loop")


def _official(
    line: str, what: str, time: Comparison, memory: float | None = None, other_memory: float | None = None
) -> Measurement:
    return Measurement(line, what, time.ours, time.other, "s", time.ratio, "official procedure", memory, other_memory)


def _backward(logits: torch.Tensor, v: torch.Tensor, head: nn.Module) -> None:
    torch.autograd.grad(logits.square().mean(), [v, *head.parameters()])
