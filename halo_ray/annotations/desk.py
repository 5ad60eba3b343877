"""The desk at which several annotators answer a round: who looks at which region, and what was answered."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from halo_ray.annotations.folder import ANSWERS, CANT_TELL, LIST, folder
from halo_ray.annotations.received import listed_ids
from halo_ray.data.classes import ClassSet
from halo_ray.errors import InputError
from halo_ray.storage import Storage

SILENT_SECONDS = 120.0
"""After which a region goes to somebody else, where its annotator's page gives no sign of life."""

RATE_SECONDS = 300.0
"""Of which the rate is the mean."""

_DIRECTORY, _STATE = f"{ANSWERS}/page", "page.json"


class ConflictError(InputError):
    """Somebody else has answered this region, or what is asked cannot be done."""


@dataclass(frozen=True)
class Asked:
    """A region as the list of requests has it."""

    id: str
    image: str
    y: int
    x: int
    r: int
    why: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One that was given at the desk."""

    id: str
    label: str
    """Name of a class, or CANT_TELL[0]."""
    by: str
    """The annotator's page."""
    order: int
    """Rises with every answer."""


class Desk:
    """Deals the regions of a round out, so that no two annotators get the same one; safe for threads.

    An answer is stored before it counts, in a file of its own, which an undo deletes. So are the regions that are out
    and those that were skipped: a desk that was killed goes on where it was.

    Raises:
        InputError: the round asks nothing, or a file of it is damaged.
    """

    def __init__(
        self, storage: Storage, number: int, classes: ClassSet, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place, self._classes, self._clock = folder(storage, number), classes, clock
        self._lock = threading.RLock()
        self.regions = {each.id: each for each in self._requests()}
        self._answers = {each.id: each for each in self._stored_answers()}
        self._elsewhere = listed_ids(self._place, besides=_DIRECTORY) & self.regions.keys()
        self._order = max((each.order for each in self._answers.values()), default=0)
        self._given: list[tuple[float, str]] = []
        out, skipped = self._stored_state()
        self._out: dict[str, str] = out
        """The region that each annotator looks at."""
        self._skipped: dict[str, list[str]] = skipped
        self._heard: dict[str, float] = dict.fromkeys(out, clock())

    def take(self, by: str) -> Asked | None:
        """The region that an annotator is to answer: the one they have, or the next; None: nothing is left for them."""
        with self._lock:
            self.hear(by)
            mine = self._out.get(by)
            if mine is None or self._is_answered(mine):
                mine = self._next(by)
                self._put_out(by, mine)
            return None if mine is None else self.regions[mine]

    def answer(self, by: str, region_id: str, label: str) -> None:
        """Stores an answer; the same one again changes nothing.

        Raises:
            ConflictError: somebody else has answered it, or is about to.
            InputError: unknown region or label; the storage failed.
        """
        with self._lock:
            self.hear(by)
            if region_id not in self.regions:
                raise InputError(f"id {region_id!r} is none of this round: load the page again")
            if label not in (*self._classes.classes, CANT_TELL[0]):
                raise InputError(f"label {label!r} is no class: load the page again")
            before = self._answers.get(region_id)
            if (before is not None and before.by != by) or region_id in self._others(by):
                raise ConflictError("somebody else has this region meanwhile: here is another one")
            if before is not None and before.label == label:  # told twice, since our reply was lost
                return
            given = Answer(region_id, label, by, self._order + 1)
            self._place.write(_file(region_id), (json.dumps(asdict(given)) + "\n").encode())
            self._order += 1
            self._answers[region_id] = given
            self._given.append((self._clock(), by))

    def undo(self, by: str) -> None:
        """Takes the annotator's last answer back; its region is theirs again."""
        with self._lock:
            self.hear(by)
            mine = [each for each in self._answers.values() if each.by == by]
            if not mine:
                raise ConflictError("there is nothing to take back")
            last = max(mine, key=lambda each: each.order)
            self._put_out(by, last.id)  # first, so that nobody else gets it
            self._place.delete(_file(last.id))
            del self._answers[last.id]

    def skip(self, by: str) -> None:
        """Leaves the annotator's region to others; it comes back to them when nothing else is left."""
        with self._lock:
            self.hear(by)
            mine = self._out.get(by)
            if mine is not None and not self._is_answered(mine):
                self._skipped.setdefault(by, []).append(mine)
            self._put_out(by, None)

    def hear(self, by: str) -> None:
        """Notes a sign of life of an annotator's page."""
        with self._lock:
            self._heard[by] = self._clock()

    def progress(self, by: str) -> dict[str, Any]:
        """``total`` regions, ``answered`` ones, ``mine``, and a minute's ``rate`` of this annotator and of ``all``."""
        with self._lock:
            now = self._clock()
            self._given = [each for each in self._given if now - each[0] < RATE_SECONDS]
            first = min((at for at, _ in self._given), default=now)
            minutes = max(now - first, 10.0) / 60
            recent = Counter(who for _, who in self._given)
            return {
                "total": len(self.regions),
                "answered": len(self._answers.keys() | self._elsewhere),
                "mine": sum(each.by == by for each in self._answers.values()),
                "rate": recent[by] / minutes,
                "rate_all": len(self._given) / minutes,
                "annotators": len({who for who in self._out if self._lives(who)} | {by}),
            }

    def _is_answered(self, region_id: str) -> bool:
        return region_id in self._answers or region_id in self._elsewhere

    def _lives(self, by: str) -> bool:
        return self._clock() - self._heard.get(by, -SILENT_SECONDS) < SILENT_SECONDS

    def _others(self, by: str) -> set[str]:
        """Regions that others look at."""
        return {region_id for who, region_id in self._out.items() if who != by and self._lives(who)}

    def _next(self, by: str) -> str | None:
        others, skipped = self._others(by), self._skipped.get(by, [])
        free = [each for each in self.regions if not self._is_answered(each) and each not in others]
        for region_id in free:
            if region_id not in skipped:
                return region_id
        if not free:
            return None
        # All that is left was skipped: from the first one on again.
        again = min(free, key=skipped.index)
        self._skipped[by] = [each for each in skipped if each != again]
        return again

    def _put_out(self, by: str, region_id: str | None) -> None:
        """Gives a region to an annotator; None: they have none. Whoever was silent for too long has lost theirs."""
        out = {who: mine for who, mine in self._out.items() if who != by and mine != region_id and self._lives(who)}
        if region_id is not None:
            out[by] = region_id
        self._place.write_json(_STATE, {"out": out, "skipped": self._skipped})
        self._out = out

    def _requests(self) -> list[Asked]:
        keys = ("id", "image", "y", "x", "r", "why")
        try:
            lines = [json.loads(line) for line in self._place.read(LIST).splitlines()]
            return [Asked(**{key: line[key] for key in keys}) for line in lines]
        except FileNotFoundError as error:
            raise self._place.gone(LIST) from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._place.damaged(LIST, error) from error

    def _stored_answers(self) -> list[Answer]:
        found = []
        for name in self._place.files(_DIRECTORY):
            try:
                each = Answer(**json.loads(self._place.read(name)))
            except (ValueError, TypeError) as error:
                raise self._place.damaged(name, error) from error
            if each.id in self.regions:
                found.append(each)
        return found

    def _stored_state(self) -> tuple[dict[str, str], dict[str, list[str]]]:
        if not self._place.exists(_STATE):
            return {}, {}
        found = self._place.read_json(_STATE)
        try:
            out = {str(who): str(each) for who, each in found["out"].items() if each in self.regions}
            return out, {str(who): [*map(str, ids)] for who, ids in found["skipped"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise self._place.damaged(_STATE, "it is not the state of a page") from error


def _file(region_id: str) -> str:
    return f"{_DIRECTORY}/{region_id}.jsonl"
