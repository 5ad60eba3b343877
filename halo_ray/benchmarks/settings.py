"""What the settings of all benchmarks have in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from halo_ray.errors import InputError

CLASSES, EMBEDDING, CURVATURE = 19, 64, 1.0
"""Classes, embedding dimensions and curvature of the official Cityscapes models."""


def low_resolution(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the official network's output for an image of 1024x2048: 160x320; others in proportion."""
    return height * 5 // 32, width * 5 // 32


def check(settings: object, least: dict[str, int], device: str = "cpu", multiples_of_32: Iterable[str] = ()) -> None:
    """Raises InputError for a field below its least value, a size no multiple of 32, a device that is not there."""
    for key in multiples_of_32:
        if getattr(settings, key) < 64 or getattr(settings, key) % 32:
            raise InputError(f"{key} is {getattr(settings, key)}: it must be a multiple of 32 of at least 64")
    for key, smallest in least.items():
        if getattr(settings, key) < smallest:
            raise InputError(f"{key} is {getattr(settings, key)}: it must be at least {smallest}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch finds no GPU: take cpu")
