"""Write what a round asks people into a folder: pictures to look at, templates to fill, a list, and how to answer."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from halo_ray.acquisition.regions import window
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
from halo_ray.annotations.received import foreign
from halo_ray.data.classes import ClassSet
from halo_ray.data.images import File, read_numbers
from halo_ray.errors import BadRecordError, InputError
from halo_ray.pipeline import arrow_batches, stream
from halo_ray.storage import Storage, safe_name

_WRITTEN = pa.schema(
    [
        ("image_id", pa.string()),
        ("crops", pa.list_(pa.string())),
        ("pixels", pa.list_(pa.int64())),
        ("filled", pa.int64()),
        ("odd", pa.list_(pa.string())),
    ]
)
"""``crops``: the sheet that shows each region; ``pixels``: how many are asked in its square; ``filled``: templates that
people have filled already; ``odd``: files that are there and are not what this round asks."""

_ASKED_COLOR, _LEFT_COLOR = (255, 0, 255), (45, 45, 45)
"""Of the template's pixels, for those who look at it."""


@dataclass(frozen=True)
class WriteQuestions:
    """Writes the pictures and the template of each image into the folder of a round; what is there stays as it is."""

    folder: Storage
    classes: ClassSet
    region_radius: int
    writes: bool = True
    """False: it is only looked at what is there."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """_WRITTEN, for requests with ids (folder.with_ids)."""
        return pa.Table.from_pylist([self._write(row) for row in batch.to_pylist()], schema=_WRITTEN)

    def _write(self, request: dict[str, Any]) -> dict[str, Any]:
        asked, name = question(request, self.region_radius), safe_name(request["image_id"])
        image = read_frame(asked.image_uri, asked.size)
        regions = [(region.y, region.x) for region in asked.regions]
        captions = [
            f"{region_id}\n{self.classes.classes[region.guess]}? {100 * region.probability:.0f} %"
            for region_id, region in zip(request["ids"], asked.regions, strict=True)
        ]
        shown, pictures = list[str](), dict[str, Image.Image]()
        for number, sheet in enumerate(crop_sheets(image, regions, captions, self.region_radius), start=1):
            pictures[f"crops/{name}.{number}.png"] = sheet
            shown += [f"crops/{name}.{number}.png"] * min(len(regions) - len(shown), SHEET)
        pictures[f"frames/{name}.png"] = marked_frame(image, regions, self.region_radius)
        own = f"{TEMPLATES}/{template_file(asked.image_id)}"
        pictures[own] = template(asked, self.classes)
        different = [each for each, picture in pictures.items() if not self._is_there(each, picture)]
        filled = own in different and _is_filled(self.folder, own, asked)
        odd = [each for each in different if each != own or not filled]
        mask = asked.asked
        pixels = [int(mask[window(y, x, self.region_radius)].sum()) for y, x in regions]
        return {"image_id": asked.image_id, "crops": shown, "pixels": pixels, "filled": int(filled), "odd": odd}

    def _is_there(self, name: str, picture: Image.Image) -> bool:
        """Whether the file of that name has this picture, which is written where there is no file and that is asked."""
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        if self.writes:
            with suppress(FileExistsError):
                self.folder.create(name, buffer.getvalue())
                return True
        try:
            found = self.folder.read(name)
        except FileNotFoundError:
            return not self.writes  # else it is a link that leads nowhere
        return found == buffer.getvalue() or _shows(found, picture)


def _shows(data: bytes, picture: Image.Image) -> bool:
    """Whether a file has this picture, as another version of the library may have stored it."""
    try:
        with Image.open(io.BytesIO(data)) as found:
            return found.mode == picture.mode and np.array_equal(np.asarray(found), np.asarray(picture))
    except (OSError, ValueError, SyntaxError):
        return False


def _is_filled(folder: Storage, name: str, asked: Question) -> bool:
    """Whether a file is a template of this question, filled by somebody."""
    try:
        filled = read_numbers(File(name, lambda: folder.read(name)))
    except BadRecordError:
        return False
    y, x = (np.concatenate(places) for places in zip(*asked.pixels, strict=True))
    return filled.shape == asked.size and foreign(filled, y, x) is None


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

    Whatever is there already is kept as it is: what a run that was killed has written, and where the list was lost,
    all that people have done since.

    Args:
        requests: a row for each image, with ids.
        radius: of the regions.

    Raises:
        InputError: a file in the folder belongs to other questions; all that is there is as it was then.
    """
    place = folder(storage, number)
    if place.tree(""):
        _written(requests, WriteQuestions(place, classes, radius, writes=False), block_rows)
    written = _written(requests, WriteQuestions(place, classes, radius), block_rows)
    lines = []
    for request, row in zip(requests.to_pylist(), written.to_pylist(), strict=True):
        regions = zip(request["ids"], request["picks"], row["crops"], row["pixels"], strict=True)
        for region_id, pick, sheet, pixels in regions:
            lines.append({**_line(request["image_id"], region_id, pick, sheet, radius, classes), "pixels": pixels})
    with suppress(FileExistsError):  # with what people have noted there
        place.create(README, _readme(number, requests, len(lines), classes).encode())
    place.make(ANSWERS)
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    place.write_checksum(LIST, data)
    place.create(LIST, data)
    answers, filled = len(place.tree(ANSWERS)), sum(written["filled"].to_pylist())
    if answers or filled:
        print(
            f"round {number}: {LIST} was gone and is written again; {filled} filled templates and {answers} files in "
            f"{ANSWERS} are as they were",
            flush=True,
        )


def _written(requests: pa.Table, writing: WriteQuestions, block_rows: int) -> pa.Table:
    """_WRITTEN of all requests.

    Raises:
        InputError: there are files of other questions.
    """
    with arrow_batches(stream(requests, block_rows, writing)) as batches:
        written = pa.concat_tables([_WRITTEN.empty_table(), *batches])
    odd = [name for each in written["odd"].to_pylist() for name in each]
    if odd:
        more, uri = f" (and {len(odd) - 1} more files)" if len(odd) > 1 else "", writing.folder.uri
        raise InputError(
            f"{uri}/{odd[0]}{more} does not belong to what this round asks, and {LIST}, which would say what was "
            f"asked, is gone: restore {LIST}, or move {uri} away, and people are asked anew"
        )
    return written


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
is a square of 2r+1 pixels), how many of its pixels are asked, and why it was chosen.

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
