"""Which images are drawn, against the published weights and an independent count."""

import math
from collections import Counter

import numpy as np
import pytest

from halo_ray.data.sampling import SUB_EPOCH, SourceSampling, class_balanced, rare_class_probability, uniform
from halo_ray.errors import InputError

# Ten images; class 0 is everywhere, 1 in four, 2 in one, 3 in none.
PIXELS = np.zeros((10, 4), np.int64)
PIXELS[:, 0], PIXELS[:4, 1], PIXELS[7, 2], PIXELS[8, 2] = 9_000, 5_000, 4_000, 10


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_uniform_shows_every_image_before_any_comes_again() -> None:
    drawn = uniform(7, 30, generator()).reshape(-1)
    for start in range(0, 28, 7):
        assert sorted(drawn[start : start + 7]) == list(range(7))
    assert drawn[:7].tolist() != drawn[7:14].tolist()


@pytest.mark.parametrize("method", ["uniform", "class_balanced", "rare_class"])
def test_a_sequence_is_fixed_by_its_seed_and_a_longer_one_goes_on(method: str) -> None:
    sampling = SourceSampling(method=method, temperature=1.0)
    one, same, other = (sampling.draw(10, 50, PIXELS, generator(seed)) for seed in (1, 1, 2))
    assert one.images.tolist() == same.images.tolist() != other.images.tolist()
    assert one.images.shape == one.classes.shape == (50,)
    assert set(one.images.tolist()) <= set(range(10))
    assert (one.classes >= 0).all() == (method == "rare_class")


def test_class_balanced_draws_follow_the_official_weights() -> None:
    """Replayed by hand: at each draw, the class of the next image was drawn with w = 1/log(1.01 + share so far)."""
    held, draws = PIXELS > 0, 200_000
    drawn = class_balanced(held, draws, generator(3))
    expected, variance, seen = np.zeros(10), np.zeros(10), np.zeros(10)
    shown = np.zeros(4)
    for number, image in enumerate(drawn.tolist()):
        if number % SUB_EPOCH == 0:
            shown = np.zeros(4)
        total = shown.sum()
        weight = [1 / math.log(1.01 + (shown[c] / total if total else 0)) if held[:, c].any() else 0 for c in range(4)]
        # In the long run every image of a class comes as often as any other.
        chance = sum(weight[c] / sum(weight) * held[:, c] / max(held[:, c].sum(), 1) for c in range(4))
        expected += chance
        variance += chance * (1 - chance)
        seen[image] += 1
        shown += held[image]
    assert (np.abs(seen - expected) < 5 * np.sqrt(variance)).all(), (seen, expected)
    assert seen[7] > 2 * seen[9]  # the rare class is shown far more often than in turn


def test_the_images_of_a_class_come_in_turn() -> None:
    only = np.eye(3, dtype=bool).repeat(5, 0)  # five images of each class, none of two
    drawn = class_balanced(only, 3000, generator()).tolist()
    for c in range(3):
        mine = [image for image in drawn if image // 5 == c]
        for start in range(0, len(mine) - 5, 5):
            assert sorted(mine[start : start + 5]) == list(range(5 * c, 5 * c + 5))
    assert max(Counter(image // 5 for image in drawn).values()) < 1150


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_rare_classes_are_drawn_by_daformer_s_softmax(temperature: float) -> None:
    shares = np.array([0.6, 0.3, 0.1])
    weights = [math.exp((1 - share) / temperature) for share in shares]
    expected = [weight / sum(weights) for weight in weights] + [0]
    pixels = np.array([600_000, 300_000, 100_000, 0])
    np.testing.assert_allclose(rare_class_probability(pixels, temperature), expected, rtol=1e-9, atol=1e-300)


def test_a_rare_class_is_shown_in_images_with_enough_of_it() -> None:
    sampling = SourceSampling(method="rare_class", temperature=0.5, min_pixels=3000)
    images, classes = sampling.draw(10, 30_000, PIXELS, generator())
    assert set(images[classes == 2].tolist()) == {7}  # image 8 has 10 pixels of it
    assert set(images[classes == 1].tolist()) == {0, 1, 2, 3}
    assert set(classes.tolist()) == {0, 1, 2}
    found = np.bincount(classes, minlength=4) / 30_000
    np.testing.assert_allclose(found, rare_class_probability(PIXELS.sum(0), 0.5), atol=0.015)
    few = SourceSampling(method="rare_class", temperature=0.5, min_pixels=4000).draw(10, 3000, PIXELS, generator())
    assert set(few.images[few.classes == 2].tolist()) == {7, 8}  # none has more, so any that holds it


@pytest.mark.parametrize(("key", "value"), [("temperature", 0.0), ("temperature", math.nan), ("min_pixels", -1)])
def test_values_that_mean_nothing_are_named(key: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"training\.source_sampling\.{key} is"):
        SourceSampling(**{key: value})
