"""What an annotator sees of a region that is asked: its surroundings, enlarged, and where it lies in the frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from halo_ray.acquisition.regions import window
from halo_ray.data.images import decode_image, file

CROP = 208
"""Pixels of the side of an enlarged crop."""

CONTEXT = 40
"""Pixels around a region that its crop shows too."""

COLUMNS, SHEET = 4, 24
"""Crops beside each other, and on a sheet."""

MARK, EDGE = (255, 230, 0), (0, 0, 0)
"""Colours of a region's outline: one of the two is seen on any image."""

_CAPTION = 34
"""Pixels for two lines of text."""

_GAP = 6


def read_frame(uri: str, size: tuple[int, int]) -> Image.Image:
    """The image of that URI at label resolution, ``size`` = (H, W).

    Raises:
        BadRecordError: as decode_image.
    """
    image = decode_image(file(uri))[0]
    if (image.height, image.width) == size:
        return image
    return image.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def crop(
    image: Image.Image, y: int, x: int, region_radius: int, side: int = CROP, context: int = CONTEXT
) -> Image.Image:
    """The surroundings of a region as a square of ``side`` pixels with the region outlined; black beyond the image.

    Args:
        context: pixels around the region that are shown too.
    """
    reach = region_radius + context
    around = image.crop((x - reach, y - reach, x + reach + 1, y + reach + 1))
    shown = around.resize((side, side), Image.Resampling.LANCZOS)
    scale = side / (2 * reach + 1)
    first, last = math.floor(context * scale), math.ceil((context + 2 * region_radius + 1) * scale)
    _outline(ImageDraw.Draw(shown), first, first, last, last)
    return shown


def crop_sheets(
    image: Image.Image, regions: Sequence[tuple[int, int]], captions: Sequence[str], region_radius: int
) -> list[Image.Image]:
    """The crops of regions (y, x), each above its caption of two lines, SHEET on each picture."""
    sheets = []
    for start in range(0, len(regions), SHEET):
        mine = list(zip(regions, captions, strict=True))[start : start + SHEET]
        columns, rows = min(len(mine), COLUMNS), -(-len(mine) // COLUMNS)
        cell = CROP + _GAP, CROP + _CAPTION + _GAP
        sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), (255, 255, 255))
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
        for place, ((y, x), caption) in enumerate(mine):
            left, top = _GAP + place % COLUMNS * cell[0], _GAP + place // COLUMNS * cell[1]
            sheet.paste(crop(image, y, x, region_radius), (left, top))
            draw.multiline_text((left, top + CROP + 1), caption, fill=EDGE, font=font, spacing=2)
        sheets.append(sheet)
    return sheets


def marked_frame(image: Image.Image, regions: Sequence[tuple[int, int]], region_radius: int) -> Image.Image:
    """The whole frame with all regions outlined, so large that each can be seen."""
    frame = image.copy()
    draw = ImageDraw.Draw(frame)
    for y, x in regions:
        rows, columns = window(y, x, max(region_radius, 2))
        _outline(draw, columns.start - 1, rows.start - 1, columns.stop, rows.stop)
    return frame


def _outline(draw: ImageDraw.ImageDraw, left: int, top: int, right: int, bottom: int) -> None:
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=EDGE)
    draw.rectangle((left, top, right, bottom), outline=MARK)
