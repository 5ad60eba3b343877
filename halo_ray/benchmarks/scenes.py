"""Rendered street scenes as files, for benchmarks that read them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from halo_ray.data.synthetic import render_scene


def store_scenes(directory: Path, number: int, *, height: int, width: int, image_format: str) -> None:
    """Writes images/NNNN.FORMAT and labels/NNNN.png, numbered from 0."""
    for folder in ("images", "labels"):
        (directory / folder).mkdir()
    for index in range(number):
        image, label = render_scene("target", 0, index, height=height, width=width)
        Image.fromarray(image).save(directory / f"images/{index:04d}.{image_format}")
        Image.fromarray(label).save(directory / f"labels/{index:04d}.png")
