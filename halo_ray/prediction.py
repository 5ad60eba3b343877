"""The classes that a segmenter sees in an image, at any resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from halo_ray.data.decoding import Pixels
from halo_ray.models.sampling import upsample, upsampled_rows
from halo_ray.models.segmenter import Segmenter

TILE_ROWS = 64
"""Rows of the output whose class probabilities are computed at once."""

Inputs = Tensor | list[Tensor]
"""An image as a segmenter takes it: (1, H, W, 3), uint8, or its feature maps."""


def with_mirror_image(image: Inputs, *, flip: bool) -> list[Inputs]:
    """The image (1, H, W, 3), and with ``flip`` its mirror image."""
    assert isinstance(image, torch.Tensor)
    return [image, image.flip(2)] if flip else [image]


def predict(model: Segmenter, inputs: Sequence[Inputs], size: tuple[int, int]) -> Pixels:
    """The likeliest class of each pixel, uint8 (H, W).

    Args:
        inputs: an image as the model takes it and, to average their class probabilities, its mirror image.
        size: (H, W).
    """
    with torch.inference_mode():
        return likeliest([model(each).logits for each in inputs], size)


def likeliest(logits: Sequence[Tensor], size: tuple[int, int]) -> Pixels:
    """The likeliest class of each pixel, uint8 (H, W).

    Args:
        logits: (1, C, h, w) of an image and, to average their class probabilities, of its mirror image.
        size: (H, W).
    """
    if len(logits) == 1:
        guess = upsample(logits[0], size).argmax(1)[0]
    else:
        both = torch.cat([logits[0], logits[1].flip(3)])
        # In tiles, so that the probabilities of all classes never stand in memory for the whole image.
        tiles = [rows.softmax(1).mean(0).argmax(0) for _, rows in upsampled_rows(both, size, TILE_ROWS)]
        guess = torch.cat(tiles)
    found: Pixels = guess.to(torch.uint8).cpu().numpy()
    return found
