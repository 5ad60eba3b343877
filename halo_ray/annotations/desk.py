"""The desk at which several annotators answer a round: who looks at which region, and what was answered."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.annotations.desk_files import (
    Answer,
    Asked,
    State,
    answer_file,
    read_answers_of_page,
    read_requests,
    read_state,
    write_state,
)
from halo_ray.annotations.elsewhere import Elsewhere
from halo_ray.annotations.folder import CANT_TELL, folder
from halo_ray.annotations.ledger import Ledger
from halo_ray.annotations.reading import Seen, look
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.errors import InputError
from halo_ray.patience import reason
from halo_ray.storage import Storage

SILENT_SECONDS = 120.0
"""After which a region goes to somebody else, where its annotator's page gives no sign of life."""

RATE_SECONDS = 300.0
"""Of which the rate is the mean."""

LOOK_SECONDS = 5.0
"""How often the desk looks for new lists while nobody answers."""


class ConflictError(InputError):
    """Somebody else has answered this region, or what is asked cannot be done."""


class ClosedError(ConflictError):
    """A run has bought the answers of the round."""


class UndecidedError(InputError):
    """A run is reading the answers: the same request again, in a moment, is told whether it counts."""


@dataclass
class _Change:
    """An answer that is given, changed or taken back."""

    before: Answer | None
    after: Answer | None
    stored: bool = False
    """``after`` is what the storage holds."""


