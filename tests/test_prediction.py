"""Predictions against class probabilities of the whole image, averaged plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from halo_ray.models.segmenter import HyperbolicHead, Segmenter
from halo_ray.prediction import TILE_ROWS, predict, with_mirror_image

SIZES = [(20, 31), (TILE_ROWS - 1, 40), (TILE_ROWS, 40), (TILE_ROWS + 1, 33), (3 * TILE_ROWS + 7, 50), (1, 9), (8, 10)]
"""Of the output: in one tile, in several, and at the logits' own size."""


class Pyramid(nn.Module):
    """A backbone of one map, which sees left from right."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, (4, 5), stride=4, padding=(0, 2))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.layer(pixels).relu()]


class First(nn.Module):
    def forward(self, features: list[Tensor]) -> Tensor:
        return 3 * features[0]


@pytest.fixture
def model() -> Segmenter:
    torch.manual_seed(0)
    head = HyperbolicHead(8, 6, curvature=1.0)
    return Segmenter(Pyramid(), First(), head, mean=[0.5] * 3, std=[0.3] * 3).double().eval()


@pytest.fixture
def image() -> Tensor:
    """Smooth, so that a class covers more than a pixel."""
    coarse = torch.rand(1, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    return (255 * F.interpolate(coarse, size=(32, 40), mode="bilinear")).permute(0, 2, 3, 1).byte()


def probabilities(model: Segmenter, image: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) of the whole image."""
    with torch.no_grad():
        logits = model(image).logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True).softmax(1)[0]


@pytest.mark.parametrize("size", SIZES)
def test_an_image_alone_has_its_likeliest_classes(model: Segmenter, image: Tensor, size: tuple[int, int]) -> None:
    found = predict(model, with_mirror_image(image, flip=False), size)
    assert (found.dtype, found.shape) == (np.uint8, size)
    np.testing.assert_array_equal(found, probabilities(model, image, size).argmax(0).numpy())


@pytest.mark.parametrize("size", SIZES)
def test_with_its_mirror_image_probabilities_are_averaged(
    model: Segmenter, image: Tensor, size: tuple[int, int]
) -> None:
    mirrored = probabilities(model, torch.from_numpy(image.numpy()[:, :, ::-1].copy()), size)
    one = probabilities(model, image, size)
    expected = (one + mirrored.flip(2)) / 2
    found = predict(model, with_mirror_image(image, flip=True), size)
    assert (found.dtype, found.shape) == (np.uint8, size)
    np.testing.assert_array_equal(found, expected.argmax(0).numpy())
    if size[0] > 1:
        assert (found != one.argmax(0).numpy()).any()
        assert len(np.unique(found)) > 2


def test_probabilities_are_averaged_and_not_logits(model: Segmenter, image: Tensor) -> None:
    size = (150, 190)
    with torch.no_grad():
        mixed = model(image).logits + model(image.flip(2)).logits.flip(3)
    of_logits = F.interpolate(mixed, size=size, mode="bilinear", align_corners=True)[0].argmax(0).numpy()
    assert (predict(model, with_mirror_image(image, flip=True), size) != of_logits).any()


@pytest.mark.parametrize("flip", [False, True])
def test_stored_features_give_the_same(model: Segmenter, image: Tensor, flip: bool) -> None:
    inputs = with_mirror_image(image, flip=flip)
    with torch.no_grad():
        stored = [model.features(each) for each in inputs]
    np.testing.assert_array_equal(predict(model, stored, (70, 90)), predict(model, inputs, (70, 90)))
