"""The terms of the loss against reference vectors and against formulas over upsampled logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from loss_twin import borders_by_loop, upsampled
from torch import Tensor
from torch.nn import functional as F

from halo_ray.data.classes import IGNORE
from halo_ray.training.losses import (
    class_borders,
    dense_cross_entropy,
    local_consistency,
    negative_learning,
    point_cross_entropy,
)

OFFICIAL = np.load(Path(__file__).parents[1] / "reference/losses.npz")
CLASSES = 4
SIZES = [((3, 5), (12, 19)), ((4, 4), (4, 4)), ((1, 6), (1, 20)), ((6, 7), (3, 2))]
"""Of the logits and of the labels."""


def batch(seed: int, small: tuple[int, int] = (3, 5), full: tuple[int, int] = (12, 19), void: float = 0.3) -> tuple:
    """Logits (3, 4, h, w) and labels (3, H, W), of which the share ``void`` is IGNORE."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, CLASSES, *small, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (3, *full), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < void] = IGNORE
    return logits.requires_grad_(), labels


def at_every_pixel(labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments of point_cross_entropy that stand for all pixels of the labels, in the given order."""
    image, y, x = torch.unravel_index(order, labels.shape)
    height, width = labels.shape[1:]
    return image, y.double() / max(height - 1, 1), x.double() / max(width - 1, 1), labels.flatten()[order]


@pytest.mark.parametrize("void", [0, 0.3, 0.99, 1.1])
@pytest.mark.parametrize(("small", "full"), SIZES)
@pytest.mark.parametrize("dense", [True, False])
def test_sum_count_and_gradient_are_those_of_upsampled_logits(
    small: tuple[int, int], full: tuple[int, int], void: float, dense: bool
) -> None:
    logits, labels = batch(1, small, full, void)
    if dense:
        total, count = dense_cross_entropy(logits, labels)
    else:
        total, count = point_cross_entropy(logits, *at_every_pixel(labels, torch.randperm(labels.numel())))
    reference = F.cross_entropy(upsampled(logits, full), labels.long(), ignore_index=IGNORE, reduction="sum")
    assert count.item() == int((labels < CLASSES).sum())
    torch.testing.assert_close(total, reference)
    torch.testing.assert_close(torch.autograd.grad(total, logits), torch.autograd.grad(reference, logits))


@pytest.mark.parametrize("places", [0, 1, 7, 100])
def test_points_count_only_where_they_lie(places: int) -> None:
    logits, labels = batch(2, void=0)
    chosen = torch.randperm(labels.numel())[:places]
    sparse = torch.full_like(labels, IGNORE).flatten()
    sparse[chosen] = labels.flatten()[chosen]
    total, count = point_cross_entropy(logits, *at_every_pixel(labels, chosen))
    full = upsampled(logits, labels.shape[1:])
    expected = F.cross_entropy(full, sparse.view_as(labels).long(), ignore_index=IGNORE, reduction="sum")
    assert count.item() == places
    torch.testing.assert_close(total, expected)


def test_negative_learning_is_the_official_one() -> None:
    total, count = negative_learning(torch.from_numpy(OFFICIAL["loss/probabilities"]).log(), 0.05)
    assert count.item() == int((OFFICIAL["loss/probabilities"] < 0.05).sum())
    assert (total / count).item() == pytest.approx(float(OFFICIAL["loss/negative_learning"]), rel=1e-6)


@pytest.mark.parametrize("distance", ["l1", "kl"])
def test_local_consistency_is_the_official_one(distance: str) -> None:
    logits, labels = (torch.from_numpy(OFFICIAL[f"loss/{name}"]) for name in ("logits", "labels"))
    total, count = local_consistency(logits, labels, distance)
    assert (total / count).item() == pytest.approx(float(OFFICIAL[f"loss/local_consistency_{distance}"]), rel=1e-6)


@pytest.mark.parametrize("void", [0, 0.05, 0.5])
@pytest.mark.parametrize("size", [(9, 11), (1, 6), (5, 1), (1, 1)])
def test_borders_are_where_the_laplacian_of_the_class_numbers_is_not_0(size: tuple[int, int], void: float) -> None:
    # Blocks of one class, so that there are inner pixels too; class 0 has none at the image's edge, others do.
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, (6, *(-(-side // 4) for side in size)), dtype=np.uint8)
    labels = labels.repeat(4, 1).repeat(4, 2)[:, : size[0], : size[1]]
    labels[random.random(labels.shape) < void] = IGNORE
    found = class_borders(torch.from_numpy(labels.copy())).numpy()
    np.testing.assert_array_equal(found, borders_by_loop(labels))
    if size == (9, 11) and void < 0.5:
        assert 0 < found.sum() < (labels != IGNORE).sum()


def test_borders_of_single_pixels_steps_and_ramps() -> None:
    labels = torch.zeros(3, 5, 6, dtype=torch.uint8)
    labels[0, 2, 3] = 2
    labels[1, :, 3:] = IGNORE
    labels[2] = torch.arange(6)
    around, beside_void, ramp = class_borders(labels)
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(around, expected)
    assert beside_void.nonzero()[:, 1].unique().tolist() == [2]
    assert not ramp[1:-1, 1:-1].any()  # differences that cancel
    assert ramp[0, 1:].all()
