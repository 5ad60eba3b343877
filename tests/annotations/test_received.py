"""What is made of people's answers, right ones and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from round_of_people import CLASSES, PIXELS, RADIUS, ROUND

from halo_ray.annotations.desk_files import Answer
from halo_ray.annotations.folder import folder
from halo_ray.annotations.oracles import UNANSWERED
from halo_ray.annotations.received import read_answers
from halo_ray.data.classes import IGNORE
from halo_ray.storage import Storage

Read = Callable[..., tuple[list[list[int]], list[str]]]


@pytest.fixture
def read(storage: Storage, requests: pa.Table) -> Read:
    """Classes of the pixels of each region, and problems."""

    def reading(*, last_wins: bool = False) -> tuple[list[list[int]], list[str]]:
        table, problems = read_answers(requests, folder(storage, ROUND), ROUND, CLASSES, RADIUS, 1, last_wins=last_wins)
        found, counts = [], [*PIXELS.values()]
        for answers, mine in zip(table["answers"].to_pylist(), counts, strict=True):
            assert len(answers) == sum(mine)
            ends = np.cumsum(mine)
            found += [answers[end - count : end] for end, count in zip(ends, mine, strict=True)]
        return found, problems

    return reading


def answered(label: int, region: int) -> list[int]:
    return [label] * [count for each in PIXELS.values() for count in each][region]


NOTHING = [answered(UNANSWERED, region) for region in range(4)]


def test_nothing_is_answered_yet(read: Read) -> None:
    assert read() == (NOTHING, [])


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_list_fills_whole_regions(read: Read, place: Path, ids: list[str], suffix: str) -> None:
    rows = [*zip([ids[0], f" {ids[1].upper()} ", *ids[2:]], ["SKY", 30, "can't tell", "10"], strict=True)]
    text = {
        "csv": "id,label\n" + "".join(f"{one},{label}\n" for one, label in rows),
        "jsonl": "\n".join(json.dumps({"id": one, "label": label, "by": "me"}) for one, label in rows),
    }
    (place / f"answers/mine.{suffix}").write_text(text[suffix], encoding="utf-8-sig")
    assert read() == ([answered(label, region) for region, label in enumerate((1, 2, IGNORE, 0))], [])


def fill(place: Path, name: str, values: dict[tuple[int, int], int], to: str | None = None) -> None:
    """Sets pixels of a template."""
    with Image.open(place / name) as image:
        pixels, palette = np.array(image), image.getpalette()
    for (y, x), value in values.items():
        pixels[y, x] = value
    filled = Image.fromarray(pixels)
    filled.putpalette(palette)
    filled.save(place / (to or name))


@pytest.mark.parametrize("to", [None, "answers/b.png", "answers/from anna/b.png"])
def test_a_template_is_filled_in_place_or_as_a_copy(read: Read, place: Path, to: str | None) -> None:
    (place / "answers/from anna").mkdir()
    fill(place, "templates/b.png", {(14, 14): 20, (14, 15): 30, (16, 16): 255, (0, 0): 10}, to)
    region = [1, 2, *[UNANSWERED] * 5, IGNORE]
    assert read() == ([*NOTHING[:3], region], [])


def problem(read: Read, **how: bool) -> str:
    """The only one, where nothing is answered."""
    found, problems = read(**how)
    assert found == NOTHING
    assert len(problems) == 1, problems
    return problems[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("r3-9-0000,sky", "id 'r3-9-0000' is none of round 3: the list of requests has all that are asked"),
        ("r2-1-0000,sky", "id 'r2-1-0000' is of round 2: the list"),
        ("1,sky", "id '1' is none of round 3"),
        ("{0},sea", "label 'sea' of {0} is no class: the README has all, or say \"can't tell\""),
        ("{0},1", "label '1' of {0} is no class"),
        ("{0},254", "label '254' of {0} is no class"),
        ("{0},-1", "label '-1' of {0} is no class"),
        ("{0},1e1", "label '1e1' of {0} is no class"),
        ("{0},", "label '' of {0} is no class"),
        ("{0}", "it has 1 cells: give an id and a label"),
        ("{0};sky", "it has 1 cells"),
        ("{0},sky,yes", "it has 3 cells"),
    ],
)
def test_a_row_that_says_nothing_is_named(read: Read, place: Path, ids: list[str], row: str, said: str) -> None:
    (place / "answers/a.csv").write_text(f"id,label\n{row.format(ids[0])}\n")
    assert problem(read).startswith(f"answers/a.csv line 2: {said.format(ids[0])}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "%s", "label": "sk', "it is no JSON (Unterminated string"),
        ('["%s", "sky"]', 'it needs an "id", in quotes, and a "label"'),
        ('{"id": "%s"}', 'it needs an "id"'),
        ('{"id": 7, "label": "sky"}', 'it needs an "id"'),
        ('{"id": "%s", "label": true}', "label 'True' of"),
        ('{"id": "%s", "label": 10.0}', "label '10.0' of"),
        ('{"id": "%s", "label": null}', "label 'None' of"),
        ('{"id": "%s", "label": ["sky"]}', "label"),
        ('{"id": "%s", "label": 1000}', "label '1000' of"),
        ("[" * 100_000, "it is no JSON"),
    ],
)
def test_a_line_that_says_nothing_is_named(read: Read, place: Path, ids: list[str], line: str, said: str) -> None:
    (place / "answers/a.jsonl").write_text("\n" + (line % ids[0] if "%s" in line else line))
    assert problem(read).startswith(f"answers/a.jsonl line 2: {said}")


def test_a_number_at_the_end_of_half_a_file_is_not_taken(read: Read, place: Path, ids: list[str]) -> None:
    (place / "answers/a.csv").write_text(f"{ids[0]},sky\n{ids[1]},2")  # of 20
    found, problems = read()
    assert found == [answered(1, 0), *NOTHING[1:]]
    assert problems == ["answers/a.csv line 2: the file ends in the middle of a line: is it whole?"]


def test_a_list_in_another_encoding_is_named(read: Read, place: Path, ids: list[str]) -> None:
    (place / "answers/a.csv").write_bytes(f"{ids[0]},stra\xdfe\n".encode("latin-1"))
    assert problem(read) == "answers/a.csv: it is no UTF-8 text: store it as that"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("c.png", "has the name of no template of round 3: name it as its template"),
        ("answers.xlsx", "is no PNG, CSV or JSONL file: it was not read"),
        ("b.jpg", "is no PNG, CSV or JSONL file"),
    ],
)
def test_a_file_that_is_no_answer_is_named(read: Read, place: Path, name: str, said: str) -> None:
    (place / "answers" / name).write_bytes(b"x")
    assert problem(read).startswith(f"answers/{name} {said}")


@pytest.mark.parametrize("name", [".DS_Store", ".~lock.a.csv#", ".halo_ray-0123456789abcdef-0123456789ab.tmp"])
def test_what_programs_leave_is_passed_over(read: Read, place: Path, name: str) -> None:
    (place / "answers" / name).write_bytes(b"x")
    assert read() == (NOTHING, [])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("P", (50, 31), 10), "answers/b.png is 50x31 pixels, its image 50x30: fill the template itself"),
        (Image.new("RGB", (50, 30)), "label answers/b.png has colour mode RGB"),
        (Image.new("I;16", (50, 30), 10), "label answers/b.png has colour mode I;16"),
        (Image.new("1", (50, 30)), "label answers/b.png has colour mode 1"),
        (
            Image.fromarray(np.pad(np.full((3, 3), 11, np.uint8), ((14, 13), (14, 33)), constant_values=255)),
            "answers/b.png has 11 at y 14, x 14, and 7 more numbers that are no class: the README has all",
        ),
    ],
    ids=["size", "RGB", "deep", "bits", "numbers"],
)
def test_a_template_that_is_filled_wrongly_is_named(read: Read, place: Path, image: Image.Image, said: str) -> None:
    image.save(place / "answers/b.png")
    assert problem(read).startswith(said)


def test_a_template_of_another_round_answers_nothing(read: Read, place: Path) -> None:
    elsewhere = {(y, x): 254 for y in (4, 5, 6) for x in (4, 5, 6)}
    asked = {(y, x): 255 for y in (14, 15, 16) for x in (14, 15, 16)}
    for filled in (254, 20):  # as it was asked, and answered
        fill(place, "templates/b.png", {**asked, **dict.fromkeys(elsewhere, filled)}, "answers/b.png")
        assert problem(read).startswith("answers/b.png has ")
        assert "so it is of another round: fill this one's template: nothing of it was read" in problem(read)


def test_a_template_whose_palette_was_numbered_anew_answers_nothing(read: Read, place: Path) -> None:
    with Image.open(place / "templates/b.png") as image:
        compact = image.convert("RGB").quantize(8)  # the same picture
    assert set(np.unique(np.asarray(compact))) == {0, 1}
    compact.save(place / "answers/b.png")
    assert "has other numbers than 255 where nothing is asked: keep the palette as it is" in problem(read)


def test_a_quotation_mark_too_many_is_named(read: Read, place: Path, ids: list[str]) -> None:
    (place / "answers/a.csv").write_text(f'id,label\n{ids[0]},"sky\n' + f"{ids[1]},sky\n" * 20000)
    assert problem(read).startswith("answers/a.csv it is no CSV") or "quotation mark" in problem(read)
    (place / "answers/a.csv").write_text(f'id,label\n{ids[0]},"sky\n' + f"{ids[1]},sky\n" * 20)
    assert len(problem(read)) < 200


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_half_a_template_is_named(read: Read, place: Path, share: float) -> None:
    fill(place, "templates/b.png", dict.fromkeys([(14, 14), (16, 16)], 20), "answers/b.png")
    data = (place / "answers/b.png").read_bytes()
    (place / "answers/b.png").write_bytes(data[: int(share * len(data))])
    assert problem(read).startswith("label answers/b.png cannot be read (")


def test_a_template_that_is_gone_answers_nothing(read: Read, place: Path) -> None:
    (place / "templates/b.png").unlink()
    assert read() == (NOTHING, [])


def test_two_copies_of_a_template_are_named(read: Read, place: Path) -> None:
    (place / "answers/c").mkdir()
    fill(place, "templates/b.png", {(14, 14): 20}, "answers/b.png")
    fill(place, "templates/b.png", {(14, 14): 10}, "answers/c/b.png")
    found, problems = read()
    assert found[3][0] == 1
    assert problems == ["answers/c/b.png is there twice, and answers/b.png was read: keep one"]


def disagree(place: Path, ids: list[str]) -> None:
    (place / "answers/a.csv").write_text(f"{ids[0]},sky\n{ids[1]},sky\n")
    (place / "answers/b.csv").write_text(f"{ids[0]},road\n{ids[1]},sky\n")


def test_of_lists_that_disagree_none_counts_and_the_regions_are_named(read: Read, place: Path, ids: list[str]) -> None:
    disagree(place, ids)
    found, problems = read()
    assert found == [NOTHING[0], answered(1, 1), *NOTHING[2:]]
    assert problems == [
        f"{ids[0]} has answers that disagree (answers/a.csv line 1, answers/b.csv line 1): keep one, or set "
        "annotation.last_answer_wins"
    ]


def test_of_lists_that_disagree_the_last_one_counts_where_that_is_asked(
    read: Read, place: Path, ids: list[str]
) -> None:
    disagree(place, ids)
    assert read(last_wins=True) == ([answered(0, 0), answered(1, 1), *NOTHING[2:]], [])


def test_a_template_and_a_list_that_disagree(read: Read, place: Path, ids: list[str]) -> None:
    fill(place, "templates/b.png", {(14, 14): 20})
    (place / "answers/a.csv").write_text(f"{ids[3]},road\n")
    said = f"{ids[3]} has answers that disagree (templates/b.png, lists): keep one, or set annotation.last_answer_wins"
    assert problem(read) == said
    assert read(last_wins=True) == ([*NOTHING[:3], answered(0, 3)], [])


def test_a_template_and_a_list_that_agree_complete_each_other(read: Read, place: Path, ids: list[str]) -> None:
    fill(place, "templates/b.png", {(14, 14): 10})
    (place / "answers/a.csv").write_text(f"{ids[3]},road\n")
    assert read() == ([*NOTHING[:3], answered(0, 3)], [])


def test_an_answer_of_the_page_that_was_changed_since_is_named(read: Read, place: Path, ids: list[str]) -> None:
    (place / "answers/page").mkdir()
    file = place / f"answers/page/{ids[0]}.jsonl"
    data = Answer(ids[0], "sky", "anna", 1).data()
    file.write_bytes(data)
    assert read() == ([answered(1, 0), *NOTHING[1:]], [])
    file.write_bytes(data.replace(b"sky", b"road"))
    assert problem(read).startswith(f"answers/page/{ids[0]}.jsonl line 1: it was changed since the page wrote it")


def test_an_answer_that_is_taken_back_while_the_lists_are_read_is_none(
    read: Read, place: Path, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1):
        (place / f"answers/{number}.csv").write_text(f"{ids[number]},sky\n")
    tree = Storage.tree

    def then_one_is_gone(self: Storage, name: str) -> list[str]:
        found = tree(self, name)
        (place / "answers/0.csv").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Storage, "tree", then_one_is_gone)
    assert read() == ([NOTHING[0], answered(1, 1), *NOTHING[2:]], [])
