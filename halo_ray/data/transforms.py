"""From files to network inputs; every random choice is seeded by the row of the schedule that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from halo_ray.bounds import Range, check_ranges
from halo_ray.data.classes import IGNORE
from halo_ray.errors import InputError

CROP_TRIES = 10
"""Windows that are tried for one that shows a rare class (DAFormer)."""


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
class AugmentationConfig:
    """How much training samples are changed at random."""

    flip: bool = True
    """Mirror half of the images."""
    color_jitter: Annotated[float, Range(0, 1)] = 0.2
    """Largest relative change of brightness and contrast."""
    saturation_jitter: Annotated[float, Range(0, 1)] = 0.0
    """Largest relative change of colour saturation."""
    hue_jitter: Annotated[float, Range(0, 0.5)] = 0.0
    """Largest shift of hues, as a share of the colour circle (at most 0.5)."""
    random_scale: Annotated[tuple[float, float], Range(0.01, 100)] = (1.0, 1.0)
    """Images are scaled by a random factor of their own size in this range, and a window of the input's size is cut out
    (filled up where they are smaller); [1, 1]: the whole image is resized to the input (paper)."""

    def __post_init__(self) -> None:
        check_ranges(self, "training.augment.")
        low, high = self.random_scale
        if low > high:
            raise InputError(f"training.augment.random_scale is [{low}, {high}]: the numbers must not fall")


@dataclass(frozen=True)
class View:
    """The part of an image that a sample shows: a window of the scaled image, or all of it."""

    size: tuple[int, int]
    """(height, width) of the sample."""
    scaled: tuple[int, int]
    """(height, width) of the whole image after scaling; where it is smaller than the sample, the rest is filled."""
    top: int = 0
    """Row of the scaled image that is the sample's first."""
    left: int = 0
    """The same for columns."""

    @classmethod
    def whole(cls, size: tuple[int, int]) -> View:
        """The whole image, resized to the sample."""
        return cls(size, size)

    def image(self, image: Image.Image) -> Image.Image:
        """The sample of an RGB image, with antialiasing; black where it is filled."""
        return self._window(image, Image.Resampling.BILINEAR, 0)

    def label(self, label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(height, width) of a label (H, W), nearest neighbour; IGNORE where it is filled."""
        if label.shape == self.scaled == self.size:
            return label
        return np.asarray(self._window(Image.fromarray(label), Image.Resampling.NEAREST, IGNORE))

    def points(self, points: Points) -> Points:
        """The points that lie in the window, at their places in the sample, from first to last pixel as everywhere.

        Images are cut by pixel areas instead: the two are half a pixel of the sample apart at most.
        """
        if self.scaled == self.size:
            return points
        y, y_inside = self._places(points.y, 0, self.top)
        x, x_inside = self._places(points.x, 1, self.left)
        inside = y_inside & x_inside
        return Points(y[inside], x[inside], points.label[inside])

    def _window(self, pixels: Image.Image, how: Image.Resampling, fill: int) -> Image.Image:
        height, width = self.scaled
        if (pixels.height, pixels.width) == self.scaled == self.size:
            return pixels
        shown = min(height, self.size[0]), min(width, self.size[1])
        # The window in pixels of the image, cut and scaled in one step.
        box = (
            self.left * pixels.width / width,
            self.top * pixels.height / height,
            (self.left + shown[1]) * pixels.width / width,
            (self.top + shown[0]) * pixels.height / height,
        )
        part = pixels.resize((shown[1], shown[0]), how, box=box)
        if shown == self.size:
            return part
        filled = Image.new(pixels.mode, (self.size[1], self.size[0]), (fill,) * len(pixels.getbands()))
        filled.paste(part)
        return filled

    def _places(
        self, place: npt.NDArray[np.float32], axis: int, start: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Places along one axis of the sample, and which of them lie in it."""
        last = self.size[axis] - 1
        pixel = place.astype(np.float64) * (self.scaled[axis] - 1) - start
        inside = (pixel > -0.5) & (pixel < last + 0.5)
        return (np.clip(pixel, 0, last) / max(last, 1)).astype(np.float32), inside


@dataclass(frozen=True)
class Augmentation:
    """One draw of the random changes made to a training sample."""

    flip: bool
    gain: float
    contrast: float
    saturation: float = 1.0
    hue: float = 0.0
    scale: float | None = None
    """Of the image, of which a window is shown; None: the whole image is resized to the sample."""
    windows: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    """Windows to try, as shares of the way from the first to the last (top, left)."""

    @classmethod
    def draw(cls, seed: int, row: int, config: AugmentationConfig) -> Augmentation:
        """The draw of row ``row`` of the schedule that ``seed`` belongs to."""
        random = np.random.default_rng([seed, row])
        flips, gain, contrast, saturation, hue, scale = random.random(6)
        windows = random.random((CROP_TRIES, 2))
        low, high = config.random_scale
        return cls(
            flip=config.flip and flips < 0.5,
            gain=1 + config.color_jitter * (2 * gain - 1),
            contrast=1 + config.color_jitter * (2 * contrast - 1),
            saturation=1 + config.saturation_jitter * (2 * saturation - 1),
            hue=config.hue_jitter * (2 * hue - 1),
            scale=None if low == high == 1 else low + (high - low) * scale,
            windows=tuple((top, left) for top, left in windows.tolist()),
        )

    def views(self, image: tuple[int, int], sample: tuple[int, int]) -> Iterator[View]:
        """The views of an image of that (height, width) to try, in their order."""
        if self.scale is None:
            yield View.whole(sample)
            return
        scaled = max(round(image[0] * self.scale), 1), max(round(image[1] * self.scale), 1)
        room = [max(side - shown, 0) for side, shown in zip(scaled, sample, strict=True)]
        for top, left in self.windows:
            yield View(sample, scaled, round(top * room[0]), round(left * room[1]))

    def image(self, image: Image.Image) -> Image.Image:
        if self.gain != 1 or self.contrast != 1:
            levels = (np.arange(256) - 127.5) * self.contrast + 127.5
            image = image.point(np.clip(levels * self.gain, 0, 255).astype(np.uint8).tolist() * 3)
        if self.saturation != 1:
            image = ImageEnhance.Color(image).enhance(self.saturation)
        if self.hue:
            hue, *others = image.convert("HSV").split()
            steps = round(self.hue * 256)  # the circle of hues is 256 steps
            hue = hue.point([(level + steps) % 256 for level in range(256)])
            image = Image.merge("HSV", (hue, *others)).convert("RGB")
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else image

    def label(self, label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return label[:, ::-1] if self.flip else label

    def points(self, points: Points) -> Points:
        return Points(points.y, 1 - points.x, points.label) if self.flip else points
