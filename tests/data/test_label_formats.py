"""What the ids in the label files of public datasets mean, against the tables that were published with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from halo_ray.data.classes import IGNORE, ClassSet, class_set
from halo_ray.data.images import read_label
from halo_ray.data.label_formats import LABEL_FORMATS
from halo_ray.errors import InputError

CITYSCAPES = """
unlabeled 0 255 0 0 0
ego vehicle 1 255 0 0 0
rectification border 2 255 0 0 0
out of roi 3 255 0 0 0
static 4 255 0 0 0
dynamic 5 255 111 74 0
ground 6 255 81 0 81
road 7 0 128 64 128
sidewalk 8 1 244 35 232
parking 9 255 250 170 160
rail track 10 255 230 150 140
building 11 2 70 70 70
wall 12 3 102 102 156
fence 13 4 190 153 153
guard rail 14 255 180 165 180
bridge 15 255 150 100 100
tunnel 16 255 150 120 90
pole 17 5 153 153 153
polegroup 18 255 153 153 153
traffic light 19 6 250 170 30
traffic sign 20 7 220 220 0
vegetation 21 8 107 142 35
terrain 22 9 152 251 152
sky 23 10 70 130 180
person 24 11 220 20 60
rider 25 12 255 0 0
car 26 13 0 0 142
truck 27 14 0 0 70
bus 28 15 0 60 100
caravan 29 255 0 0 90
trailer 30 255 0 0 110
train 31 16 0 80 100
motorcycle 32 17 0 0 230
bicycle 33 18 119 11 32
license plate -1 -1 0 0 142
"""
"""Name, id, train id (255 and −1: ignored) and colour: labels.py of cityscapesScripts (Cordts et al. 2016)."""

ROWS = [(" ".join(words[:-5]), *map(int, words[-5:])) for words in map(str.split, CITYSCAPES.strip().splitlines())]
TRAINED = {train_id: (name, tuple(color)) for name, _, train_id, *color in ROWS if train_id not in (-1, 255)}

SYNTHIA_TO_16 = {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 9, 10: 10, 17: 11, 8: 12, 19: 13, 12: 14, 11: 15,
}  # fmt: skip
SYNTHIA_TO_19 = {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13, 18: 14, 19: 15,
    20: 16, 12: 17, 11: 18,
}  # fmt: skip
"""As in the dataset classes of the published adaptation benchmarks."""


def table(known: dict[int, int], void: range) -> list[int]:
    """(256,) class of every byte: those of ``known``, IGNORE for others of ``void``, −1 for the rest."""
    return [known.get(byte, IGNORE if byte in void else -1) for byte in range(256)]


def test_cityscapes_ids_are_trained_as_published() -> None:
    assert len(TRAINED) == 19
    assert len(ROWS) == 35
    lookup = class_set("cityscapes19").lookup("cityscapes")
    expected = np.full(256, -1)  # ids that no Cityscapes file should hold
    for _, number, train_id, *_ in ROWS:
        expected[number % 256] = IGNORE if train_id in (-1, 255) else train_id
    np.testing.assert_array_equal(lookup, expected)
    assert lookup[255] == IGNORE  # −1 in a file of bytes


def test_cityscapes_names_are_the_published_ones() -> None:
    assert dict(LABEL_FORMATS["cityscapes"].names) == {number: name for name, number, *_ in ROWS}
    assert class_set("cityscapes19").classes == tuple(TRAINED[i][0] for i in range(19))


def test_cityscapes_train_ids_are_the_classes() -> None:
    lookup = class_set("cityscapes19").lookup("cityscapes_train_ids")
    assert lookup.tolist() == table({i: i for i in range(19)}, void=range(255, 256))


def test_gtav_is_cityscapes_with_a_license_plate_at_34() -> None:
    cityscapes, gtav = (class_set("cityscapes19").lookup(name) for name in ("cityscapes", "gtav"))
    assert gtav[34] == IGNORE
    assert np.flatnonzero(cityscapes != gtav).tolist() == [34]


@pytest.mark.parametrize(("classes", "published"), [("synthia16", SYNTHIA_TO_16), ("cityscapes19", SYNTHIA_TO_19)])
def test_synthia_ids_are_trained_as_published(classes: str, published: dict[int, int]) -> None:
    assert class_set(classes).lookup("synthia").tolist() == table(published, void=range(23))


def test_the_16_classes_of_synthia_are_found_in_cityscapes_labels() -> None:
    kept = [i for i in range(19) if TRAINED[i][0] not in ("terrain", "truck", "train")]
    expected = {number: kept.index(train_id) for _, number, train_id, *_ in ROWS if train_id in kept}
    assert class_set("synthia16").lookup("cityscapes").tolist() == table(expected, void=range(34))[:255] + [IGNORE]


@pytest.mark.parametrize("name", ["cityscapes19", "synthia16"])
def test_classes_are_shown_in_the_published_colours(name: str) -> None:
    published = {class_name: list(color) for class_name, color in TRAINED.values()}
    known = class_set(name)
    shown = dict(zip(known.classes, known.palette().tolist(), strict=True))
    assert shown == {class_name: published[class_name] for class_name in known.classes}


def test_miou_star_leaves_wall_fence_and_pole_out() -> None:
    known = class_set("synthia16")
    assert len(known.classes) == 16
    assert len(known.miou_star) == 13
    assert set(known.classes) - set(known.miou_star) == {"wall", "fence", "pole"}
    assert set(known.miou_star) < set(known.classes)
    assert class_set("cityscapes19").miou_star == ()


def own(tmp_path: Path, text: str) -> ClassSet:
    (tmp_path / "mine.yaml").write_text(f"name: mine\n{text}\n")
    return class_set(str(tmp_path / "mine.yaml"))


def on_every_id(tmp_path: Path, classes: ClassSet, label_format: str) -> list[int]:
    """Classes of the pixels of a label file that holds 0..33 and 255."""
    Image.fromarray(np.array([[*range(34), 255]], np.uint8)).save(tmp_path / "ids.png")
    return read_label(str(tmp_path / "ids.png"), classes, label_format)[0].tolist()


@pytest.mark.parametrize("label_format", ["cityscapes", "gtav"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("classes: [car, road]", {26: 0, 7: 1}),
        ("classes: [parking, unlabeled, license plate]", {9: 0, 0: 1, 255: 2}),
        ("classes: [road, vehicle]\nids: [[7], [26, 27, 28]]", {7: 0, 26: 1, 27: 1, 28: 1}),
        ("classes: [road, vehicle]\nids: [7, [26, 27, 28]]", {7: 0, 26: 1, 27: 1, 28: 1}),
        ("classes: [plate, car]\nids: [-1, 26]\nignore_ids: []", {255: 0, 26: 1}),
        ("classes: [plate, car]\nids: [[-1, 33], 26]\nignore_ids: [0]", {255: 0, 33: 0, 26: 1}),
        ("classes: [road, rest]\nids: [7, [8, 9]]\nignore_ids: [-1]", {7: 0, 8: 1, 9: 1}),
    ],
)
def test_a_set_of_one_s_own_on_public_labels(tmp_path: Path, label_format: str, text: str, expected: dict) -> None:
    classes = own(tmp_path, text)
    assert on_every_id(tmp_path, classes, label_format) == [expected.get(i, IGNORE) for i in [*range(34), 255]]


def test_two_ids_of_one_name_are_one_class() -> None:
    plate = ClassSet("plates", ("license plate", "car")).lookup("gtav")
    assert (plate[34], plate[255], plate[26], plate[7]) == (0, 0, 1, IGNORE)


@pytest.mark.parametrize(
    "text",
    [
        "classes: [plate, car]\nids: [-1, 26]",  # 255, the default of ignore_ids, is the same byte
        "classes: [plate, car]\nids: [-1, 255]\nignore_ids: []",
        "classes: [a, b]\nids: [[7, 8], [8, 9]]",
        "classes: [a, b]\nids: [[7, 7], 9]",
        "classes: [a, b]\nids: [[7, 255], 9]",
        "classes: [a, b]\nids: [-2, 9]",
    ],
)
def test_ids_that_a_file_cannot_tell_apart_are_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"mine.*ids.*-1 stands as 255"):
        own(tmp_path, text)


@pytest.mark.parametrize(
    ("label_format", "wrong", "right"),
    [
        ("cityscapes", "raod", "road"),
        ("gtav", "motorbike", "motorcycle"),
        ("synthia", "lane markings", "lane marking"),
        ("cityscapes_train_ids", "cars", "car"),
    ],
)
def test_a_class_that_the_labels_lack_is_answered_with_those_they_have(
    label_format: str, wrong: str, right: str
) -> None:
    classes = ClassSet("mine", (wrong, "sky"))
    with pytest.raises(InputError, match=rf"mine.*{label_format} .*'{wrong}'.*[( ]{right}[,)]"):
        classes.lookup(label_format)


def test_a_class_of_cityscapes_that_synthia_has_not_is_an_error_on_synthia_alone() -> None:
    classes = ClassSet("mine", ("tunnel", "sky"))
    assert np.flatnonzero(classes.lookup("cityscapes") == 0).tolist() == [16]
    with pytest.raises(InputError, match=r"mine.*synthia.*'tunnel'"):
        classes.lookup("synthia")


def test_ids_that_a_set_names_need_no_names_of_the_format() -> None:
    lookup = ClassSet("mine", ("anything", "else"), ids=(3, (1, 2))).lookup("synthia")
    assert lookup.tolist() == table({3: 0, 1: 1, 2: 1}, void=range(23))[:255] + [IGNORE]


def test_ids_of_one_set_are_refused_for_labels_that_number_their_classes_differently() -> None:
    """Else SYNTHIA's poles (7) would be taken for roads, which are 7 in Cityscapes."""
    numbered, named = ClassSet("mine", ("road", "sky"), ids=(7, 23)), ClassSet("mine", ("road", "sky"))
    for formats in (["cityscapes", "gtav"], ["synthia"], []):
        numbered.check_formats(formats)
    for formats in (["cityscapes", "synthia"], ["gtav", "cityscapes_train_ids"]):
        named.check_formats(formats)
        with pytest.raises(InputError, match=rf"mine has ids.*{min(formats)} and {max(formats)} labels"):
            numbered.check_formats(formats)
