"""Annotators answer, change their minds and take back while runs read the round: what is accepted is what is bought."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from run_that_reads import answers_now, bought_labels, read_and
from small_round import CLASSES, ask

from halo_ray.annotations import desk as desk_module
from halo_ray.annotations.desk import ClosedError, ConflictError, Desk, UndecidedError
from halo_ray.annotations.folder import MARKER, folder
from halo_ray.annotations.reading import Seen, look
from halo_ray.lock import Process
from halo_ray.storage import Storage

ROUND, REGIONS = 2, 10
TRIALS = int(os.environ.get("HALO_RAY_TRIALS", "25"))
LABELS = (*CLASSES.classes, "can't tell")


class KilledError(BaseException):
    """The page's process is no more."""


class Life:
    """A page's process: after its end it changes nothing. Stands where its lock's guard does."""

    run = "0" * 16

    def __init__(self) -> None:
        self.over, self.mutex = False, threading.RLock()

    def __call__(self) -> None:
        pass

    def end(self) -> None:
        with self.mutex:
            self.over = True


class Page:
    """The desk of a page that is killed and started again."""

    def __init__(self, storage: Storage) -> None:
        self._storage, self.closed = storage, False
        self.start()

    def start(self) -> None:
        self._life = Life()
        while not self.closed:
            try:
                self.desk = Desk(self._storage.guarded(self._life), ROUND, CLASSES)
                return
            except UndecidedError:  # noqa: PERF203 (it waits)
                time.sleep(0.001)
            except ClosedError:
                self.closed = True

    def restart(self) -> None:
        self._life.end()
        self.start()


@dataclass
class Annotator:
    """Somebody who asks the desk for random things, as the page does: again where the desk cannot say yet."""

    name: str
    page: Page
    chance: random.Random
    over: threading.Event
    """The answers were bought a while ago."""
    counts: dict[str, str | None] = field(default_factory=dict)
    """The label of each region that was accepted; None: its undo was."""
    unknown: set[str] = field(default_factory=set)
    """Regions of which the desk was never asked again."""
    refused: int = 0
    order: list[str] = field(default_factory=list)
    """Regions that were answered, the last one last."""
    turn: int = 0

    def work(self) -> None:
        while not self.over.is_set():
            time.sleep(self.chance.random() * 0.004)
            try:
                self.step()
            except ClosedError:
                self.refused += 1
                return
            except (ConflictError, KilledError):
                continue

    def step(self) -> None:
        region = self.page.desk.take(self.name)
        what = self.chance.random()
        if what < 0.25 and self.order:
            mine = self.order[-1]
            self.turn += 1
            self.certain(mine, lambda: self.page.desk.undo(self.name, str(self.turn)))
            self.counts[mine] = None
            self.order.pop()
        elif what < 0.4 and self.order:
            self.give(self.chance.choice(self.order))
        elif region is not None and what < 0.9:
            self.give(region.id)
        elif region is not None:
            self.page.desk.skip(self.name)

    def give(self, region_id: str) -> None:
        label = self.chance.choice(LABELS)
        self.certain(region_id, lambda: self.page.desk.answer(self.name, region_id, label))
        if self.counts.get(region_id) != label:  # else nothing was changed
            self.order = [*(each for each in self.order if each != region_id), region_id]
        self.counts[region_id] = label

    def certain(self, region_id: str, act: Callable[[], None]) -> None:
        """Asks until it is done or refused, or now and then gives up before that."""
        for _ in range(1000 if self.chance.random() < 0.9 else 1):
            if self.page.closed:
                break
            with suppress(UndecidedError, KilledError):
                return act()
            time.sleep(0.001)
        self.unknown.add(region_id)
        raise ClosedError("nobody asks again")


def dead() -> dict[str, Any]:
    return asdict(replace(Process.own(), started=Process.own().started - 1000))


def runs(storage: Storage, chance: random.Random) -> None:
    """Some runs that find too few answers, or die, and one that buys them."""
    for _ in range(chance.randrange(4)):
        time.sleep(chance.random() * 0.02)
        if chance.random() < 0.5:
            read_and("wait", storage, ROUND, CLASSES, chance.random() * 0.01)
        else:
            place = folder(storage, ROUND)
            place.write_sealed(MARKER, {"run": None, "process": asdict(Process.own())})
            answers_now(storage, ROUND, CLASSES)
            place.write_sealed(MARKER, {"run": None, "process": dead()})
    time.sleep(chance.random() * 0.03)
    read_and("buy", storage, ROUND, CLASSES, chance.random() * 0.01)


@pytest.fixture
def jittery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every access to a storage takes a random while, so that all orders of events come up; no disk is waited for."""
    patiently = Storage._patiently

    def slow(self: Storage, name: str, operation: Callable[[], Any]) -> Any:
        life = self.guard if isinstance(self.guard, Life) else Life()
        time.sleep(random.random() ** 4 * 0.004)
        with life.mutex:
            if life.over:
                raise KilledError
            found = patiently(self, name, operation)
        time.sleep(random.random() ** 4 * 0.004)
        return found

    monkeypatch.setattr(Storage, "_patiently", slow)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def trial(directory: Path, seed: int, *, kills: bool) -> tuple[int, int]:
    """How many answers were bought, and how many annotators were refused."""
    storage, chance = ask(Storage(str(directory)), REGIONS), random.Random(seed)
    page, over = Page(storage), threading.Event()
    people = [Annotator(f"annotator {n}", page, random.Random(f"{seed}/{n}"), over) for n in range(3)]
    threads = [threading.Thread(target=each.work) for each in people]
    threads.append(threading.Thread(target=runs, args=(storage, chance)))
    for thread in threads:
        thread.start()
    while threads[-1].is_alive():
        threads[-1].join(0.03 + chance.random() * 0.1)
        if kills:
            page.restart()
    over.wait(0.1)
    over.set()
    for thread in threads:
        thread.join()
    bought = bought_labels(storage, ROUND, CLASSES)
    unknown = {region_id for each in people for region_id in each.unknown}
    accepted = {region_id: label for each in people for region_id, label in each.counts.items() if label is not None}
    assert {k: v for k, v in accepted.items() if k not in unknown} == {
        k: v for k, v in bought.items() if k not in unknown
    }, f"seed {seed}"
    # What was refused does not lie there as if it had been given.
    if not unknown:
        assert answers_now(storage, ROUND, CLASSES).keys() == bought.keys(), f"seed {seed}"
    return len(bought), sum(each.refused for each in people)


@pytest.mark.usefixtures("jittery")
@pytest.mark.parametrize("kills", [False, True])
def test_what_is_accepted_is_what_is_bought(tmp_path: Path, kills: bool) -> None:
    done = [trial(tmp_path / str(seed), seed, kills=kills) for seed in range(TRIALS)]
    assert sum(bought for bought, _ in done) > TRIALS / 2
    assert sum(refused for _, refused in done) > TRIALS


@pytest.mark.usefixtures("jittery")
@pytest.mark.parametrize("blind", ["marker", "ledger"])
def test_the_trials_see_a_desk_that_does_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: str) -> None:
    def looks(storage: Storage, number: int) -> Seen:
        return replace(look(storage, number), reader=None) if blind == "marker" else Seen(False, None)

    monkeypatch.setattr(desk_module, "look", looks)

    def trials() -> None:
        for seed in range(200):
            trial(tmp_path / str(seed), seed, kills=False)

    with pytest.raises(AssertionError, match="seed"):
        trials()
