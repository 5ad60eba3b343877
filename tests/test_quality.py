"""Confusion matrices, IoU and accuracy against loops over pixels and sets of pixels."""

import numpy as np
import pytest

from halo_ray.data.classes import IGNORE
from halo_ray.quality import confusion_matrix, quality


def maps(seed: int, classes: int, void: float) -> tuple[np.ndarray, np.ndarray]:
    """A label map and a guess that is right at about half of its pixels."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, (13, 17), dtype=np.uint8)
    guess = np.where(random.random(label.shape) < 0.5, label, random.integers(0, classes, label.shape, dtype=np.uint8))
    label[random.random(label.shape) < void] = IGNORE
    return label, guess


@pytest.mark.parametrize("classes", [2, 11, 200])
@pytest.mark.parametrize("void", [0, 0.4, 1.1])
def test_confusion_counts_each_labelled_pixel_by_label_and_guess(classes: int, void: float) -> None:
    label, guess = maps(0, classes, void)
    expected = np.zeros((classes, classes), np.int64)
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            if label[y, x] != IGNORE:
                expected[int(label[y, x]), int(guess[y, x])] += 1
    found = confusion_matrix(label, guess, classes)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("absent", [(), (2,), (0, 4)])
def test_iou_and_accuracy_are_those_of_the_sets_of_pixels(absent: tuple[int, ...]) -> None:
    label, guess = maps(1, 5, 0.2)
    for cls in absent:
        label[label == cls], guess[guess == cls] = IGNORE, 3
    seen = label != IGNORE
    iou: list[float | None] = []
    for cls in range(5):
        ours, theirs = ({*np.flatnonzero(values.ravel() == cls)} & {*np.flatnonzero(seen)} for values in (guess, label))
        iou.append(len(ours & theirs) / len(ours | theirs) if ours | theirs else None)
    found = quality(confusion_matrix(label, guess, 5))
    assert [cls for cls, value in enumerate(found.iou) if value is None] == list(absent)
    assert found.iou == pytest.approx(iou)
    known = [value for value in iou if value is not None]
    assert found.miou == pytest.approx(sum(known) / len(known))
    assert found.accuracy == pytest.approx((label == guess)[seen].sum() / seen.sum())


def test_a_class_that_is_only_guessed_or_only_labelled_counts_as_zero() -> None:
    label, guess = np.array([[0, 0, 1]], np.uint8), np.array([[0, 2, 0]], np.uint8)
    found = quality(confusion_matrix(label, guess, 4))
    assert found.iou == [pytest.approx(1 / 3), 0, 0, None]
    assert found.miou == pytest.approx(1 / 9)


def test_a_class_that_is_guessed_only_where_the_label_is_void_is_absent() -> None:
    label, guess = np.array([[0, 1, IGNORE]], np.uint8), np.array([[0, 1, 2]], np.uint8)
    found = quality(confusion_matrix(label, guess, 3))
    assert (found.iou, found.miou, found.accuracy) == ([1, 1, None], 1, 1)


def test_without_any_labelled_pixel_quality_is_finite() -> None:
    found = quality(np.zeros((3, 3), np.int64))
    assert (found.iou, found.miou, found.accuracy) == ([None] * 3, 0, 0)


def test_summed_confusions_give_the_quality_of_the_images_together() -> None:
    pairs = [maps(seed, 4, 0.1) for seed in range(3)]
    summed = sum(confusion_matrix(label, guess, 4) for label, guess in pairs)
    label, guess = (np.concatenate(part) for part in zip(*pairs, strict=True))
    assert quality(summed) == quality(confusion_matrix(label, guess, 4))


def test_counts_beyond_32_bits_are_exact() -> None:
    found = quality(np.array([[2**40, 2**40], [0, 2**41]], np.int64))
    assert found.iou == [0.5, pytest.approx(2 / 3)]
    assert found.accuracy == 0.75


def test_miou_star_is_the_mean_over_the_classes_that_it_names() -> None:
    """Classes 0 and 2 of three; one that is neither labelled nor guessed is left out, as from mIoU."""
    confusion = np.array([[6, 2, 0, 0], [2, 4, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0]], np.int64)
    assert quality(confusion).miou_star is None
    assert quality(confusion, (0, 2)).miou_star == pytest.approx((6 / 10 + 1) / 2)
    assert quality(confusion, (1, 3)).miou_star == pytest.approx(4 / 8)
    assert quality(confusion, (0, 2)).miou == pytest.approx((6 / 10 + 4 / 8 + 1) / 3)


@pytest.mark.parametrize("void", [0, 0.4])
def test_the_accuracy_of_a_class_is_the_share_of_its_pixels_that_are_right(void: float) -> None:
    label, guess = maps(2, 6, void)
    label[label == 4] = 1  # never labelled, though guessed
    expected = []
    for cls in range(6):
        own = guess[label == cls]
        expected.append(np.mean(own == cls) if len(own) else None)
    found = quality(confusion_matrix(label, guess, 6))
    assert expected[4] is None
    assert (guess == 4).any()
    assert found.class_accuracy == pytest.approx(expected)
    known = [share * (label == cls).sum() for cls, share in enumerate(expected) if share is not None]
    assert sum(known) / (label != IGNORE).sum() == pytest.approx(found.accuracy)


def test_shares_of_classes_are_of_the_labelled_pixels() -> None:
    label, guess = np.array([[0, 0, 1, IGNORE]], np.uint8), np.array([[0, 2, 0, 2]], np.uint8)
    assert quality(confusion_matrix(label, guess, 4)).class_share == pytest.approx([2 / 3, 1 / 3, 0, 0])
