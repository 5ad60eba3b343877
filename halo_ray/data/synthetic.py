"""Procedural street scenes with exact per-pixel labels, in two styles that differ as two cameras in two cities do.

``source`` is clean daylight. ``target`` is a hazy dusk with other materials, a noisy camera and other class
frequencies. Its colours mislead a model that has only seen ``source`` (brown roads, slate pavements, withered and white
trees), yet the classes stay apart within the style. One metre at depth ``z`` metres covers ``focal / z`` pixels, and
the focal length is a fixed share of the height, so a scene keeps its proportions at every size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("road", "pavement", "building", "fence", "pole", "sign", "tree", "sky", "person", "car", "bicycle")
STYLES = ("source", "target")
ROAD, PAVEMENT, BUILDING, FENCE, POLE, SIGN, TREE, SKY, PERSON, CAR, BICYCLE = range(len(CLASSES))

T = TypeVar("T")
Colour = tuple[float, float, float]  # red, green, blue in 0..255
Bytes = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

MIN_SIDE = 32
_DARK, _GLASS, _LAMP = (28.0, 28.0, 32.0), (70.0, 84.0, 98.0), (255.0, 214.0, 150.0)
# Strength of the surface texture by class: foliage is rough, paint and sky are smooth.
_ROUGHNESS = np.array([0.05, 0.05, 0.05, 0.06, 0.02, 0.02, 0.26, 0.02, 0.05, 0.03, 0.0], np.float32)


@dataclass(frozen=True)
class _Look:
    """Everything that tells one style from the other; a pair is the lowest and the highest value of a scene."""

    paint: Mapping[int, tuple[Colour, ...]]  # colours by class; sky as zenith and horizon, and the latter is the haze's
    marking: Colour
    frontage: tuple[float, float, float, float]  # shares of building, fence, hedge and open ground along the street
    counts: Mapping[int, float]  # mean number of objects by class; half of the poles carry a sign
    extinction: tuple[float, float]  # of the haze, per metre
    light: tuple[float, float]
    cast: Colour  # gain per channel
    noise: float  # of the camera, standard deviation in grey levels
    night: bool  # lamps and windows are lit; the lens blurs and vignettes


_LOOKS = {
    "source": _Look(
        paint={ROAD: ((98, 98, 102), (108, 106, 108), (88, 90, 95)), PAVEMENT: ((182, 172, 160), (170, 165, 160)),
            BUILDING: ((196, 150, 110), (170, 96, 78), (214, 196, 160), (150, 132, 120), (186, 120, 96)),
            FENCE: ((120, 82, 50), (138, 100, 66)), POLE: ((62, 64, 68), (78, 78, 80)),
            SIGN: ((206, 30, 34), (28, 74, 186), (236, 196, 30)), TREE: ((58, 112, 44), (76, 130, 50), (44, 94, 46)),
            SKY: ((106, 160, 226), (200, 220, 240)), BICYCLE: ((30, 30, 34), (24, 24, 26), (140, 30, 40)),
            PERSON: ((44, 62, 130), (150, 36, 44), (52, 50, 56), (224, 216, 200), (60, 120, 96)),
            CAR: ((190, 26, 30), (30, 62, 150), (228, 228, 230), (40, 42, 46), (150, 154, 160), (226, 170, 30))},
        marking=(232, 232, 226), frontage=(0.55, 0.15, 0.07, 0.23),
        counts={CAR: 4.4, PERSON: 2.4, BICYCLE: 1.1, POLE: 4.6, TREE: 2.2},
        extinction=(0.001, 0.004), light=(0.94, 1.06), cast=(1, 1, 1), noise=2, night=False,
    ),
    "target": _Look(
        paint={ROAD: ((136, 118, 108), (126, 112, 104), (116, 108, 106)), PAVEMENT: ((150, 148, 150), (136, 136, 144)),
            BUILDING: ((142, 142, 126), (158, 148, 132), (120, 116, 124), (160, 136, 120), (112, 124, 108)),
            FENCE: ((166, 150, 132), (150, 140, 128)), SIGN: ((190, 60, 70), (60, 110, 190), (230, 214, 120)),
            POLE: ((120, 108, 84), (108, 100, 84)), TREE: ((126, 116, 46), (92, 104, 46), (186, 192, 186)),
            SKY: ((112, 132, 172), (184, 182, 190)), BICYCLE: ((60, 120, 130), (120, 150, 60), (130, 140, 150)),
            PERSON: ((190, 170, 60), (36, 36, 46), (170, 60, 90), (70, 56, 110), (196, 120, 50)),
            CAR: ((70, 66, 72), (120, 46, 50), (50, 78, 96), (130, 128, 124), (196, 192, 184))},
        marking=(226, 190, 90), frontage=(0.44, 0.14, 0.16, 0.26),
        counts={CAR: 2.0, PERSON: 3.6, BICYCLE: 1.3, POLE: 4.8, TREE: 3.8},
        extinction=(0.005, 0.013), light=(0.56, 0.86), cast=(0.98, 0.96, 1.08), noise=6, night=True,
    ),
}  # fmt: skip


def render_scene(style: str, seed: int, index: int, *, height: int = 128, width: int = 256) -> tuple[Bytes, Bytes]:
    """Render one street scene; the same arguments give the same bytes in any process and any order.

    Args:
        style: one of ``STYLES``.
        seed, index: the data set and the scene within it, not negative.
        height, width: size in pixels, each at least 32.

    Returns:
        The image, uint8 (height, width, 3) RGB, and the label, uint8 (height, width) of indices into ``CLASSES``.

    Raises:
        ValueError: unknown style, a side below 32 pixels, or a negative seed or index.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; known styles: {', '.join(STYLES)}")
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"height and width must be at least {MIN_SIDE} pixels, got {height} and {width}")
    entropy = np.random.SeedSequence([STYLES.index(style), seed, index, height, width])
    return _Scene(np.random.Generator(np.random.PCG64(entropy)), _LOOKS[style], height, width).render()


