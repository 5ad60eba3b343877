"""What people are asked in a folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from round_of_people import CLASSES, PLACES, RADIUS, ROUND, SIZES, WHY

from halo_ray.annotations.export import WriteQuestions, export, exported
from halo_ray.annotations.folder import folder, with_ids
from halo_ray.errors import InputError
from halo_ray.patience import StorageError, patiently
from halo_ray.runtime import prepare_streams
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


def tree(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def again(requests: pa.Table, storage: Storage) -> None:
    prepare_streams()
    export(requests, storage, ROUND, CLASSES, RADIUS, 1)


def test_nobody_was_asked_before_the_list_is_there(storage: Storage, requests: pa.Table, place: Path) -> None:
    assert exported(storage, ROUND)
    assert not exported(storage, ROUND + 1)
    whole = tree(place)
    (place / "requests.jsonl").unlink()
    assert not exported(storage, ROUND)
    for name in ("requests.jsonl.sha256", "README.md", "templates/b.png", "crops/b.1.png"):  # not yet written
        (place / name).unlink()
    again(requests, storage)
    assert exported(storage, ROUND)
    assert tree(place) == whole


def fill(place: Path, name: str, at: tuple[int, int], number: int) -> bytes:
    with Image.open(place / name) as image:
        pixels, palette = np.array(image), image.getpalette()
    pixels[at] = number
    filled = Image.fromarray(pixels)
    if palette:
        filled.putpalette(palette)
    filled.save(place / name)
    return (place / name).read_bytes()


def test_what_people_did_survives_the_loss_of_the_list(
    storage: Storage, requests: pa.Table, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(place, "templates/b.png", (14, 14), 20)
    (place / "answers/a.csv").write_text("id,label\n")
    (place / "README.md").write_text("my notes\n")
    (place / "notes").mkdir()
    (place / "notes/anna.txt").write_text("ask ben\n")
    (place / "templates/of_mine.png").write_bytes(b"x")
    before = tree(place)
    (place / "requests.jsonl").unlink()
    again(requests, storage)
    assert tree(place) == before
    assert "requests.jsonl was gone and is written again; 1 filled templates and 1 files" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["templates/b.png", "crops/b.1.png", "frames/a%2F1.png"])
@pytest.mark.parametrize("what", ["of another round", "broken", "a link that leads nowhere", "a directory"])
def test_a_folder_of_other_questions_is_refused_as_it_is(
    storage: Storage, requests: pa.Table, place: Path, name: str, what: str
) -> None:
    (place / "answers/a.csv").write_text("id,label\n")
    data = (place / name).read_bytes()
    if what == "of another round":  # or a picture that somebody drew on
        fill(place, name, (3, 3), 254)
    elif what == "broken":
        (place / name).write_bytes(data[: len(data) // 2])
    else:
        (place / name).unlink()
        (place / name).symlink_to("/nowhere/at/all") if "link" in what else (place / name).mkdir()
    for each in ("requests.jsonl", "README.md", "templates/a%2F1.png"):
        (place / each).unlink(missing_ok=True)
    before = tree(place)
    with pytest.raises(InputError, match=re.escape(f"requests/round-003/{name} ")):
        again(requests, storage)
    if "link" not in what:
        assert tree(place) == before


def test_a_folder_of_another_model_is_refused(storage: Storage, requests: pa.Table, place: Path) -> None:
    others = with_ids(requests.drop_columns("ids"), ROUND, "another model")
    (place / "requests.jsonl").unlink()
    before = tree(place)
    with pytest.raises(InputError, match=r"crops/a%2F1\.1\.png \(and 1 more files\) does not belong"):
        again(others, storage)
    assert tree(place) == before


def test_a_template_that_cannot_be_read_now_is_not_written_again(
    storage: Storage, requests: pa.Table, place: Path
) -> None:
    filled = fill(place, "templates/b.png", (14, 14), 20)
    (place / "requests.jsonl").unlink()
    failing = Failing(folder(storage, ROUND).uri, patience=0)
    with pytest.raises(StorageError, match=r"templates/b\.png"):
        WriteQuestions(failing, CLASSES, RADIUS)(requests)
    assert (place / "templates/b.png").read_bytes() == filled


class Failing(Storage):
    """One that cannot read a file."""

    def read(self, name: str) -> bytes:
        def fails() -> bytes:
            raise OSError(5, "Input/output error")

        return patiently(fails, name, 0) if name == "templates/b.png" else super().read(name)


def test_no_link_is_followed(storage: Storage, requests: pa.Table, place: Path, tmp_path: Path) -> None:
    shutil.rmtree(place)
    place.mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.png").write_bytes(b"x")
    (place / "templates").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="templates is a link"):
        WriteQuestions(folder(storage, ROUND), CLASSES, RADIUS)(requests)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["precious.png"]


def test_the_list_counts_the_pixels_that_its_template_asks_for(place: Path) -> None:
    for line in map(json.loads, (place / "requests.jsonl").read_text().splitlines()):
        with Image.open(place / line["template"]) as image:
            pixels, y, x = np.asarray(image), line["y"], line["x"]
        assert (pixels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] == 254).sum() == line["pixels"]
