"""From files to network inputs; every random choice is seeded by the row of the schedule that asks for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from halo_ray.data.images import read_image


def load_input(uri: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The image (height, width, 3), resized to ``size`` = (height, width) with antialiasing."""
    return resize_image(read_image(uri), size)


def resize_image(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_label(label: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Nearest neighbour, for dense labels; bought pixels never pass through here."""
    if label.shape == size:
        return label
    return np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))


@dataclass(frozen=True)
class Points:
    """Labelled pixels as places in the image: y, x in [0, 1] from the first pixel's centre to the last's."""

    y: npt.NDArray[np.float32]
    x: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]

    @classmethod
    def from_pixels(
        cls, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64], label: npt.NDArray[np.uint8], size: tuple[int, int]
    ) -> Points:
        """Pixels of a label map of ``size`` = (height, width); a place does not change when the image is resized."""
        height, width = (max(side - 1, 1) for side in size)
        return cls((y / height).astype(np.float32), (x / width).astype(np.float32), label)


@dataclass(frozen=True)
class Augmentation:
    """One draw of the random changes made to a training sample."""

    flip: bool
    gain: float
    contrast: float

    @classmethod
    def draw(cls, seed: int, row: int, *, flip: bool, color_jitter: float) -> Augmentation:
        """The draw of row ``row`` of the schedule that ``seed`` belongs to."""
        random = np.random.default_rng([seed, row])
        flips, gain, contrast = random.random(3)
        return cls(flip and flips < 0.5, 1 + color_jitter * (2 * gain - 1), 1 + color_jitter * (2 * contrast - 1))

    def image(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if self.gain != 1 or self.contrast != 1:
            levels = (np.arange(256) - 127.5) * self.contrast + 127.5
            image = np.clip(levels * self.gain, 0, 255).astype(np.uint8)[image]
        return image[:, ::-1] if self.flip else image

    def label(self, label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return label[:, ::-1] if self.flip else label

    def points(self, points: Points) -> Points:
        return Points(points.y, 1 - points.x, points.label) if self.flip else points
