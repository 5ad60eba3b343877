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
from halo_ray.annotations.ledger import Ledger
from halo_ray.annotations.received import listed_ids
from halo_ray.data.classes import ClassSet
from halo_ray.errors import InputError, one_line
from halo_ray.parallel_reads import read_all
from halo_ray.storage import Storage

SILENT_SECONDS = 120.0
"""After which a region goes to somebody else, where its annotator's page gives no sign of life."""

RATE_SECONDS = 300.0
"""Of which the rate is the mean."""

BOOKED_SECONDS = 5.0
"""How often the desk looks whether a run has read the answers."""

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
        self._ledger, self._number, self._looked = Ledger(storage), number, -BOOKED_SECONDS
        self._lock = threading.RLock()
        self.regions = {each.id: each for each in self._requests()}
        self._answers = {each.id: each for each in self._stored_answers()}
        self._elsewhere = listed_ids(self._place, number, classes, self.regions, besides=_DIRECTORY)
        self._left = self._unanswered()
        """Regions without an answer, in the order of the list."""
        self._by = Counter(each.by for each in self._answers.values())
        self._order = max((each.order for each in self._answers.values()), default=0)
        self._given: list[tuple[float, str]] = []
        self._out, self._skipped, self._turns = self._stored_state()
        self._heard: dict[str, float] = dict.fromkeys(self._out, clock())

    def take(self, by: str) -> Asked | None:
        """The region that an annotator is to answer: the one they have, or the next; None: nothing is left for them."""
        with self._lock:
            self.hear(by)
            mine = self._out.get(by)
            if mine not in self._left:
                self._check_open()
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
            self._check_open()
            given = Answer(region_id, label, by, self._order + 1)
            self._place.write(_file(region_id), (json.dumps(asdict(given)) + "\n").encode())
            self._order += 1
            self._answers[region_id] = given
            self._left.pop(region_id, None)
            self._by[by] += before is None
            self._given.append((self._clock(), by))

    def undo(self, by: str, turn: str = "") -> None:
        """Takes the annotator's last answer back; its region is theirs again.

        Args:
            turn: names this request: told twice, since our reply was lost, it is done once.
        """
        with self._lock:
            self.hear(by)
            again = turn and self._turns.get(by) == turn
            mine = [each for each in self._answers.values() if each.by == by]
            if again:  # done, but for the answer where it was cut off before that
                mine = [each for each in mine if each.id == self._out.get(by)]
                if not mine:
                    return
            if not mine:
                raise ConflictError("there is nothing to take back")
            self._check_open()
            last = max(mine, key=lambda each: each.order)
            self._put_out(by, last.id, turn)  # first, so that nobody else gets it
            self._place.delete(_file(last.id))
            del self._answers[last.id]
            self._by[by] -= 1
            self._left = self._unanswered()

    def skip(self, by: str, turn: str = "") -> None:
        """Leaves the annotator's region to others; it comes back to them when nothing else is left.

        Args:
            turn: as for undo.
        """
        with self._lock:
            self.hear(by)
            if turn and self._turns.get(by) == turn:
                return
            mine = self._out.get(by)
            if mine is not None and mine in self._left:
                self._skipped.setdefault(by, {})[mine] = None
            self._put_out(by, None, turn)

    def hear(self, by: str) -> None:
        """Notes a sign of life of an annotator's page; waits for nobody, not even for a storage that is slow."""
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
                "answered": len(self.regions) - len(self._left),
                "mine": self._by[by],
                "rate": recent[by] / minutes,
                "rate_all": len(self._given) / minutes,
                "annotators": len({who for who in self._out if self._lives(who)} | {by}),
            }

    def _unanswered(self) -> dict[str, None]:
        return {each: None for each in self.regions if each not in self._answers and each not in self._elsewhere}

    def _check_open(self) -> None:
        """Raises ConflictError where a run has read the answers: what is given now would count for nothing."""
        if self._clock() - self._looked >= BOOKED_SECONDS:
            if self._ledger.committed(self._number):
                raise ConflictError(f"round {self._number} has been read: nothing more is asked, thank you")
            self._looked = self._clock()

    def _lives(self, by: str) -> bool:
        return self._clock() - self._heard.get(by, -SILENT_SECONDS) < SILENT_SECONDS

    def _others(self, by: str) -> set[str]:
        """Regions that others look at."""
        return {region_id for who, region_id in self._out.items() if who != by and self._lives(who)}

    def _next(self, by: str) -> str | None:
        others, skipped = self._others(by), self._skipped.get(by, {})
        for region_id in self._left:
            if region_id not in others and region_id not in skipped:
                return region_id
        # All that is left was skipped: from the first one on again.
        again = next((each for each in skipped if each in self._left and each not in others), None)
        if again is not None:
            del skipped[again]
        return again

    def _put_out(self, by: str, region_id: str | None, turn: str = "") -> None:
        """Gives a region to an annotator; None: they have none. Whoever was silent for too long has lost theirs."""
        out = {who: mine for who, mine in self._out.items() if who != by and mine != region_id and self._lives(who)}
        if region_id is not None:
            out[by] = region_id
        turns = {**self._turns, by: turn} if turn else self._turns
        skipped = {who: [*ids] for who, ids in self._skipped.items()}
        self._place.write_json(_STATE, {"out": out, "skipped": skipped, "turns": turns})
        self._out, self._turns = out, turns

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
        for name, data in read_all(self._place, self._place.files(_DIRECTORY)):
            try:
                each = Answer(**json.loads(data))
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{self._place.uri}/{name} is no answer of this page ({one_line(error)}): restore it, or put "
                    f"lists right into {ANSWERS}/"
                ) from error
            if each.id in self.regions:
                found.append(each)
        return found

    def _stored_state(self) -> tuple[dict[str, str], dict[str, dict[str, None]], dict[str, str]]:
        """The region that each annotator looks at, those that they have skipped, and their last turn."""
        if not self._place.exists(_STATE):
            return {}, {}, {}
        found = self._place.read_json(_STATE)
        try:
            out = {str(who): str(each) for who, each in found["out"].items() if each in self.regions}
            skipped = {str(who): dict.fromkeys(map(str, ids)) for who, ids in found["skipped"].items()}
            return out, skipped, {str(who): str(turn) for who, turn in found.get("turns", {}).items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise self._place.damaged(_STATE, "it is not the state of a page") from error


def _file(region_id: str) -> str:
    return f"{_DIRECTORY}/{region_id}.jsonl"
