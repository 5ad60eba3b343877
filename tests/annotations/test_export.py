"""What people are asked in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from round_of_people import CLASSES, PLACES, RADIUS, ROUND, SIZES, WHY

from halo_ray.annotations.export import export, exported
from halo_ray.errors import InputError
from halo_ray.storage import Storage


def test_the_list_says_what_is_asked_and_why(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "requests.jsonl").read_text().splitlines()]
    assert [(line["image"], line["y"], line["x"]) for line in lines] == [
        (image_id, y, x) for image_id, places in PLACES.items() for y, x in places
    ]
    for line in lines:
        assert line["why"] == {**WHY, "guess": "Traffic sign"}
        assert line["r"] == RADIUS
        assert all((place / line[key]).is_file() for key in ("crops", "frame", "template"))
    assert len({line["id"] for line in lines}) == 4


def test_a_template_asks_for_the_pixels_that_are_bought(place: Path) -> None:
    expected = np.full(SIZES["a/1"], 255)
    for y, x in PLACES["a/1"]:
        expected[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = 254
    line = json.loads((place / "requests.jsonl").read_text().splitlines()[0])
    with Image.open(place / line["template"]) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), expected)
    with Image.open(place / "templates/b.png") as image:  # of which the centre is known
        assert np.asarray(image)[14:17, 14:17].tolist() == [[254, 254, 254], [254, 255, 254], [254, 254, 254]]


def test_a_crop_shows_what_lies_around_its_region(place: Path, tmp_path: Path) -> None:
    line = json.loads((place / "requests.jsonl").read_text().splitlines()[0])
    with Image.open(place / line["crops"]) as sheet, Image.open(tmp_path / "a_1.png") as image:
        shown = np.asarray(sheet.crop((6, 6, 6 + 208, 6 + 208))).astype(int)
        # A square of 2·(40 + 1) + 1 pixels: the image begins 31 above, 21 left of its edge.
        scale = 208 / 83
        for y, x in ((2, 4), (30, 40), (20, 8)):
            top, left = (31 + y) * scale, (21 + x) * scale
            patch = shown[round(top) : round(top + scale), round(left) : round(left + scale)].mean((0, 1))
            assert np.abs(patch - np.asarray(image)[y, x]).max() < 60  # resampling overshoots on noise
        assert (shown[:70, :40] == 0).all()  # beyond the image


def test_all_regions_are_marked_in_the_frame(place: Path) -> None:
    with Image.open(place / "frames/b.png") as frame:
        assert frame.size == (50, 30)
        assert frame.getpixel((12, 12)) == (255, 230, 0)
        assert frame.getpixel((11, 11)) == (0, 0, 0)


def test_nobody_was_asked_before_the_list_is_there(storage: Storage, requests: pa.Table, place: Path) -> None:
    assert exported(storage, ROUND)
    assert not exported(storage, ROUND + 1)
    (place / "requests.jsonl").unlink()
    assert not exported(storage, ROUND)
    (place / "templates/of_a_killed_run.png").touch()
    export(requests, storage, ROUND, CLASSES, RADIUS, 1)
    assert exported(storage, ROUND)
    assert {path.name for path in (place / "templates").iterdir()} == {"a%2F1.png", "b.png"}


def test_answers_survive_the_loss_of_the_list(storage: Storage, requests: pa.Table, place: Path) -> None:
    (place / "answers/a.csv").write_text("id,label\n")
    (place / "requests.jsonl").unlink()
    with pytest.raises(InputError, match=r"requests/round-003/requests.jsonl is gone"):
        export(requests, storage, ROUND, CLASSES, RADIUS, 1)
    assert (place / "answers/a.csv").exists()
