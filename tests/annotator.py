"""An annotator who sees the folder of a round alone, knows the truth, forgets some regions and mistypes some ids.

    python tests/annotator.py FOLDER LABELS [SHARE_LEFT_OUT SHARE_MISTYPED]

LABELS holds NAME.png for each image NAME. Most regions are filled into the templates pixel by pixel, the mistyped ones
and as many others are told by the class of their centre in a list. What was done with which region goes to stdout, as
JSON.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def mistyped(region_id: str, chance: random.Random) -> str:
    """The id with another digit."""
    at = chance.choice([place for place, letter in enumerate(region_id) if letter.isdigit()])
    other = chance.choice([digit for digit in "0123456789" if digit != region_id[at]])
    return region_id[:at] + other + region_id[at + 1 :]


def answer(folder: Path, labels: Path, left_out: float = 0, wrong: float = 0) -> dict[str, list[str]]:
    """Answers a round; the ids of the regions that were left out, mistyped, told in the list and filled in."""
    requests = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    chance = random.Random(len(requests))
    chance.shuffle(requests)
    forgotten, typed = round(left_out * len(requests)), round(wrong * len(requests))
    shares = {
        "left out": requests[:forgotten],
        "mistyped": requests[forgotten:][:typed],
        "told": requests[forgotten + typed :][:typed],
        "filled": requests[forgotten + 2 * typed :],
    }
    rows = ["id,label\n"]
    for kind in ("mistyped", "told"):
        for each in shares[kind]:
            with Image.open(labels / f"{each['image']}.png") as label:
                said = label.getpixel((each["x"], each["y"]))
            region_id = mistyped(each["id"], chance) if kind == "mistyped" else each["id"]
            rows.append(f"{region_id},{said}\n")
    (folder / "answers/list.csv").write_text("".join(rows))
    for template in sorted({each["template"] for each in shares["filled"]}):
        mine = [each for each in shares["filled"] if each["template"] == template]
        with Image.open(folder / template) as image:
            pixels, palette = np.array(image), image.getpalette()
        with Image.open(labels / f"{mine[0]['image']}.png") as label:
            truth = np.asarray(label)
        for each in mine:
            y, x, r = each["y"], each["x"], each["r"]
            square = np.s_[max(y - r, 0) : y + r + 1, max(x - r, 0) : x + r + 1]
            pixels[square] = np.where(pixels[square] == 254, truth[square], pixels[square])
        filled = Image.fromarray(pixels)
        filled.putpalette(palette)
        filled.save(folder / template)
    return {kind: [each["id"] for each in regions] for kind, regions in shares.items()}


if __name__ == "__main__":
    print(json.dumps(answer(Path(sys.argv[1]), Path(sys.argv[2]), *map(float, sys.argv[3:]))))