class Desk:
    """Deals the regions of a round out, so that no two annotators get the same one; safe for threads.

    An answer is accepted exactly if the run that buys the round's answers will see it, and so is an undo: it is stored,
    in a file of its own, and then the desk looks whether a run was reading meanwhile (see reading). What only a person
    does afterwards is beyond it, such as a list that disagrees. Regions that are out and those that were skipped are
    stored too: a desk that was killed goes on where it was.

    Raises:
        InputError: the round asks nothing, or a file of it is damaged.
        ClosedError: its answers are bought.
        UndecidedError: a run is reading them; whether it saw the last ones is known when it has ended.
    """

    def __init__(
        self, storage: Storage, number: int, classes: ClassSet, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage, self._place, self._number = storage, folder(storage, number), number
        self._classes, self._clock = classes, clock
        self._lock = threading.RLock()
        self.regions = read_requests(self._place, number)
        self._answers = read_answers_of_page(self._place, classes, self.regions)
        self._unsure: dict[str, _Change] = {}
        """By region, what was asked of the desk and is not decided yet; until then ``before`` counts."""
        self._check_open(look(storage, number))
        self._state = read_state(self._place, self.regions)
        self._elsewhere, self._looked = Elsewhere(self._place, number, classes, self.regions), clock()
        self._left = self._unanswered()
        """Regions without an answer, in the order of the list."""
        self._by = Counter(each.by for each in self._answers.values())
        self._order = max((each.order for each in self._answers.values()), default=0)
        self._given: list[tuple[float, str]] = []
        self._heard: dict[str, float] = dict.fromkeys(self._state.out, clock())

    def take(self, by: str) -> Asked | None:
        """The region that an annotator is to answer: the one they have, or the next; None: nothing is left for them.

        Raises:
            ClosedError: nothing more is asked.
        """
        with self._lock:
            self.hear(by)
            if self._settle().bought:
                raise self._closed()
            self._look(LOOK_SECONDS)
            mine = self._state.out.get(by)
            if mine not in self._left or self._told(mine):
                mine = self._next(by)
                self._put_out(by, mine)
            return None if mine is None else self.regions[mine]

    def answer(self, by: str, region_id: str, label: str) -> None:
        """Stores an answer; the same one again changes nothing.

        Raises:
            ConflictError: somebody else has answered it, or is about to.
            ClosedError: the answers are bought, without this one.
            UndecidedError: a run is reading the answers.
            InputError: unknown region or label; the storage failed.
        """
        with self._lock:
            self.hear(by)
            if region_id not in self.regions:
                raise InputError(f"id {region_id!r} is none of this round: load the page again")
            if label not in (*self._classes.classes, CANT_TELL[0]):
                raise InputError(f"label {label!r} is no class: load the page again")
            seen, before = self._settle(), self._answers.get(region_id)
            if (before is not None and before.by != by) or region_id in self._others(by):
                raise ConflictError("somebody else has this region meanwhile: here is another one")
            if region_id in self._unsure:
                self._check_open(seen, region_id)
            if before is not None and before.label == label:  # told twice, since our reply was lost
                return
            given = Answer(region_id, label, by, self._order + 1)
            if seen.bought and self._is_bought(given):  # told twice, and read in between
                return
            self._check_open(seen, region_id)
            self._look(0)
            if (file := self._told(region_id)) is not None:
                raise ConflictError(f"{file} says something of this region meanwhile: here is another one")
            self._order += 1
            self._change(region_id, before, given)

    def undo(self, by: str, turn: str = "") -> None:
        """Takes the annotator's last answer back; its region is theirs again.

        Args:
            turn: names this request: told twice, since our reply was lost, it is done once.

        Raises:
            ConflictError: they have answered nothing.
            ClosedError: the answers are bought, with this one.
            UndecidedError: a run is reading the answers.
        """
        with self._lock:
            self.hear(by)
            seen = self._settle()
            again = turn and self._state.turns.get(by) == turn
            mine = [each for each in self._answers.values() if each.by == by]
            if again:  # done, but for the answer where it was cut off before that
                mine = [each for each in mine if each.id == self._state.out.get(by)]
                if not mine:
                    return
            if not mine:
                raise ConflictError("there is nothing to take back")
            last = max(mine, key=lambda each: each.order)
            self._check_open(seen, last.id)
            self._put_out(by, last.id, turn)  # first, so that nobody else gets it
            self._change(last.id, last, None)

    def skip(self, by: str, turn: str = "") -> None:
        """Leaves the annotator's region to others; it comes back to them when nothing else is left.

        Args:
            turn: as for undo.
        """
        with self._lock:
            self.hear(by)
            if turn and self._state.turns.get(by) == turn:
                return
            mine = self._state.out.get(by)
            if mine is not None and mine in self._left:
                self._state.skipped.setdefault(by, {})[mine] = None
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
                "annotators": len({who for who in self._state.out if self._lives(who)} | {by}),
            }

    def _change(self, region_id: str, before: Answer | None, after: Answer | None) -> None:
        """Stores what counts for a region from now on; returns when it is certain that it does.

        Raises:
            ClosedError, UndecidedError: as in answer and undo.
        """
        self._unsure[region_id] = _Change(before, after)
        seen = self._settle()
        if self._answers.get(region_id) is not after or region_id in self._unsure:
            self._check_open(seen, region_id)

    def _settle(self) -> Seen:
        """Decides what is unsure, unless a run is reading at this moment."""
        for region_id, change in [*self._unsure.items()]:
            if not change.stored:
                self._store(region_id, change.after)
                change.stored = True
        seen = look(self._storage, self._number)  # afterwards: that is what makes it certain
        if seen.reader is None:
            for region_id, change in [*self._unsure.items()]:
                counts = not seen.bought or self._is_bought_after(change)
                if not counts:
                    self._store(region_id, change.before)
                del self._unsure[region_id]
                self._count(region_id, change.after if counts else change.before)
        return seen

    def _store(self, region_id: str, given: Answer | None) -> None:
        name = answer_file(region_id)
        try:
            self._place.write(name, given.data()) if given is not None else self._place.delete(name)
        except OSError as error:  # of those that no patience changes
            self._unsure.pop(region_id, None)
            raise InputError(f"{self._place.uri}/{name} cannot be written ({reason(error)}): move it away") from error

    def _count(self, region_id: str, given: Answer | None) -> None:
        """Makes an answer, or none, the one that counts."""
        before = self._answers.pop(region_id, None)
        if before is not None:
            self._by[before.by] -= 1
        if given is None:
            self._left = self._unanswered()
            return
        self._answers[region_id] = given
        self._by[given.by] += 1
        self._left.pop(region_id, None)
        if given is not before:
            self._given.append((self._clock(), given.by))

    def _check_open(self, seen: Seen, region_id: str = "") -> None:
        """Raises where nothing can be said of a region, or nothing more of any."""
        if seen.bought:
            raise self._closed()
        if seen.reader is not None or region_id in self._unsure:
            raise UndecidedError(f"{seen.reader or 'a run'} is reading the answers: try again in a moment")

    def _closed(self) -> ClosedError:
        return ClosedError(f"round {self._number} has been read: nothing more is asked, thank you")

    def _is_bought_after(self, change: _Change) -> bool:
        """Whether the ledger is as a change has it."""
        if change.after is not None:
            return self._is_bought(change.after)
        return change.before is None or not self._is_bought(change.before)

    def _is_bought(self, given: Answer) -> bool:
        """Whether the ledger has this answer; its file need not have its checksum yet."""
        region, file = self.regions[given.id], Ledger.file(self._number)
        columns = ["image_id", "region_y", "region_x", "label"]
        rows = self._storage.as_table(file, self._storage.read(file), columns)
        for name, value in zip(columns, (region.image, region.y, region.x), strict=False):
            rows = rows.filter(pc.equal(rows[name], pa.scalar(value, rows[name].type)))
        names = self._classes.classes
        return set(rows["label"].to_pylist()) == {names.index(given.label) if given.label in names else IGNORE}

    def _look(self, seconds: float) -> None:
        """Looks for new lists, if that was done longer ago."""
        if self._clock() - self._looked >= seconds:
            if self._elsewhere.look():
                self._left = self._unanswered()
            self._looked = self._clock()

    def _told(self, region_id: str | None) -> str | None:
        """The file in which people say something of a region, which is asked no more then."""
        file = None if region_id is None else self._elsewhere.says(self.regions[region_id])
        if region_id is not None and file is not None:
            self._left.pop(region_id, None)
        return file

    def _unanswered(self) -> dict[str, None]:
        told = self._elsewhere.told
        return {each: None for each in self.regions if each not in self._answers and each not in told}

    def _lives(self, by: str) -> bool:
        return self._clock() - self._heard.get(by, -SILENT_SECONDS) < SILENT_SECONDS

    def _others(self, by: str) -> set[str]:
        """Regions that others look at."""
        return {region_id for who, region_id in self._state.out.items() if who != by and self._lives(who)}

    def _next(self, by: str) -> str | None:
        others, skipped = self._others(by) | {*self._unsure}, self._state.skipped.get(by, {})
        for region_id in [*self._left]:
            if region_id not in others and region_id not in skipped and self._told(region_id) is None:
                return region_id
        # All that is left was skipped: from the first one on again.
        again = next((each for each in [*skipped] if each in self._left and each not in others), None)
        if again is not None:
            del skipped[again]
        return again

    def _put_out(self, by: str, region_id: str | None, turn: str = "") -> None:
        """Gives a region to an annotator; None: they have none. Whoever was silent for too long has lost theirs."""
        had = self._state
        out = {who: mine for who, mine in had.out.items() if who != by and mine != region_id and self._lives(who)}
        if region_id is not None:
            out[by] = region_id
        state = State(out, had.skipped, {**had.turns, by: turn} if turn else had.turns)
        write_state(self._place, state)
        self._state = state
