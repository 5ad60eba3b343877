"""The benchmarks' other side does the official work: it agrees with the official implementation's vectors."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from halo_ray.benchmarks.official import (
    PoincareMLRFloat64,
    exp0_float64,
    interpolated_radius_float64,
    one_by_one,
    region_score_float64,
)

VECTORS = np.load(Path(__file__).parents[1] / "reference" / "geometry.npz")
PICKING = np.load(Path(__file__).parents[1] / "reference" / "acquisition.npz")


def vector(name: str) -> torch.Tensor:
    return torch.from_numpy(VECTORS[name])


@pytest.mark.parametrize("curvature", [0.1, 0.5, 1, 2])
class TestOfficialVectors:
    def test_exp0(self, curvature: float) -> None:
        found = exp0_float64(vector(f"c{curvature}/tangent").float(), curvature)
        torch.testing.assert_close(found, vector(f"c{curvature}/ball"), rtol=1e-5, atol=1e-6)

    def test_radius(self, curvature: float) -> None:
        found = interpolated_radius_float64(vector(f"c{curvature}/ball"), (12, 20), curvature)
        torch.testing.assert_close(found, vector(f"c{curvature}/radius"), rtol=1e-7, atol=1e-9)

    def test_poincare_mlr(self, curvature: float) -> None:
        parameters = vector(f"c{curvature}/mlr_points"), vector(f"c{curvature}/mlr_normals")
        found = PoincareMLRFloat64(*parameters, curvature)(vector(f"c{curvature}/ball"))
        torch.testing.assert_close(found, vector(f"c{curvature}/mlr_logits"), rtol=1e-9, atol=1e-9)


def test_the_radius_is_taken_after_interpolation() -> None:
    h = vector("c1/ball")
    full = F.interpolate(h, size=(24, 40), mode="bilinear", align_corners=True)
    expected = 2 * torch.atanh(full.norm(dim=1))
    torch.testing.assert_close(interpolated_radius_float64(h, (24, 40), 1.0), expected, rtol=1e-7, atol=1e-9)


def test_region_score() -> None:
    logits, ball = (torch.from_numpy(PICKING[f"score/{name}"]) for name in ("logits", "ball"))
    found = region_score_float64(logits, ball, (48, 96), 1.0, 1)
    expected = torch.from_numpy(PICKING["score/radius_x_region_entropy"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", range(4))
def test_picks(case: int) -> None:
    count, region_radius, exclusion_radius = PICKING[f"select{case}/params"].tolist()
    taken = torch.from_numpy(PICKING[f"select{case}/taken"])
    score = torch.from_numpy(PICKING["score/radius_x_region_entropy_normalized"]).clone()
    score[taken] = -math.inf
    picks, selected = one_by_one(score, count, region_radius, exclusion_radius)
    assert len(picks) == count
    expected = torch.from_numpy(PICKING[f"select{case}/selected"])
    assert torch.equal(selected & ~taken, expected & ~taken)
    assert torch.equal(score == -math.inf, torch.from_numpy(PICKING[f"select{case}/active"]))
