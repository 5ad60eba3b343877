"""From logits and embedding to the picks of an image: against the official procedure, and where picking is hardest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from halo_ray.acquisition.regions import Picks, pick_regions
from halo_ray.acquisition.scores import ACQUISITIONS, acquisition_map
from halo_ray.acquisition.stochastic import stochastic_keys
from halo_ray.benchmarks.compare import compare, extra_memory, median_seconds
from halo_ray.benchmarks.measurement import Line, Measurement
from halo_ray.benchmarks.official import one_by_one, region_score_float64
from halo_ray.benchmarks.settings import CLASSES, CURVATURE, EMBEDDING, check, low_resolution
from halo_ray.geometry import exp0


@dataclass(frozen=True)
class AcquisitionBenchmark:
    """Acquisition map and region picking of one image, after its forward pass."""

    height: int = 1024
    """Rows of the full image in pixels, a multiple of 32."""
    width: int = 2048
    """Columns of the full image in pixels, a multiple of 32."""
    share: float = 0.01
    """Share of the image's pixels that is bought."""
    region_radius: int = 1
    """r in pixels."""
    exclusion_radius: int = 5
    """e in pixels."""
    repeats: int = 3
    """Measurements of each pair; medians are printed."""
    threads: int = 2
    """Torch threads."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where maps are computed; picking is the CPU's work."""

    def __post_init__(self) -> None:
        least = {"region_radius": 0, "exclusion_radius": 0, "repeats": 1, "threads": 1}
        check(self, least, self.device, ("height", "width"))


def benchmark_acquisition(settings: AcquisitionBenchmark) -> Iterator[Line]:
    """Lines of the report, as they are measured."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    size, low = (settings.height, settings.width), low_resolution(settings.height, settings.width)
    logits = 3 * torch.randn(1, CLASSES, *low, device=settings.device)
    h = exp0(0.3 * torch.randn(1, EMBEDDING, *low, device=settings.device), CURVATURE)
    yield (
        f"device {settings.device}, {settings.threads} threads, torch {torch.__version__}; {CLASSES} classes, "
        f"D={EMBEDDING}, {low[0]}x{low[1]} -> {size[0]}x{size[1]}, {_regions(settings)} regions, "
        f"r={settings.region_radius}, e={settings.exclusion_radius}; medians of {settings.repeats} repetitions"
    )

    def score(name: str = "halo") -> Tensor:
        found = acquisition_map(
            name, logits, h, size, curvature=CURVATURE, region_radius=settings.region_radius, image_ids=["image"]
        )
        return found[0].cpu()

    def pick(map_: Tensor) -> Picks:
        return pick_regions(
            map_,
            _regions(settings),
            region_radius=settings.region_radius,
            exclusion_radius=settings.exclusion_radius,
        )

    def official_score() -> Tensor:
        return region_score_float64(logits, h, size, CURVATURE, settings.region_radius)

    def official_pick(map_: Tensor) -> list[tuple[int, int]]:
        return one_by_one(map_, _regions(settings), settings.region_radius, settings.exclusion_radius)[0]

    with torch.inference_mode():
        memory = extra_memory(lambda: pick(score()), settings.device)
        ours, other = score(), official_score()
        yield from _against_official(settings, score, pick, official_score, official_pick, ours, other, memory)
        yield "extra memory: this system does not tell" if memory is None else f"extra memory: {memory / 2**20:.0f} MiB"
        yield from _hardest_maps(settings, pick, ours)
        keys = median_seconds(
            lambda: pick(stochastic_keys(score(), beta=1.0, seed=0, image_id="image")),
            settings.repeats,
            settings.device,
        )
        yield f"map, stochastic keys (beta 1) and picking: {keys:.3f} s"
        for name in ACQUISITIONS:
            seconds = median_seconds(lambda name=name: score(name), settings.repeats, settings.device)  # type: ignore[misc]
            yield f"map {name}: {seconds:.3f} s"


def _regions(settings: AcquisitionBenchmark) -> int:
    """How many are picked."""
    return math.ceil(settings.height * settings.width * settings.share / (2 * settings.region_radius + 1) ** 2)


def _against_official(
    settings: AcquisitionBenchmark,
    score: Callable[[], Tensor],
    pick: Callable[[Tensor], Picks],
    official_score: Callable[[], Tensor],
    official_pick: Callable[[Tensor], list[tuple[int, int]]],
    ours: Tensor,
    other: Tensor,
    memory: int | None,
) -> Iterator[Line]:
    found = pick(ours)
    same = set(zip(found.y.tolist(), found.x.tolist(), strict=True)) & set(official_pick(other.clone()))
    repeats, device = settings.repeats, settings.device
    maps = compare(score, official_score, repeats=repeats, device=device)
    picks = compare(lambda: pick(ours), lambda: official_pick(other.clone()), repeats=repeats, device=device)
    whole = compare(lambda: pick(score()), lambda: official_pick(official_score()), repeats=repeats, device=device)
    size = f"{settings.height}x{settings.width}, {_regions(settings)} regions"
    whole_memory = None if memory is None else memory / 2**20
    for name, what, time, mebibytes in (
        ("acquisition map", "acquisition map", maps, None),
        ("picking", "picking", picks, None),
        ("both", "HALO map and picks", whole, whole_memory),
    ):
        line = f"{name}: {time.ours:.3f} s, official procedure {time.other:.2f} s: {time.ratio:.0f} times faster"
        sides = time.ours, time.other, "s", time.ratio
        yield Measurement(line, f"{what}, {size}", *sides, "official procedure", mebibytes)
    yield f"{len(same)} of {_regions(settings)} regions are the official procedure's; others would tie in float32"


def _hardest_maps(settings: AcquisitionBenchmark, pick: Callable[[Tensor], Picks], usual: Tensor) -> Iterator[str]:
    y, x = torch.meshgrid(torch.arange(settings.height), torch.arange(settings.width), indexing="ij")
    ramp = (y * settings.width + x).float()
    maps = {
        "ramp": ramp,
        "falling ramp": -ramp,
        "plateau": torch.ones_like(ramp),
        "checkerboard": ((y + x) % 2).float(),
    }
    for name, map_ in maps.items():
        time = compare(
            lambda map_=map_: pick(map_),  # type: ignore[misc]
            lambda: pick(usual),
            repeats=3 * settings.repeats,
            device="cpu",
        )
        yield f"picking from a {name}: {time.ours:.3f} s, {1 / time.ratio:.2f} times the usual"
