"""The clause that names the word a user probably meant."""

import pytest

from halo_ray.suggest import nearest

KEYS = ("acquisition.budget", "data.pool", "training.flip", "training.learning_rate", "seed")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("acquisition.budgte", "acquisition.budget"),
        ("learning_rate", "training.learning_rate"),
        ("flip", "training.flip"),
        ("pool", "data.pool"),
        ("sed", "seed"),
        ("model.flip", "training.flip"),
        ("seed", "seed"),
    ],
)
def test_a_misspelt_or_shortened_word_is_answered_with_the_one_it_meant(word: str, meant: str) -> None:
    assert nearest(word, KEYS) == f"did you mean {meant!r}?"


@pytest.mark.parametrize("word", ["", "zzz", "quux.quuux"])
def test_where_none_is_close_all_are_listed_in_order(word: str) -> None:
    assert nearest(word, {"entropy": 0, "halo": 1, "radius": 2}) == "valid are entropy, halo, radius"


def test_the_closest_of_several_wins_whatever_their_order() -> None:
    words = ["entropy_map", "entropy", "entropia"]
    assert {nearest("entrop", order) for order in (words, words[::-1])} == {"did you mean 'entropy'?"}


def test_any_iterable_will_do() -> None:
    assert nearest("halo_", (word for word in ("halo", "radius"))) == "did you mean 'halo'?"
