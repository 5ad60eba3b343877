"""Class sets: the lookup from file ids, the YAML files that define them, and what is wrong with bad ones."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from halo_ray.data.classes import IGNORE, ClassSet, class_set
from halo_ray.data.synthetic import CLASSES
from halo_ray.errors import InputError
from halo_ray.storage import Storage
from halo_ray.stored import stored_classes


@pytest.mark.parametrize(
    ("ids", "ignore_ids"), [((), (255,)), ((), (3, 9)), ((7, 0, 33), (255, 1, 2)), ((255, 254, 0), ()), ((5, 6, 7), ())]
)
def test_lookup_maps_every_byte_to_its_class_to_void_or_to_unknown(ids: tuple, ignore_ids: tuple) -> None:
    lookup = ClassSet("mine", ("a", "b", "c"), ids=ids, ignore_ids=ignore_ids).lookup()
    assert lookup.shape == (256,)
    for byte in range(256):
        if byte in ignore_ids:
            expected = IGNORE
        elif byte in (ids or (0, 1, 2)):
            expected = (ids or (0, 1, 2)).index(byte)
        else:
            expected = -1
        assert lookup[byte] == expected


def test_to_classes_maps_a_label_pixel_by_pixel() -> None:
    mine = ClassSet("mine", ("a", "b", "c"), ids=(7, 0, 33), ignore_ids=(255, 1))
    mapped = mine.to_classes(np.array([[7, 0, 33], [1, 255, 0]], np.uint8), "x.png")
    assert mapped.dtype == np.uint8
    assert mapped.tolist() == [[0, 1, 2], [IGNORE, IGNORE, 1]]


@pytest.mark.parametrize("part", ["dir/x.png", "12", "mine"])
def test_an_id_outside_the_set_is_named_with_its_file_and_its_set(part: str) -> None:
    with pytest.raises(InputError, match=part):
        ClassSet("mine", ("a", "b")).to_classes(np.array([[0, 12], [1, 255]], np.uint8), "dir/x.png")


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"classes": ("a",)}, "two classes"),
        ({"ids": (1, 2, 3)}, "ids"),
        ({"colors": ((1, 2, 3),)}, "colors"),
        ({"ids": (4, 4)}, "ids"),
        ({"ids": (4, 255)}, "ignore_ids"),
        ({"ignore_ids": (1,)}, "ignore_ids"),
        ({"ids": (4, 256)}, "ids"),
        ({"ids": (-1, 4)}, "ids"),
        ({"classes": tuple(f"c{i}" for i in range(256))}, "ids"),
    ],
)
def test_a_contradictory_set_is_an_error_that_names_the_set_and_the_key(fields: dict, part: str) -> None:
    with pytest.raises(InputError, match=f"mine.*{part}"):
        ClassSet(**{"name": "mine", "classes": ("a", "b"), **fields})


def test_known_sets_by_name() -> None:
    assert class_set("synthetic").classes == CLASSES
    camvid = class_set("camvid11")
    assert len(camvid.classes) == 11
    assert camvid.lookup()[11] == IGNORE


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"data\.class_set.*'camvid'.*'camvid11'"):
        class_set("camvid")


@pytest.mark.parametrize("as_uri", [False, True])
def test_a_yaml_file_defines_a_set(tmp_path: Path, as_uri: bool) -> None:
    file = tmp_path / "two words.yaml"
    file.write_text(
        "name: mine\nclasses: [road, Straße]\nids: [7, 26]\nignore_ids: [0, 255]\ncolors: [[1, 2, 3], [4, 5, 6]]\n",
        encoding="utf-8",
    )
    expected = ClassSet("mine", ("road", "Straße"), (7, 26), (0, 255), ((1, 2, 3), (4, 5, 6)))
    assert class_set(file.as_uri() if as_uri else str(file)) == expected


def test_a_yaml_file_needs_nothing_but_classes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text("classes: [a, b]\n")
    assert class_set(str(file)) == ClassSet(str(file), ("a", "b"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[a, b]",
        "classes: [a, b",
        "ids: [1, 2]",
        "classes: 3",
        "classes: road, car",  # without brackets this is one string, not a list of its letters
        "classes: [road, road]",  # scores are reported by name
        "classes: [a]",
        "classes: [a, null]",
        "classes: [a, b]\nids: ['1', 2]",
        "classes: [a, b]\nids: [true, 2]",
        "classes: [a, b]\nids: [1.5, 2]",
        "classes: [a, b]\nids: [[1, [2]], 3]",
        "classes: [a, b]\nids: [[], 3]",
        "classes: [a, b]\nids: {a: 1, b: 2}",
        "classes: [a, b]\nignore_ids: x",
        "classes: [a, b]\nmiou_star: a",
        "classes: [a, b]\nmiou_star: [c]",
        "classes: [a, b]\ncolors: [[1, 2, 300], [3, 4, 5]]",
        "classes: [a, b]\ncolors: [1, 2]",
        "classes: [a, b]\nignore: [0]",  # a misspelt key
        "classes: [a, b]\nids: [1]",
        "classes: [a, b]\nids: [x, y]",
        "classes: [a, b]\ncolors: [[1, 2], [3, 4]]",
        "classes: [a, b]\ncolors: red",
        "\x00\x01",
    ],
)
def test_a_file_that_is_no_class_set_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"mine\.yaml"):
        class_set(str(file))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml"):
        class_set(str(tmp_path / "gone.yaml"))


def test_palette_holds_the_given_colours_or_one_of_its_own_for_every_class() -> None:
    given = ((1, 2, 3), (255, 0, 9))
    assert ClassSet("mine", ("a", "b"), colors=given).palette().tolist() == [list(color) for color in given]
    made = ClassSet("mine", tuple(f"c{i}" for i in range(34))).palette()
    assert made.dtype == np.uint8
    assert made.shape == np.unique(made, axis=0).shape == (34, 3)


@pytest.mark.parametrize(
    "names",
    [
        ("traffic sign", "traffic  sign"),
        ("traffic sign", "trafficsign"),
        ("road", "road "),
        ("road", "\u2003road"),
        ("a\u00a0b", "a b"),
        ("road", "ro\u200bad"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_names_that_look_the_same_but_for_spaces_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(InputError) as error:
        ClassSet("mine", ("sky", *names))
    assert all(repr(name) in str(error.value) for name in ("mine", *names)[1:])
    assert "mine" in str(error.value)


@pytest.mark.parametrize("name", ["", " ", "\u3000", "\u200b"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"mine.*is empty"):
        ClassSet("mine", ("sky", name))


def test_a_name_is_at_most_as_long_as_an_annotator_can_send() -> None:
    ClassSet("mine", ("sky", "x" * 200))
    with pytest.raises(InputError, match=r"mine.*xxx.*201 characters"):
        ClassSet("mine", ("sky", "x" * 201))


def test_names_may_differ_in_case_and_hold_spaces() -> None:
    assert ClassSet("mine", ("Car", "car", " road", "traffic sign")).classes[2] == " road"


@pytest.mark.parametrize("names", [["a", "a "], ["a", ""], ["a", "x" * 201]])
def test_a_stored_class_set_is_checked_too(tmp_path: Path, names: list[str]) -> None:
    storage = Storage(str(tmp_path))
    stored = {**json.loads(json.dumps(asdict(ClassSet("mine", ("a", "b"))))), "classes": names}
    storage.write_sealed("classes.json", stored)
    with pytest.raises(InputError, match=r"classes\.json"):
        stored_classes(storage)


@pytest.mark.parametrize("named", ["", "name: s3://AKIA:{}@bucket/mine\n"])
def test_a_set_is_called_by_its_place_without_secrets_whatever_the_key(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_ray.data.classes.resolve", lambda uri: (None, uri))
    found = []
    for key in ("first/KEY", "rotated@KEY"):
        text = f"{named.format(key)}classes: [road, car]"
        monkeypatch.setattr("halo_ray.data.classes.read_file", lambda *_, text=text: text.encode())
        found.append(class_set(f"s3://AKIA:{key}@bucket/classes.yaml?region=eu&secret_key={key}"))
    assert found[0] == found[1]
    assert found[0].name == ("s3://bucket/mine" if named else "s3://bucket/classes.yaml?region=eu")
