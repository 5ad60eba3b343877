"""The exact global cut: how many candidates of each image are among the ``count`` best of a whole pool.

Scores are compared through 32-bit keys that order as float32 does. The cut is found by counting: the upper 16 bits of
all keys, the lower 16 bits where that leaves doubt, then each image's share; three passes over candidates that may lie
anywhere and are never held together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from halo_ray.acquisition.tally import Tally

BIN_BITS = 16
"""Low bits of a key that a histogram bin leaves out."""
BINS = 1 << BIN_BITS
"""Bins of a histogram, by the upper or by the lower half of a key."""

Ints = npt.NDArray[np.int64]


def order_keys(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """Keys that compare as the scores do; −0.0 counts as 0.0.

    The sign bit is flipped for positive floats and all bits for negative ones (IEEE 754 is sign-magnitude).
    """
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.uint32)
    keys: npt.NDArray[np.uint32] = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return keys


def key_score(key: int) -> float:
    """The score whose key that is."""
    bits = key ^ (1 << 31) if key >> 31 else key ^ (2**32 - 1)
    return float(np.array(bits, np.uint32).view(np.float32))


class Threshold(NamedTuple):
    """Where a cut lies: all above ``value`` fit, and ``room`` of those that are equal to it."""

    value: int
    """A key, or its upper half as long as no more is known."""
    room: int


def threshold(bins: Ints, counts: Ints, room: int) -> Threshold | None:
    """Where the ``room``-th best of a histogram lies; None where it has fewer. ``bins`` (B,) rise."""
    if counts.sum() < room:
        return None
    higher = counts[::-1].cumsum()[::-1] - counts
    last = int(np.flatnonzero(higher < room)[0])
    return Threshold(int(bins[last]), int(room - higher[last]))


def within(bins: Ints, counts: Ints, limit: Threshold) -> Ints:
    """The histogram without what lies beyond the limit."""
    return np.where(bins > limit.value, counts, np.where(bins == limit.value, limit.room, 0))


class Candidates(NamedTuple):
    """Candidate regions, the caps of their images applied."""

    scores: npt.NDArray[np.float32]
    """(K,)."""
    rows: npt.NDArray[np.integer[Any]]
    """(K,): each one's image, as a row of the pool's manifest, which is sorted by image id."""


class Sequences(NamedTuple):
    """Which images belong together, and how many candidates may be chosen of them."""

    of: npt.NDArray[np.int32]
    """(images,): the sequence of each row of the manifest."""
    caps: Ints
    """(sequences,): the most of each, at least 1."""


class Answer(NamedTuple):
    """What a part of the pool holds."""

    candidates: int
    """How many it has."""
    where: npt.NDArray[np.integer[Any]]
    """(P,): sequence · BINS + bin; for the question about images their rows."""
    counts: npt.NDArray[np.integer[Any]]
    """(P,): candidates there; those above the target."""
    ties: npt.NDArray[np.integer[Any]]
    """(P,): for the question about images, candidates at the target."""


@dataclass(frozen=True)
class Question:
    """What one pass counts.

    ``upper``: candidates of each sequence by the upper half of their key. ``lower``: by the lower half, of those whose
    upper half is their sequence's target. ``images``: candidates of each image above its sequence's target, and at it.
    """

    counted: Literal["upper", "lower", "images"]
    targets: Ints
    """(sequences,); −1 is below all keys."""
    of: npt.NDArray[np.int32] | None
    """As in Sequences; None: all images are one sequence."""

    def answer(self, part: Candidates) -> Answer:
        """The counts in a part of the pool."""
        keys = order_keys(part.scores)
        sequence = None if self.of is None else self.of[part.rows].astype(np.int64)
        target = self.targets[0] if sequence is None else self.targets[sequence]
        if self.counted == "images":
            return _by_image(part.rows, keys, target)
        bins = keys >> BIN_BITS
        if self.counted == "lower":
            doubtful = np.flatnonzero(bins == target)
            bins = keys[doubtful] & np.uint32(BINS - 1)
            sequence = None if sequence is None else sequence[doubtful]
        if sequence is None:
            dense = np.bincount(bins)
            where = np.flatnonzero(dense)
            counts = dense[where]
        else:
            where, counts = np.unique(sequence * BINS + bins, return_counts=True)
        # Answers are what the coordinator's memory holds while it adds them up.
        small = where.astype(np.min_scalar_type(where.max(initial=0)))
        return Answer(len(keys), small, counts.astype(np.uint32), where[:0])


def _by_image(rows: npt.NDArray[np.integer[Any]], keys: npt.NDArray[np.uint32], target: Ints) -> Answer:
    shares, tied = np.flatnonzero(keys >= target), keys == target
    own, place = np.unique(rows[shares], return_inverse=True)
    ties = np.bincount(place[tied[shares]], minlength=len(own))
    above = np.bincount(place, minlength=len(own)) - ties
    return Answer(len(keys), own, above.astype(np.uint32), ties.astype(np.uint32))


@dataclass(frozen=True)
class Selection:
    """Which candidates are chosen: of each image, so many of its first by score falling, y, x rising."""

    rows: Ints
    """(images,): those that have any, rising."""
    counts: Ints
    """(images,)."""
    cut: tuple[float, int] | None
    """Score and row of the last one chosen; None: all were chosen that caps allow."""
    candidates: int
    """How many there were to choose from."""


class Cut:
    """The search for the ``count`` best of a pool, by score falling, then row (that is image id), y, x rising.

    Of a sequence, the best up to its cap can be chosen. Memory grows with the number of images and of sequences, never
    with the number of candidates.

    Args:
        images: rows of the manifest.
        count: how many are chosen, at least 1; None: all that the caps allow.
        sequences: None: sequences have no cap.
    """

    def __init__(self, images: int, count: int | None, sequences: Sequences | None = None) -> None:
        self._count = count
        self._above, self._ties = np.zeros(images, np.uint32), np.zeros(images, np.uint32)
        self._of = None if sequences is None else sequences.of
        self._caps: list[int | None] = [None] if sequences is None else sequences.caps.tolist()
        self._pool: Threshold | None = None
        self._own: dict[int, Threshold] = {}
        self._tally = Tally(BINS)

    def run(self, ask: Callable[[Question], Iterable[Answer]]) -> Selection:
        """The selection; ``ask`` puts a question to all parts of the pool and is called three times at most."""
        question = self._ask("images" if self._count is None and self._of is None else "upper")
        while True:
            candidates = 0
            for answer in ask(question):
                candidates += answer.candidates
                if question.counted == "images":
                    self._above[answer.where] += answer.counts
                    self._ties[answer.where] += answer.ties
                else:
                    self._tally.add(answer.where, answer.counts)
            if question.counted == "images":
                return self._share_out(question, candidates)
            self._narrow(question)
            doubt = question.counted == "upper" and (self._own or self._pool)
            question = self._ask("lower" if doubt else "images")

    def _ask(self, counted: Literal["upper", "lower", "images"]) -> Question:
        targets = np.full(len(self._caps), -1 if self._pool is None else self._pool.value, np.int64)
        for sequence, limit in self._own.items():
            targets[sequence] = max(targets[sequence], limit.value)
        return Question(counted, targets, self._of)

    def _narrow(self, asked: Question) -> None:
        """Takes the next half of the keys into the thresholds."""
        first = asked.counted == "upper"
        total, own = np.zeros(BINS, np.int64), {}
        for sequence, bins, counts in self._tally:
            known = self._own.get(sequence)
            if known is not None and known.value < asked.targets[sequence]:
                known = None  # the pool's threshold leaves less of it than its cap would
            room = self._caps[sequence] if first else known and known.room
            found = None if room is None else threshold(bins, counts, room)
            if found is not None:
                own[sequence] = found if known is None else _joined(known, found)
                counts = within(bins, counts, found)
            if first or (self._pool is not None and self._pool.value == asked.targets[sequence]):
                total[bins] += counts
        every = np.arange(BINS)
        if first:
            self._pool = None if self._count is None else threshold(every, total, self._count)
        elif self._pool is not None:
            found = threshold(every, total, self._pool.room)
            assert found is not None  # the bin holds at least so many
            self._pool = _joined(self._pool, found)
        self._own, self._tally = own, Tally(BINS)

    def _share_out(self, asked: Question, candidates: int) -> Selection:
        """What each image gets: all above its target, and of the ties as many as there is room for, by row."""
        tied = np.flatnonzero(self._ties)
        sequence = np.zeros(len(tied), np.int32) if self._of is None else self._of[tied]
        order = np.argsort(sequence, kind="stable")
        starts = np.searchsorted(sequence[order], np.arange(len(self._caps) + 1))
        for number, limit in self._own.items():
            if limit.value == asked.targets[number]:
                _take_first(self._ties, tied[order[starts[number] : starts[number + 1]]], limit.room)
        cut = None
        if self._pool is not None:
            at_cut = tied[asked.targets[sequence] == self._pool.value]
            _take_first(self._ties, at_cut, self._pool.room)
            cut = key_score(self._pool.value), int(at_cut[self._ties[at_cut] > 0][-1])
        counts = self._above + self._ties
        rows = np.flatnonzero(counts)
        return Selection(rows, counts[rows].astype(np.int64), cut, candidates)


def _joined(upper: Threshold, lower: Threshold) -> Threshold:
    return Threshold(upper.value << BIN_BITS | lower.value, lower.room)


def _take_first(ties: npt.NDArray[np.uint32], places: Ints, room: int) -> None:
    """Leaves ``room`` of the ties at those places, the first ones."""
    mine = ties[places].astype(np.int64)
    ties[places] = np.clip(room - (mine.cumsum() - mine), 0, mine)