@lru_cache(maxsize=8)
def _noise(height: int, width: int, sigma: float) -> tuple[Floats, Floats]:
    """Camera noise (3, 2 height, 2 width) and unit texture (2 height, 2 width), to be cut at random offsets."""
    rng = np.random.Generator(np.random.PCG64(height * 65537 + width))
    noise = rng.standard_normal((4, 2 * height, 2 * width), np.float32)
    coarse = rng.standard_normal((height, width), np.float32).repeat(2, 0).repeat(2, 1)
    return noise[:3] * np.float32(sigma), np.float32(0.6) * noise[3] + np.float32(0.8) * coarse


class _Scene:
    """One straight street and the camera in it; lateral positions in metres, negative to the left."""

    def __init__(self, rng: np.random.Generator, look: _Look, height: int, width: int) -> None:
        self._rng, self._look, self._height, self._width, self._between = rng, look, height, width, rng.uniform
        self._rows, self._columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
        self._horizon, self._vanish = height * self._between(0.38, 0.50), width * self._between(0.36, 0.64)
        self._focal, self._eye = 1.1 * height, self._between(2.0, 2.5)  # pixels; metres above the road
        self._kerbs = -self._between(2.6, 4.4), self._between(2.6, 4.4)
        self._walls = self._kerbs[0] - self._between(1.8, 3.2), self._kerbs[1] + self._between(1.8, 3.2)
        self._extinction, self._haze = self._between(*look.extinction), look.paint[SKY][1]
        self._glows = [(-9.0, -9.0, 1.0)]  # column, row and radius of the lit lamps in pixels; the first lights nothing

    def render(self) -> tuple[Bytes, Bytes]:
        """The image (H, W, 3) and the label (H, W), built from far to near."""
        planes, label = self._ground_and_sky()
        self._frontage(planes, label)
        picture, plan = Image.merge("RGB", [Image.fromarray(plane) for plane in planes]), Image.fromarray(label)
        self._pens = ImageDraw.Draw(picture), ImageDraw.Draw(plan)
        self._things()
        return self._expose(picture, np.asarray(plan)), np.array(plan)

    def _pick(self, options: Sequence[T]) -> T:
        return options[int(self._rng.random() * len(options))]

    def _paint(self, cls: int) -> Colour:
        return self._pick(self._look.paint[cls])

    def _veil(self, colour: Colour | Floats, z: Floats | float, shade: Floats | float = 1.0) -> Bytes:
        """A colour, or one for each column (3, W), seen through ``z`` metres of haze: planes (3, 1 or rows, 1 or W)."""
        haze = np.array(self._haze, np.float32).reshape(3, 1, 1)
        return (haze + (np.reshape(colour, (3, 1, -1)) * shade - haze) * np.exp(-self._extinction * z)).astype(np.uint8)

    def _ground_and_sky(self) -> tuple[Bytes, Bytes]:
        """Sky, road, pavements and, along the horizon, far buildings and woods: (3, H, W) and label (H, W)."""
        label = np.full((self._height, self._width), SKY, np.uint8)
        planes = np.empty((3, self._height, self._width), np.uint8)
        zenith, haze = (np.reshape(colour, (3, 1, 1)) for colour in self._look.paint[SKY])
        planes[:] = zenith + (haze - zenith) * np.minimum(self._rows / self._horizon, 1)
        top = math.ceil(self._horizon + 0.5)
        scale, ground = (self._rows[top:] - self._horizon) / self._eye, planes[:, top:]  # pixels per metre on each row
        lateral, z, (left, right) = (self._columns - self._vanish) / scale, self._focal / scale, self._kerbs
        inside = np.minimum(lateral - left, right - lateral)  # metres from the nearer kerb
        road, middle = inside > 0, np.abs(lateral - (left + right) / 2)
        marking = ((middle < 0.09) & (z % 6 < 3)) | (np.abs(inside - 0.3) < 0.06)
        ground[:] = self._veil(self._paint(PAVEMENT), z, np.where(z % 1.5 < 0.15, 0.88, 1.0))
        np.copyto(ground, self._veil(self._paint(ROAD), z), where=road)
        np.copyto(ground, self._veil(self._look.marking, z), where=marking)
        label[top:] = np.where(road, np.uint8(ROAD), np.uint8(PAVEMENT))

        for x in range(0, self._width, max(1, self._height // 9)):
            kind, y = self._rng.random(), int(self._horizon - self._height * self._between(0.03, 0.18))
            if kind < 0.8:
                block = np.s_[..., y : top + 2, x : x + int(self._height * self._between(0.08, 0.25))]
                label[block] = cls = BUILDING if kind < 0.5 else TREE
                planes[block] = self._veil(self._paint(cls), 60)
        return planes, label

    def _frontage(self, planes: Bytes, label: Bytes) -> None:
        """Buildings, fences, hedges and gaps in the vertical planes behind both pavements, by one ray per column."""
        rng, look, offset, count = self._rng, self._look, self._columns - self._vanish, 12
        scale = np.maximum(offset / self._walls[0], offset / self._walls[1]) + np.float32(1e-3)
        z = self._focal / scale
        # Sections run away from the camera and end at ``ends``: those of the left side, then those of the right side.
        ends = np.cumsum(rng.uniform(4, 15, (2, count)), axis=1).astype(np.float32)
        on_side = [np.minimum(np.searchsorted(side, z), count - 1) for side in ends]
        section = np.where(offset < 0, on_side[0], on_side[1] + count)
        kinds = np.minimum(np.searchsorted(np.cumsum(look.frontage), rng.random(2 * count)), 3)
        low, high = np.array([(3.5, 10.0), (1.2, 1.9), (1.2, 2.4), (0.0, 0.0)]).T[:, kinds]
        heights = (low + (high - low) * rng.random(2 * count)).astype(np.float32)
        colours = np.array([self._paint((BUILDING, FENCE, TREE, BUILDING)[kind]) for kind in kinds], np.float32)
        # Through a gap the ray goes on to the gable of the building behind it.
        gable = (kinds[section] == 3) & (np.roll(kinds, -1)[section] == 0) & (section % count < count - 1)
        z = np.where(gable, ends.ravel()[section], z)
        along = np.where(gable, np.abs(offset) * z / self._focal, z) * np.float32(0.4)
        scale, section = self._focal / z, section + gable
        up = self._eye - (self._rows - self._horizon) / scale  # metres above the ground
        kind, floors = kinds[section], up * np.float32(0.36)
        storey, bay = floors.astype(np.int16), along.astype(np.int16)
        seen = (up >= 0) & (up < heights[section]) & (z < 90)
        window = (np.abs(floors - storey - 0.55) < 0.25) & (np.abs(along - bay - 0.5) < 0.27)
        window &= seen & (kind == 0) & (scale > self._height / 50)
        # The gaps between the pickets are fence in the label, as annotators have it.
        tone = np.where((kind == 1) & (z * 2 % 1 < 0.4), 0.72, 1) * np.where(gable, 0.75, 0.97 + 0.06 * np.sign(offset))
        np.copyto(planes, self._veil(colours[section].T, z, tone), where=seen)
        np.copyto(planes, self._veil(colours[section].T, z, 0.45 * tone), where=window)
        if look.night:
            np.copyto(planes, self._veil(_LAMP, z), where=window & ((storey * 5 + bay * 3 + section) % 4 == 0))
        np.copyto(label, np.array([BUILDING, FENCE, TREE, SKY], np.uint8)[kind], where=seen)

    def _things(self) -> None:
        """Scatter the free-standing things and draw them from far to near, so that the near ones occlude."""
        draw = {CAR: self._car, PERSON: self._person, BICYCLE: self._bicycle, POLE: self._pole, TREE: self._tree}
        farthest = {CAR: 45, PERSON: 28, BICYCLE: 18, POLE: 40, TREE: 45}  # metres; farther ones are a pixel or two
        spots, sides = [], tuple(zip(self._kerbs, self._walls, strict=True))
        for cls, mean in self._look.counts.items():
            for _ in range(int(self._rng.poisson(mean))):
                z, kerb, wall = self._between(6.5, farthest[cls]), *self._pick(sides)
                lateral = kerb + (wall - kerb) * (0.15 if cls == POLE else self._between(0.15, 0.85))
                if cls == CAR or (cls in (PERSON, BICYCLE) and self._rng.random() < 0.25):
                    lateral = self._between(self._kerbs[0] + 1, self._kerbs[1] - 1)
                spots.append((z, lateral, cls))
        for z, lateral, cls in sorted(spots, reverse=True):
            self._scale, self._clear = self._focal / z, math.exp(-self._extinction * z)
            self._foot = self._vanish + lateral * self._scale, self._horizon + self._eye * self._scale
            draw[cls]()

    def _draw(self, shape: str, metres: Sequence[float], colour: Colour, cls: int, pen: float = 0, **how: int) -> None:
        """Draw an ImageDraw shape at x, y, x, y, ... metres right of and above the foot, alike in image and label."""
        xy = [self._foot[i % 2] + (-v if i % 2 else v) * self._scale for i, v in enumerate(metres)]
        ink = tuple(round(h + (c - h) * self._clear) for c, h in zip(colour, self._haze, strict=True))
        if pen:
            how["width"] = max(1, round(pen * self._scale))
        for canvas, fill in zip(self._pens, (ink, cls), strict=True):
            getattr(canvas, shape)(xy, fill=fill, **how)

    def _lamp(self, x: float, y: float, radius: float) -> None:
        m = self._scale
        self._glows.append((self._foot[0] + x * m, self._foot[1] - y * m, radius * m))

    def _car(self) -> None:
        colour, tall, crossing = self._paint(CAR), self._between(0.9, 1.35), self._rng.random() < 0.3
        half, lean, hub, tyre, rim = (2.1, 1.6, 1.26, 0.34, 0.68) if crossing else (0.9, 0.72, 0.65, 0.12, 0.3)
        waist, pane, roof = 0.85 * tall, 1.35 * tall, 1.5 * tall
        self._draw("polygon", (-0.95 * half, waist, -lean, roof, lean, roof, 0.95 * half, waist), colour, CAR)
        self._draw("polygon", (-0.8 * half, waist, 0.1 - lean, pane, lean - 0.1, pane, 0.8 * half, waist), _GLASS, CAR)
        self._draw("rectangle", (-half, 0.3, half, 0.08), _DARK, CAR)
        self._draw("rectangle", (-half, waist, half, 0.25), colour, CAR)
        for side in (-1, 1):
            self._draw("ellipse", (side * hub - tyre, rim, side * hub + tyre, 0), _DARK, CAR)
            if not crossing:
                bulb, x, y = _LAMP if self._look.night else (200, 40, 40), side * 0.7, waist - 0.2
                self._draw("ellipse", (x - 0.15, y + 0.1, x + 0.15, y - 0.1), bulb, CAR)
                self._lamp(x, y, 1.0)

    def _person(self) -> None:
        tall, stride, trousers = self._between(0.85, 1.1), self._between(0.08, 0.22), self._paint(PERSON)
        for foot in (-stride, stride):
            self._draw("polygon", (-0.1, 0.9, 0.1, 0.9, foot + 0.08, 0, foot - 0.08, 0), trousers, PERSON)
        self._draw("rectangle", (-0.24, 1.45 * tall, 0.24, 0.8), self._paint(PERSON), PERSON)
        self._draw("ellipse", (-0.13, 1.75 * tall, 0.13, 1.43 * tall), (214, 166, 134), PERSON)

    def _bicycle(self) -> None:
        """Two wheels and a frame without a rider; the street shows through and keeps its own label."""
        colour, turn, pen = self._paint(BICYCLE), self._pick((-1, 1)), 0.08
        for hub in (-0.55, 0.55):
            self._draw("arc", (hub - 0.34, 0.68, hub + 0.34, 0), self._paint(BICYCLE), BICYCLE, pen, start=0, end=360)
        rear, front, saddle, bars = -0.55 * turn, 0.55 * turn, -0.2 * turn, 0.4 * turn
        self._draw("line", (front, 0.34, bars, 0.95, 0, 0.32, saddle, 0.9, rear, 0.34, 0, 0.32), colour, BICYCLE, pen)
        self._draw("line", (saddle, 0.9, bars, 0.95, 0.3 * turn, 1.1), colour, BICYCLE, pen)

    def _pole(self) -> None:
        colour, shape = self._paint(POLE), self._pick(("lamp", "lamp", "lamp", "ellipse", "rectangle", "polygon"))
        self._draw("rectangle", (-0.12, 5.5 if shape == "lamp" else 2.6, 0.12, 0), colour, POLE)
        if shape == "lamp":
            arm = self._pick((-1.2, 1.2))
            self._draw("line", (0, 5.4, arm, 5.6), colour, POLE, 0.12)
            self._lamp(arm, 5.5, 2.2)
        else:
            outline = (-0.45, 2.2, 0, 3, 0.45, 2.2) if shape == "polygon" else (-0.4, 3, 0.4, 2.2)
            self._draw(shape, outline, self._paint(SIGN), SIGN)
            self._draw("rectangle", (-0.2, 2.6, 0.2, 2.45), (240, 240, 240), SIGN)

    def _tree(self) -> None:
        (r, g, b), size = self._paint(TREE), self._between(0.7, 1.2)
        self._draw("rectangle", (-0.15, 2.5 * size, 0.15, 0), (84, 62, 46), TREE)
        for _ in range(5):
            shade, x, y = self._between(0.8, 1.05), self._between(-0.8, 0.8) * size, self._between(2.4, 4.2) * size
            crown = (x - size, y + 0.9 * size, x + size, y - 0.9 * size)
            self._draw("ellipse", crown, (r * shade, g * shade, b * shade), TREE)

    def _expose(self, picture: Image.Image, label: Bytes) -> Bytes:
        """Texture the surfaces, light the scene and pass it through the camera, to an image (H, W, 3)."""
        look, noise, texture = self._look, *_noise(self._height, self._width, self._look.noise)
        y0, x0 = int(self._rng.random() * self._height), int(self._rng.random() * self._width)
        cut = np.s_[..., y0 : y0 + self._height, x0 : x0 + self._width]
        gain, glow = 1 + texture[cut] * _ROUGHNESS[label], np.zeros((1, 1), np.float32)
        if look.night:
            picture = picture.filter(ImageFilter.Kernel((3, 3), (1, 2, 1, 2, 4, 2, 1, 2, 1)))
            gain *= 1.1 - 0.7 * (self._rows / self._height - 0.5) ** 2 - 0.7 * (self._columns / self._width - 0.5) ** 2
            x, y, radius = np.array(self._glows, np.float32).T[..., None]
            across = np.maximum(1 - ((self._columns - x) / radius) ** 2, 0) ** 2
            down = np.maximum(1 - ((self._rows.T - y) / radius) ** 2, 0) ** 2
            glow = np.einsum("ny,nx->yx", down, across)
        image, light = np.array(picture), self._between(*look.light)
        for channel, (cast, lamp) in enumerate(zip(look.cast, _LAMP, strict=True)):  # one by one: smaller temporaries
            plane = image[..., channel] * gain
            plane *= light * cast
            plane += glow * (0.45 * lamp) + noise[channel][cut]
            image[..., channel] = np.clip(plane, 0, 255, out=plane)
        return image
