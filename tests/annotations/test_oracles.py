"""Oracles: what is asked is answered, by label files or a function of one's own, and charged once."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from halo_ray.annotations.annotate import _check_enough
from halo_ray.annotations.ask import Ask
from halo_ray.annotations.config import AnnotationConfig
from halo_ray.annotations.oracles import GUESS
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.errors import AnswersNeededError, InputError

CLASSES = ClassSet("test", ("a", "b", "c"), ids=(10, 20, 30), ignore_ids=(0,))
PICK = {"score": 0.5, "radius": 1.0, "entropy": 0.25, "guess": 2, "probability": 0.75}


@pytest.fixture
def label(tmp_path: Path) -> Path:
    """A label file whose class can be told from the place: columns 10, 20, 30, 10, ...; its first row is void."""
    raw = np.tile(np.array([10, 20, 30], np.uint8), (8, 4))
    raw[0] = 0
    path = tmp_path / "label.png"
    Image.fromarray(raw).save(path)
    return path


def ask(
    label: Path,
    places: list[tuple[int, int]],
    before: list[tuple[int, int]] = (),
    r: int = 1,
    oracle: str = "ground_truth",
) -> list[dict]:
    request = {
        "image_id": "one",
        "image_uri": "one.png",
        "label_uri": str(label),
        "label_format": None,
        "height": 8,
        "width": 12,
        "known_y": [y for y, _ in before],
        "known_x": [x for _, x in before],
        "picks": [{"y": y, "x": x, **PICK} for y, x in places],
    }
    return Ask(oracle, CLASSES, r, round=3, model="m")(pa.Table.from_pylist([request])).to_pylist()


def test_every_pixel_of_a_region_is_answered_from_the_file(label: Path) -> None:
    rows = ask(label, [(4, 6)])
    assert {(row["y"], row["x"]) for row in rows} == {(y, x) for y in (3, 4, 5) for x in (5, 6, 7)}
    for row in rows:
        assert row["label"] == row["x"] % 3
        assert (row["region_y"], row["region_x"], row["round"], row["model"]) == (4, 6, 3, "m")
        assert {key: row[key] for key in PICK} == PICK


def test_void_is_paid_for_and_ignored(label: Path) -> None:
    rows = ask(label, [(0, 1)])
    assert len(rows) == 6  # clipped at the upper edge
    assert all((row["label"] == IGNORE) == (row["y"] == 0) for row in rows)


@pytest.mark.parametrize("r", [0, 1, 2])
def test_a_region_is_a_square_clipped_at_the_edges(label: Path, r: int) -> None:
    rows = ask(label, [(7, 11)], r=r)
    assert len(rows) == (r + 1) ** 2


def test_no_pixel_is_bought_twice_in_or_across_rounds(label: Path) -> None:
    old = {(y, x) for y in (5, 6, 7) for x in (3, 4, 5)}
    rows = ask(label, [(4, 4), (4, 5)], before=sorted(old))
    places = [(row["y"], row["x"]) for row in rows]
    assert len(places) == len(set(places))
    new = {(y, x) for y in (3, 4, 5) for x in (3, 4, 5, 6)}
    assert set(places) == new - old
    assert {place for place in places if place[1] <= 5} == {
        (row["y"], row["x"]) for row in rows if row["region_x"] == 4
    }  # the earlier pick has what both cover


def test_an_oracle_of_ones_own_answers_what_it_is_asked(label: Path) -> None:
    rows = ask(label, [(4, 6)], oracle="own_oracles.columns")
    assert {(row["y"], row["x"]): row["label"] for row in rows} == {(y, x): x % 3 for y in (3, 4, 5) for x in (5, 6, 7)}
    assert {row["oracle"] for row in rows} == {"own_oracles.columns"}


def test_what_has_no_answer_yet_is_not_bought_and_what_nobody_can_tell_is(label: Path) -> None:
    rows = ask(label, [(2, 1), (2, 6), (2, 10)], oracle="own_oracles.left_half")
    assert {(row["region_x"], row["x"]): row["label"] for row in rows} == {
        (1, 0): IGNORE,
        (1, 1): 1,
        (1, 2): 2,
        (6, 5): 2,  # of a region of which the rest is not answered
    }


def test_the_guess_is_the_models(label: Path) -> None:
    assert {row["label"] for row in ask(label, [(4, 6)], oracle=GUESS)} == {PICK["guess"]}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "failed on image one (KeyError: 'nobody'): mend it"),
        ("another_size", "gave for image one uint8 (7, 12): it must give an array uint8 (8, 12)"),
        ("floats", "gave for image one float32 (8, 12): it must give"),
        ("another_kind", "gave for image one list: it must give"),
        ("unknown_class", "gave for image one class 3: it must be below 3, 255 where nobody can tell or 254 where"),
    ],
)
def test_an_oracle_that_gives_no_answer_is_named(label: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"oracle own_oracles.{name} {said}")):
        ask(label, [(4, 6)], oracle=f"own_oracles.{name}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("grund_truth", "annotation.oracle: no function 'grund_truth'; did you mean 'ground_truth'?"),
        ("own_oracles.nobody", "annotation.oracle: module 'own_oracles' has no 'nobody'"),
        ("no_such_module.oracle", "annotation.oracle: cannot import 'no_such_module'"),
        ("own_oracles.not_callable", "annotation.oracle: 'own_oracles.not_callable' is no function of a Question"),
    ],
)
def test_an_oracle_that_is_not_there_is_named_at_once(name: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        AnnotationConfig(oracle=name)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="accept_share is"):
        AnnotationConfig(accept_share=share)


@pytest.mark.parametrize("share", [0.07, 0.14, 0.28, 0.55, 0.56, 0.9])
def test_a_share_is_what_was_written_down_to_the_last_region(share: float) -> None:
    config = SimpleNamespace(annotation=AnnotationConfig("files", share))
    context = SimpleNamespace(config=config, storage=SimpleNamespace(uri="run"))
    enough = round(100 * share)
    _check_enough(context, 1, enough, 100)
    with pytest.raises(AnswersNeededError, match=f"{enough - 1} of 100 regions are answered"):
        _check_enough(context, 1, enough - 1, 100)
