"""Which source image each training sample shows: uniform, or so that rare classes are seen more often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from halo_ray.bounds import COUNT, Range, check_ranges

Ints = npt.NDArray[np.int64]

SUB_EPOCH = 3000
"""Draws after which class-balanced sampling forgets what it has shown (official code)."""


class Draws(NamedTuple):
    """The images of a sequence of samples."""

    images: Ints
    """(draws,) rows of the manifest."""
    classes: Ints
    """(draws,) class that a random crop should show, −1: any."""


@dataclass(frozen=True)
class SourceSampling:
    """How source images are drawn for training."""

    method: Literal["uniform", "class_balanced", "rare_class"] = "uniform"
    """uniform: every image once before any comes again; class_balanced: of the class that was shown least so far
    (official code); rare_class: of a class drawn the more often, the rarer it is (DAFormer, Hoyer et al. 2022)."""
    temperature: Annotated[float, Range(1e-6, 1e6)] = 0.01
    """rare_class: T of the softmax over 1 − class share; small ones prefer the rarest class."""
    min_pixels: Annotated[int, Range(0, COUNT)] = 3000
    """rare_class: a class is looked for in images with more pixels of it than this, if there are any."""

    def __post_init__(self) -> None:
        check_ranges(self, "training.source_sampling.")

    def draw(self, images: int, draws: int, class_pixels: Ints | None, random: np.random.Generator) -> Draws:
        """A sequence of ``draws`` of ``images`` images.

        Args:
            class_pixels: (images, C) pixels of each class in each image; needed by all methods but uniform.
        """
        if self.method == "uniform":
            return Draws(uniform(images, draws, random), np.full(draws, -1, np.int64))
        if class_pixels is None or len(class_pixels) != images:
            raise ValueError("class statistics of every image are needed")
        if self.method == "class_balanced":
            return Draws(class_balanced(class_pixels > 0, draws, random), np.full(draws, -1, np.int64))
        return rare_class(class_pixels, draws, random, temperature=self.temperature, min_pixels=self.min_pixels)


def uniform(images: int, draws: int, random: np.random.Generator) -> Ints:
    """(draws,) in passes over all images, each in an order of its own."""
    passes = [random.permutation(images) for _ in range(-(-draws // images))]
    return np.concatenate(passes)[:draws]


def class_balanced(held: npt.NDArray[np.bool_], draws: int, random: np.random.Generator) -> Ints:
    """(draws,): each time a class is drawn with weight 1/log(1.01 + share), then the next image that holds it.

    The share is that of the class among the classes of the images shown so far in this sub-epoch, so that a class that
    was not shown yet weighs most. Images of a class come in passes, each in an order of its own.

    Args:
        held: (images, C) whether an image holds a class.
    """
    decks = [_Deck(np.flatnonzero(column), random) for column in held.T]
    there = held.any(0)
    chosen = np.empty(draws, np.int64)
    for draw in range(draws):
        if draw % SUB_EPOCH == 0:
            shown = np.zeros(held.shape[1])
        share = shown / max(shown.sum(), 1)
        weights = there / np.log(1.01 + share)
        chosen[draw] = decks[_pick(weights, random)].next()
        shown += held[chosen[draw]]
    return chosen


def rare_class(
    class_pixels: Ints, draws: int, random: np.random.Generator, *, temperature: float, min_pixels: int
) -> Draws:
    """Each time a class with probability softmax((1 − share of the class) / T), then any image with enough of it.

    DAFormer, equation 4. Classes that no image holds are left out.

    Args:
        class_pixels: (images, C).
        min_pixels: an image has enough with more than this, or, where none has, with any.
    """
    probability = rare_class_probability(class_pixels.sum(0), temperature)
    enough = [
        np.flatnonzero(column > (min_pixels if column.max(initial=0) > min_pixels else 0)) for column in class_pixels.T
    ]
    classes = random.choice(len(probability), size=draws, p=probability)
    images = np.array([random.choice(enough[c]) for c in classes], np.int64).reshape(draws)
    return Draws(images, classes.astype(np.int64))


def rare_class_probability(pixels: Ints, temperature: float) -> npt.NDArray[np.float64]:
    """(C,) softmax((1 − share) / T) over the classes that have pixels (C,); 0 for the others."""
    exponent = np.where(pixels > 0, -pixels / max(pixels.sum(), 1) / temperature, -np.inf)
    weights = np.exp(exponent - exponent.max())
    return np.asarray(weights / weights.sum())


class _Deck:
    """Cards dealt one by one, shuffled anew each time all were."""

    def __init__(self, cards: Ints, random: np.random.Generator) -> None:
        self._cards, self._random, self._left = cards, random, cards[:0].tolist()

    def next(self) -> int:
        if not self._left:
            self._left = self._random.permutation(self._cards).tolist()
        return int(self._left.pop())


def _pick(weights: npt.NDArray[np.float64], random: np.random.Generator) -> int:
    total = np.cumsum(weights)
    return int(np.searchsorted(total, random.random() * total[-1], side="right"))
