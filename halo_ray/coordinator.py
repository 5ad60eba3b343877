"""The actor that owns the global selection of one round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import ray

from halo_ray.acquisition.bound import Histogram, RunningBound
from halo_ray.acquisition.threshold import Answer, Candidates, Cut, Question, Selection, Sequences
from halo_ray.tasks import CALLS_AT_HOME

TASKS_AT_ONCE = 32
"""Counting tasks that may be under way, so that their answers never pile up."""


class Places(NamedTuple):
    """Where the vectors of an image's embedding lie in the ball."""

    at_rim: int
    at_origin: int
    total: int


class Report(NamedTuple):
    """What the scoring of an image found, for one acquisition function."""

    histogram: Histogram
    """Its candidates, the image's cap applied."""
    pruned: int
    """The most candidates that the bound can have kept from being found."""


class Coordinator:
    """Learns the score histogram of each image, tells the scorers what cannot be chosen any more, and makes the cut.

    What it remembers serves pruning and the audit alone; the cut is made from the stored candidates, so a restart of
    the actor loses speed and nothing else.

    Args:
        images: how many images the pool has; each is known by its row.
        regions: how many regions the round buys over the whole pool; None: all candidates (scope image).
        sequences: with their caps; None: they have none.
        functions: names of the acquisition functions that are scored, each with a bound of its own.
    """

    def __init__(
        self,
        images: int,
        regions: int | None,
        sequences: Sequences | None = None,
        functions: Sequence[str] = ("halo",),
    ) -> None:
        self._regions, self._sequences = regions, sequences
        self._seen = np.zeros(images, np.bool_)
        self._bounds = {name: RunningBound(regions, sequences) for name in functions}
        self._started: tuple[float, int] | None = None
        self._latest = 0.0
        self._places = np.zeros(3, np.int64)
        self._candidates = dict.fromkeys(functions, 0)
        self._pruned = dict.fromkeys(functions, 0)

    def add(
        self, messages: Mapping[int, Mapping[str, Report]], places: Mapping[int, Places] | None = None
    ) -> dict[str, float]:
        """Takes what was found in images, by row and function; a repeated image counts once.

        Args:
            places: of the embedding of each image, by row.

        Returns:
            The bounds that now hold, as bounds().
        """
        for row, functions in messages.items():
            if self._seen[row]:
                continue
            self._seen[row] = True
            self._places += (places or {}).get(row, (0, 0, 0))
            for name, report in functions.items():
                self._bounds[name].add(row, report.histogram)
                self._candidates[name] += int(report.histogram.counts.sum())
                self._pruned[name] += report.pruned
        self._latest = time.monotonic()
        if self._started is None:
            self._started = self._latest, self.images()
        return self.bounds()

    def bounds(self) -> dict[str, float]:
        """Of each function a score that no chosen candidate can lie under; −inf while that is not known."""
        return {name: bound.score for name, bound in self._bounds.items()}

    def images(self) -> int:
        """How many images have been scored."""
        return int(self._seen.sum())

    def images_per_second(self) -> float | None:
        """How fast images were scored since the first report; None before the second."""
        if self._started is None or self._latest == self._started[0]:
            return None
        return (self.images() - self._started[1]) / (self._latest - self._started[0])

    def shares(self) -> tuple[float, float]:
        """Shares of the embedding of all images that lie at the rim and at the origin of the ball."""
        rim, origin, total = self._places.tolist()
        return rim / max(total, 1), origin / max(total, 1)

    def audit(self) -> dict[str, dict[str, Any]]:
        """Of each function: images that reported, candidates that they had, the most that the bound kept away."""
        return {
            name: {
                "images": self.images(),
                "candidates": self._candidates[name],
                "pruned_at_most": self._pruned[name],
                "bound": None if np.isneginf(bound.score) else bound.score,
            }
            for name, bound in self._bounds.items()
        }

    def select(self, read: Callable[[Any], Candidates], parts: Sequence[Any]) -> Selection:
        """The exact selection from all candidates.

        Args:
            read: gives the candidates of a part; called up to three times for each, in tasks.
            parts: whatever names the parts of the pool, such as files.
        """
        return Cut(len(self._seen), self._regions, self._sequences).run(lambda question: _ask(question, read, parts))


def _ask(question: Question, read: Callable[[Any], Candidates], parts: Sequence[Any]) -> Iterator[Answer]:
    """The answers of all parts, in any order."""
    if len(parts) <= CALLS_AT_HOME:
        yield from (question.answer(read(part)) for part in parts)
        return
    task, asked, reader = ray.remote(_answer), ray.put(question), ray.put(read)
    waiting: list[Any] = []
    for part in parts:
        if len(waiting) == TASKS_AT_ONCE:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)
        waiting.append(task.remote(asked, reader, part))
    while waiting:
        ready, waiting = ray.wait(waiting)
        yield from ray.get(ready)


def _answer(question: Question, read: Callable[[Any], Candidates], part: Any) -> Answer:
    return question.answer(read(part))
