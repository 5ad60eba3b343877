"""What regions and classes are called in the folder of a round."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from round_of_people import ROUND

from halo_ray.annotations.folder import class_named, class_numbers, with_ids
from halo_ray.data.classes import ClassSet
from halo_ray.errors import InputError


def test_ids_are_of_one_model_and_one_region(requests: pa.Table) -> None:
    bare = requests.drop_columns("ids")
    mine, others = (
        [one for each in with_ids(bare, ROUND, model)["ids"].to_pylist() for one in each] for model in ("a", "b")
    )
    assert not set(mine) & set(others)
    assert all(re.fullmatch(r"r3-[1-4]-[0-9a-f]{4}", one) for one in mine)


def test_names_that_differ_in_case_alone_are_told_apart() -> None:
    classes = ClassSet("test", ("Car", "car", "road "))
    assert [class_named(name, classes) for name in ("Car", "car ", "CAR", "Road", "sky")] == [0, 1, None, 2, None]


@pytest.mark.parametrize("name", ["?", "Can't tell"])
def test_a_class_that_means_that_nobody_can_tell_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="means to oracle files that nobody can tell: give it another name"):
        class_numbers(ClassSet("test", ("road", name)))


@pytest.mark.parametrize(
    ("ids", "ignore_ids"), [((254, 1, 2), ()), ((0, 1, 2), (254,)), ((-1, 1, 2), ()), ((255, 1, 2), ())]
)
def test_class_numbers_that_templates_need_are_refused(ids: tuple[int, ...], ignore_ids: tuple[int, ...]) -> None:
    classes = ClassSet("mine", ("a", "b", "c"), ids=ids, ignore_ids=ignore_ids)
    with pytest.raises(InputError, match="class set mine numbers a class or void 254, or a class 255"):
        class_numbers(classes)
