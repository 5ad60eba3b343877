"""Write what a round asks people into a folder: pictures to look at, templates to fill, a list, and how to answer."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from halo_ray.annotations.folder import (
    ANSWERS,
    CANT_TELL,
    LEAVE,
    LIST,
    README,
    TEMPLATES,
    class_numbers,
    folder,
    numbered_classes,
    template_file,
)
from halo_ray.annotations.oracles import UNANSWERED, Question, question
from halo_ray.annotations.pictures import SHEET, crop_sheets, marked_frame, read_frame
from halo_ray.data.classes import ClassSet
from halo_ray.pipeline import arrow_batches, stream
from halo_ray.storage import Storage, safe_name

_WRITTEN = pa.schema([("image_id", pa.string()), ("crops", pa.list_(pa.string()))])

_ASKED_COLOR, _LEFT_COLOR = (255, 0, 255), (45, 45, 45)
"""Of the template's pixels, for those who look at it."""


@dataclass(frozen=True)
class WriteQuestions:
    """Writes the pictures and the template of each image into the folder of a round."""

    folder: Storage
    classes: ClassSet
    region_radius: int

    def __call__(self, batch: pa.Table) -> pa.Table:
        """For requests with ids (folder.with_ids), the sheet that shows each region."""
        rows = [{"image_id": row["image_id"], "crops": self._write(row)} for row in batch.to_pylist()]
        return pa.Table.from_pylist(rows, schema=_WRITTEN)

    def _write(self, request: dict[str, Any]) -> list[str]:
        asked, name = question(request, self.region_radius), safe_name(request["image_id"])
        image = read_frame(asked.image_uri, asked.size)
        regions = [(region.y, region.x) for region in asked.regions]
        captions = [
            f"{region_id}\n{self.classes.classes[region.guess]}? {100 * region.probability:.0f} %"
            for region_id, region in zip(request["ids"], asked.regions, strict=True)
        ]
        shown: list[str] = []
        for number, sheet in enumerate(crop_sheets(image, regions, captions, self.region_radius), start=1):
            self._save(sheet, crops := f"crops/{name}.{number}.png")
            shown += [crops] * min(len(regions) - len(shown), SHEET)
        self._save(marked_frame(image, regions, self.region_radius), f"frames/{name}.png")
        self._save(template(asked, self.classes), f"{TEMPLATES}/{template_file(asked.image_id)}")
        return shown

    def _save(self, image: Image.Image, name: str) -> None:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        self.folder.write(name, buffer.getvalue())


def template(asked: Question, classes: ClassSet) -> Image.Image:
    """A palette image of the frame's size: UNANSWERED where a label is asked for, LEAVE elsewhere."""
    pixels = np.full(asked.size, LEAVE, np.uint8)
    pixels[asked.asked] = UNANSWERED
    image = Image.fromarray(pixels)
    palette = np.zeros((256, 3), np.uint8)
    numbers = class_numbers(classes)
    for number in np.flatnonzero((numbers >= 0) & (numbers < len(classes.classes))):
        palette[number] = classes.palette()[numbers[number]]
    palette[UNANSWERED], palette[LEAVE] = _ASKED_COLOR, _LEFT_COLOR
    image.putpalette(palette.tobytes())
    return image


def export(requests: pa.Table, storage: Storage, number: int, classes: ClassSet, radius: int, block_rows: int) -> None:
    """Writes the folder of round ``number``; the list of its regions, which says that it is whole, comes last.

    Args:
        requests: a row for each image, with ids.
        radius: of the regions.

    Raises:
        InputError: there are answers to a list that is gone.
    """
    place = folder(storage, number)
    if place.tree(ANSWERS):
        raise place.gone(LIST)  # people were asked, and have answered
    place.clear("")  # what a run that was killed left; nobody was asked before the list is there
    lines = []
    with arrow_batches(stream(requests, block_rows, WriteQuestions(place, classes, radius))) as batches:
        shown = [crops for batch in batches for crops in batch["crops"].to_pylist()]
    for request, crops in zip(requests.to_pylist(), shown, strict=True):
        for region_id, pick, sheet in zip(request["ids"], request["picks"], crops, strict=True):
            lines.append(_line(request["image_id"], region_id, pick, sheet, radius, classes))
    place.write(README, _readme(number, requests, len(lines), classes).encode())
    place.make(ANSWERS)
    place.write(LIST, "".join(json.dumps(line) + "\n" for line in lines).encode())


def exported(storage: Storage, number: int) -> bool:
    """Whether people were asked."""
    return folder(storage, number).exists(LIST)


def _line(
    image_id: str, region_id: str, pick: dict[str, Any], sheet: str, radius: int, classes: ClassSet
) -> dict[str, Any]:
    why = {key: pick[key] for key in ("score", "radius", "entropy")}
    why |= {"guess": classes.classes[pick["guess"]], "probability": pick["probability"]}
    return {
        "id": region_id,
        "image": image_id,
        "y": pick["y"],
        "x": pick["x"],
        "r": radius,
        "why": why,
        "crops": sheet,
        "frame": f"frames/{safe_name(image_id)}.png",
        "template": f"{TEMPLATES}/{template_file(image_id)}",
    }


def _readme(number: int, requests: pa.Table, regions: int, classes: ClassSet) -> str:
    first = requests["ids"][0][0].as_py() if requests.num_rows else f"r{number}-1-0000"
    named = numbered_classes(classes)
    listed = "\n".join(f"| {place} | {name} |" for place, name in named)
    return f"""# Round {number}: {regions} regions of {requests.num_rows} images

Please say what each outlined square shows. `crops/` has every region enlarged, with its id and what the model takes it
for (it is often wrong: that is why you are asked); `frames/` shows where in the image it lies. `{LIST}` has one line
for each region: its id, its image, its centre (`y`, `x`, in pixels from the upper left corner), its reach `r` (a region
is a square of 2r+1 pixels), and why it was chosen.

| number | class |
|---|---|
{listed}

Answer in one of three ways, or in several; what you leave out counts as not answered.

1. **A list**: put files `*.csv` or `*.jsonl` into `{ANSWERS}/`. One class fills the whole region. A label is a class by
   its name or number, or `{CANT_TELL[0]}`.

   ```
   id,label
   {first},{named[0][1]}
   ```

   ```
   {{"id": "{first}", "label": "{named[0][1]}"}}
   ```

2. **Pixel by pixel**: fill the images in `{TEMPLATES}/`, in place or as copies of the same name in `{ANSWERS}/`. A
   pixel of {UNANSWERED} asks for a label: give it the number of its class, or {LEAVE} where nobody can tell. Leave all
   pixels of {LEAVE} alone. Keep size and mode: 8-bit palette or grey PNG, class numbers, not colours.

3. **In the browser**, if whoever runs this experiment has started the page for it.

When you are done, tell them: the same command that wrote this folder reads the answers and goes on.
"""
