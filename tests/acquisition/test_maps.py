"""Maps computed tile by tile against whole upsampled tensors, and impurity against counting in every window."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch.nn import functional as F

from halo_ray.acquisition import maps as maps_module
from halo_ray.acquisition.maps import TILE_ROWS, Maps, impurity, minmax, region_sum
from halo_ray.acquisition.scores import ACQUISITIONS, acquisition_map
from halo_ray.benchmarks.compare import extra_memory
from halo_ray.geometry import exp0, radius

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(2, 5, 9, 7, generator=GENERATOR)
BALL = exp0(torch.randn(2, 4, 9, 7, generator=GENERATOR), 1.0)
SIZES = [(2 * TILE_ROWS + 3, 50), (TILE_ROWS, 20), (1, 40), (40, 1), (9, 7), (4, 3)]


def full(low: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(low.double(), size=size, mode="bilinear", align_corners=True)


@pytest.mark.parametrize("size", SIZES)
class TestMapsAgainstTheirDefinition:
    def test_of_logits(self, size: tuple[int, int]) -> None:
        maps, p = Maps(LOGITS, BALL, size, curvature=1.0), full(LOGITS, size).softmax(1)
        best = p.sort(dim=1, descending=True).values
        expected = {
            "entropy": -(p * p.log()).sum(1) / math.log(5),
            "margin": 1 - (best[:, 0] - best[:, 1]),
            "least_confidence": 1 - best[:, 0],
        }
        for name, map_ in expected.items():
            torch.testing.assert_close(getattr(maps, name).double(), map_, rtol=0, atol=1e-5)
        sure = best[:, 0] - best[:, 1] > 1e-4
        assert torch.equal(maps.guess[sure], p.argmax(1)[sure])

    def test_of_the_embedding(self, size: tuple[int, int]) -> None:
        vectors = full(BALL, size)
        hyperbolic, flat = Maps(LOGITS, BALL, size, curvature=1.0), Maps(LOGITS, BALL, size, curvature=0.0)
        torch.testing.assert_close(hyperbolic.radius.double(), radius(vectors, 1.0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(flat.radius.double(), vectors.norm(dim=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("radius_", [1, 2, 5])
@pytest.mark.parametrize("size", [(2 * TILE_ROWS + 3, 9), (3, 4), (1, 30)])
def test_impurity_is_the_entropy_of_the_classes_in_each_window(size: tuple[int, int], radius_: int) -> None:
    labels = torch.randint(0, 6, (1, *size), generator=GENERATOR)
    found = impurity(labels, 6, radius_)
    for y in range(size[0]):
        for x in range(size[1]):
            window = labels[0, max(y - radius_, 0) : y + radius_ + 1, max(x - radius_, 0) : x + radius_ + 1].flatten()
            p = torch.bincount(window).double() / len(window)
            expected = float(torch.special.entr(p).sum() / math.log(6))
            assert float(found[0, y, x]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("radius_", [1, 2, 3, 5])
def test_windows_of_one_class_are_exactly_pure(radius_: int) -> None:
    assert torch.equal(impurity(torch.full((1, 70, 60), 3), 6, radius_), torch.zeros(1, 70, 60))


def test_region_sum_pads_with_zeros() -> None:
    score = torch.rand(1, 5, 6, generator=GENERATOR)
    for side in (0, 1, 2):
        padded = F.pad(score, (side, side, side, side))
        for y in range(5):
            for x in range(6):
                window = padded[0, y : y + 2 * side + 1, x : x + 2 * side + 1]
                assert float(region_sum(score, side)[0, y, x]) == pytest.approx(float(window.sum()), rel=1e-5)


def test_minmax_scales_each_image_by_itself_and_survives_a_constant_one() -> None:
    score = torch.stack([torch.arange(6.0).view(2, 3), torch.ones(2, 3)])
    scaled = minmax(score)
    torch.testing.assert_close(scaled[0], torch.arange(6.0).view(2, 3) / 5)
    assert torch.equal(scaled[1], torch.zeros(2, 3))


def test_a_map_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(maps_module, "upsampled_rows", lambda *args: calls.append(1) or iter(()))
    maps = Maps(LOGITS, BALL, (8, 8), curvature=1.0)
    first = maps.entropy
    assert maps.entropy is first
    assert len(calls) == 1


def test_a_broken_logit_spoils_its_own_cells_alone() -> None:
    broken = LOGITS[:1].clone()
    broken[0, 2, 4, 3] = float("nan")
    size = (65, 49)  # 8 pixels to a cell
    whole, spoilt = (Maps(z, BALL[:1], size, curvature=1.0).entropy[0] for z in (LOGITS[:1], broken))
    y, x = torch.meshgrid(torch.arange(65), torch.arange(49), indexing="ij")
    near = ((y - 32).abs() <= 8) & ((x - 24).abs() <= 8)
    assert spoilt[near].isnan().any()
    assert torch.equal(spoilt[~near], whole[~near])


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc, which only Linux has")
@pytest.mark.parametrize("name", ACQUISITIONS)
def test_no_map_of_all_classes_or_dimensions_is_ever_held(name: str) -> None:
    size, classes, dimensions = (512, 1024), 64, 64
    logits = torch.randn(1, classes, 32, 64, generator=GENERATOR)
    ball = exp0(torch.randn(1, dimensions, 32, 64, generator=GENERATOR), 1.0)

    def score() -> torch.Tensor:
        return acquisition_map(name, logits, ball, size, curvature=1.0, image_ids=["a"])

    score()
    found = [extra_memory(score, "cpu") for _ in range(3)]
    if None in found:
        pytest.skip("this system does not let a process reset its peak of resident memory")
    assert min(found) < 0.5 * classes * size[0] * size[1] * 4  # the least: what else the process does may add to it
