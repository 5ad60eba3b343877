"""Oracles of a user's own, found by their dotted path."""

import numpy as np
import numpy.typing as npt

from halo_ray.annotations.oracles import UNANSWERED, Question
from halo_ray.data.classes import IGNORE

Label = npt.NDArray[np.uint8]


def columns(question: Question) -> Label:
    """The class is the column modulo 3."""
    return np.tile((np.arange(question.size[1]) % 3).astype(np.uint8), (question.size[0], 1))


def left_half(question: Question) -> Label:
    """Answers what lies left, can not tell what lies in column 0, and has not said anything yet of the rest."""
    label = columns(question)
    label[:, question.size[1] // 2 :] = UNANSWERED
    label[:, 0] = IGNORE
    return label


def half_of_the_pool(question: Question) -> Label:
    """Answers for images of even numbers."""
    return columns(question) if int(question.image_id) % 2 == 0 else np.full(question.size, UNANSWERED, np.uint8)


def broken(question: Question) -> Label:
    raise KeyError("nobody")


def another_size(question: Question) -> Label:
    return columns(question)[1:]


def another_kind(question: Question) -> Label:
    return columns(question).tolist()


def floats(question: Question) -> Label:
    return columns(question).astype(np.float32)


def unknown_class(question: Question) -> Label:
    return np.full(question.size, 3, np.uint8)


not_callable = 3
