"""Profiles of embeddings against loops over their vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from halo_ray.data.classes import IGNORE
from halo_ray.embedding_profile import ENTROPY_BINS, EUCLIDEAN_TOP, RADIUS_BINS, Profile
from halo_ray.geometry import exp0
from halo_ray.models.segmenter import Segmentation

CLASSES = 4


def said(seed: int, curvature: float, length: float = 1.0) -> Segmentation:
    """Of an image, (1, 4, 5, 7) logits and as many vectors of six dimensions."""
    torch.manual_seed(seed)
    vectors = length * torch.randn(1, 6, 5, 7)
    return Segmentation(3 * torch.randn(1, CLASSES, 5, 7), exp0(vectors, curvature) if curvature else vectors)


def labels(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 1, 3, IGNORE], size).astype(np.uint8)


@pytest.mark.parametrize("size", [(20, 28), (5, 7), (23, 41)])
@pytest.mark.parametrize("curvature", [0.0, 0.3, 1.0])
def test_each_vector_is_counted_once_with_its_radius_its_entropy_and_the_label_nearest_to_it(
    size: tuple[int, int], curvature: float
) -> None:
    out, label = said(1, curvature), labels(2, size)
    top = EUCLIDEAN_TOP if curvature == 0 else 2 / math.sqrt(curvature) * math.atanh(1 - 1e-5)
    sums: dict[int, list[float]] = {}
    radius, entropy = np.zeros(RADIUS_BINS, int), np.zeros(ENTROPY_BINS, int)
    for y, x in np.ndindex(5, 7):
        length = float(out.embedding[0, :, y, x].double().norm())
        r = length if curvature == 0 else 2 / math.sqrt(curvature) * math.atanh(math.sqrt(curvature) * length)
        p = out.logits[0, :, y, x].double().softmax(0)
        radius[min(int(r / top * RADIUS_BINS), RADIUS_BINS - 1)] += 1
        entropy[int(float(-(p * p.log()).sum()) / math.log(CLASSES) * ENTROPY_BINS)] += 1
        nearest = label[int((y + 0.5) * size[0] / 5), int((x + 0.5) * size[1] / 7)]
        sums.setdefault(int(nearest), []).append(r)

    found = Profile.of(out, label, curvature)
    assert found.vectors.tolist() == [len(sums.get(number, [])) for number in range(CLASSES)]
    assert found.class_radius[2] is None
    for number in (0, 1, 3):
        assert found.class_radius[number] == pytest.approx(np.mean(sums[number]), rel=2e-5)
    np.testing.assert_array_equal(found.radius, radius)
    np.testing.assert_array_equal(found.entropy, entropy)
    assert found.histograms(curvature)["radius_top"] == pytest.approx(top, rel=1e-3)


def test_profiles_add_up_in_any_order_and_survive_being_laid_flat() -> None:
    parts = [Profile.of(said(seed, 1.0), labels(seed, (20, 28)), 1.0) for seed in range(6)]
    total = Profile.from_flat(sum(part.flat for part in parts), CLASSES)
    again = Profile.from_flat(sum(part.flat for part in reversed(parts)), CLASSES)
    assert total.class_radius == again.class_radius
    assert total.radius.sum() == total.entropy.sum() == 6 * 35
    mean = sum(part.class_radius[3] * part.vectors[3] for part in parts) / sum(part.vectors[3] for part in parts)
    assert total.class_radius[3] == pytest.approx(mean, rel=1e-9)
    assert len(total.flat) == Profile.size_of(CLASSES)


def test_vectors_beyond_the_last_bin_and_at_the_rim_are_in_it() -> None:
    assert Profile.of(said(3, 0.0, 1000.0), labels(3, (5, 7)), 0.0).radius[-1] == 35
    assert Profile.of(said(3, 1.0, 1000.0), labels(3, (5, 7)), 1.0).radius[-1] == 35


def test_certain_and_undecided_predictions_lie_in_the_outer_bins() -> None:
    out = said(4, 1.0)
    undecided, certain = torch.zeros_like(out.logits), torch.zeros_like(out.logits)
    certain[:, 2] = 1000
    for logits, place in ((undecided, -1), (certain, 0)):
        assert Profile.of(Segmentation(logits, out.embedding), labels(4, (5, 7)), 1.0).entropy[place] == 35
