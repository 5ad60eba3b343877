"""What the desk says while a run reads the round, and what it sees of people's lists and templates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_that_reads import buy
from small_round import CLASSES, Clock, ask

from halo_ray.annotations.desk import LOOK_SECONDS, ClosedError, ConflictError, Desk, UndecidedError
from halo_ray.annotations.folder import MARKER, folder
from halo_ray.annotations.reading import look, reading
from halo_ray.benchmarks.object_store import ObjectStore
from halo_ray.errors import AnswersNeededError, InputError
from halo_ray.lock import Process, locked
from halo_ray.storage import Storage

FIRST, SECOND = "r2-1-0000", "r2-2-0000"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return ask(Storage(str(tmp_path), patience=1), 6)


@pytest.fixture
def place(storage: Storage) -> Path:
    return Path(folder(storage, 2).root)


@pytest.fixture
def desk(storage: Storage, clock: Clock) -> Desk:
    return Desk(storage, 2, CLASSES, clock)


class Run:
    """A run that reads the round until it is told how that ends."""

    def __init__(self, storage: Storage) -> None:
        self._storage, self._stack = storage, ExitStack()

    def begin(self) -> None:
        self._stack.enter_context(reading(self._storage, 2))

    def buys(self, **labels: int) -> None:
        with self._stack:
            buy(self._storage, 2, {name.replace("_", "-"): label for name, label in labels.items()})

    def waits(self) -> None:
        with pytest.raises(AnswersNeededError), self._stack:
            raise AnswersNeededError("too few")


@pytest.fixture
def run(storage: Storage) -> Run:
    return Run(storage)


@pytest.fixture
def begins_at_the_store(desk: Desk, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run begins to read after the desk has looked, and before it stores."""
    store = desk._store

    def late(*given: object) -> None:
        monkeypatch.setattr(desk, "_store", store)
        run.begin()
        store(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(desk, "_store", late)


def files(place: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in (place / "answers/page").glob("*.jsonl")}


def test_nothing_is_stored_while_a_run_reads(desk: Desk, run: Run, place: Path) -> None:
    desk.answer("anna", FIRST, "sky")
    run.begin()
    for act in (lambda: desk.answer("anna", SECOND, "sky"), lambda: desk.undo("anna")):
        with pytest.raises(UndecidedError, match=f"process {Process.own().pid} .* is reading the answers"):
            act()
    assert files(place) == {FIRST}
    desk.answer("anna", FIRST, "sky")  # which it has
    assert desk.take("anna") is not None
    run.waits()
    desk.answer("anna", SECOND, "sky")
    desk.undo("anna")
    assert files(place) == {FIRST}


@pytest.mark.usefixtures("begins_at_the_store")
@pytest.mark.parametrize("asks_again", [True, False])
def test_an_answer_that_a_run_may_have_missed_counts_when_it_gives_up(
    desk: Desk, run: Run, place: Path, asks_again: bool
) -> None:
    with pytest.raises(UndecidedError):
        desk.answer("anna", FIRST, "sky")
    assert desk.progress("anna")["answered"] == 0
    with pytest.raises(UndecidedError):
        desk.answer("anna", FIRST, "sky")
    assert [desk.take(by).id for by in ("ben", "carl")] == [SECOND, "r2-3-0000"]  # type: ignore[union-attr]
    run.waits()
    if asks_again:
        desk.answer("anna", FIRST, "sky")
    desk.take("anna")
    assert desk.progress("anna")["answered"] == desk.progress("anna")["mine"] == 1
    assert files(place) == {FIRST}
    with pytest.raises(ConflictError, match="somebody else has this region"):
        desk.answer("ben", FIRST, "road")


@pytest.mark.usefixtures("begins_at_the_store")
@pytest.mark.parametrize(("bought", "accepted"), [({"r2_1_0000": 1}, True), ({"r2_1_0000": 0}, False), ({}, False)])
def test_an_answer_that_a_run_may_have_missed_counts_if_it_was_bought(
    desk: Desk, run: Run, place: Path, bought: dict[str, int], accepted: bool
) -> None:
    with pytest.raises(UndecidedError):
        desk.answer("anna", FIRST, "sky")
    run.buys(**bought)
    if accepted:
        desk.answer("anna", FIRST, "sky")
    else:
        with pytest.raises(ClosedError, match="round 2 has been read"):
            desk.answer("anna", FIRST, "sky")
    assert files(place) == ({FIRST} if accepted else set())


@pytest.mark.parametrize(("bought", "accepted"), [(1, False), (0, True)])
def test_another_label_counts_if_it_was_bought(
    desk: Desk, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, bought: int, accepted: bool
) -> None:
    desk.answer("anna", FIRST, "sky")
    before = (place / f"answers/page/{FIRST}.jsonl").read_bytes()
    store = desk._store
    monkeypatch.setattr(desk, "_store", lambda *given: (run.begin(), store(*given)))
    with pytest.raises(UndecidedError):
        desk.answer("anna", FIRST, "road")
    monkeypatch.setattr(desk, "_store", store)
    with pytest.raises(UndecidedError):  # neither does the first one count for certain
        desk.answer("anna", FIRST, "sky")
    run.buys(r2_1_0000=bought)
    if accepted:
        desk.answer("anna", FIRST, "road")
    else:
        with pytest.raises(ClosedError):
            desk.answer("anna", FIRST, "road")
        desk.answer("anna", FIRST, "sky")
    assert ((place / f"answers/page/{FIRST}.jsonl").read_bytes() == before) is not accepted


@pytest.mark.parametrize("bought", [True, False])
def test_an_undo_counts_if_the_answer_was_not_bought(
    desk: Desk, run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, bought: bool
) -> None:
    desk.answer("anna", FIRST, "sky")
    store = desk._store
    monkeypatch.setattr(desk, "_store", lambda *given: (run.begin(), store(*given)))
    with pytest.raises(UndecidedError):
        desk.undo("anna", "turn 1")
    monkeypatch.setattr(desk, "_store", store)
    with pytest.raises(UndecidedError):
        desk.undo("anna", "turn 1")
    run.buys(**({"r2_1_0000": 1} if bought else {}))
    if bought:
        with pytest.raises(ClosedError):
            desk.undo("anna", "turn 1")
    else:
        desk.undo("anna", "turn 1")
    assert files(place) == ({FIRST} if bought else set())


def test_an_answer_whose_reply_was_lost_is_accepted_after_the_purchase(desk: Desk, run: Run) -> None:
    desk.answer("anna", FIRST, "can't tell")
    run.begin()
    run.buys(r2_1_0000=255)
    desk.answer("anna", FIRST, "can't tell")
    with pytest.raises(ClosedError):
        desk.answer("anna", FIRST, "sky")


def test_a_page_is_not_opened_before_a_run_has_read(desk: Desk, run: Run, storage: Storage) -> None:
    desk.answer("anna", FIRST, "sky")
    run.begin()
    with pytest.raises(UndecidedError, match="is reading"):  # whether it has seen that answer is not known
        Desk(storage, 2, CLASSES)
    run.waits()
    assert Desk(storage, 2, CLASSES).progress("anna")["answered"] == 1
    buy(storage, 2, {})
    with pytest.raises(ClosedError):
        Desk(storage, 2, CLASSES)


def gone() -> dict[str, object]:
    return asdict(replace(Process.own(), started=Process.own().started - 1000))


def test_a_marker_of_a_run_that_is_over_means_nothing(storage: Storage, desk: Desk, place: Path) -> None:
    marker = folder(storage, 2)
    marker.write_sealed(MARKER, {"run": None, "process": gone()})
    desk.answer("anna", FIRST, "sky")
    elsewhere = {**gone(), "host": "elsewhere"}  # of which nobody here can tell whether it lives
    marker.write_sealed(MARKER, {"run": None, "process": elsewhere})
    with pytest.raises(UndecidedError, match="elsewhere"):
        desk.answer("anna", SECOND, "sky")
    with locked(storage, 5) as held:
        assert held.guard is not None
        marker.write_sealed(MARKER, {"run": held.guard.run, "process": elsewhere})
        with pytest.raises(UndecidedError, match="elsewhere"):
            desk.answer("anna", SECOND, "sky")
        marker.write_sealed(MARKER, {"run": "0123456789abcdef", "process": elsewhere})  # which was taken over
        assert look(storage, 2).reader is None
        marker.write_sealed(MARKER, {"run": held.guard.run, "process": elsewhere})
        storage.write("halo_ray.json", b"")
    storage.write("stages/x.json", b"")
    desk.answer("anna", SECOND, "sky")
    assert files(place) == {FIRST, SECOND}


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b'{"run": 1}'])
def test_a_damaged_marker_is_named_until_the_answers_are_bought(storage: Storage, desk: Desk, data: bytes) -> None:
    folder(storage, 2).write(MARKER, data)
    with pytest.raises(InputError, match=r"answers/page/\.reading\.json is damaged"):
        desk.answer("anna", FIRST, "sky")
    buy(storage, 2, {})
    with pytest.raises(ClosedError):
        desk.answer("anna", FIRST, "sky")


def draw(place: Path, name: str = "templates/a.png", **numbers: int) -> None:
    """A template of six regions; of some the pixel at the upper left has another number."""
    pixels = np.full((24, 8), 255, np.uint8)
    for n in range(1, 7):
        pixels[3 * n - 1 : 3 * n + 2, 2:5] = 254
        pixels[3 * n - 1, 2] = numbers.get(f"r{n}", 254)
    (place / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place / name)


def told_by_list(place: Path) -> str:
    (place / "answers/anna").mkdir(parents=True)
    (place / "answers/anna/late.csv").write_text(f"{FIRST},sky\n")
    return "answers/anna/late.csv"


def told_by_template(place: Path) -> str:
    draw(place, r1=1)
    return "templates/a.png"


def told_as_nobody_can_tell(place: Path) -> str:
    draw(place, r1=255)
    return "templates/a.png"


def told_by_copy(place: Path) -> str:
    draw(place, "answers/from/a.png", r1=1)
    return "answers/from/a.png"


@pytest.mark.parametrize(
    "tells", [told_by_list, told_by_template, told_as_nobody_can_tell, told_by_copy], ids=lambda each: each.__name__
)
def test_what_people_say_elsewhere_meanwhile_is_refused_and_not_asked(
    desk: Desk, place: Path, clock: Clock, tells: Callable[[Path], str]
) -> None:
    draw(place)
    assert desk.take("anna").id == FIRST  # type: ignore[union-attr]
    name = tells(place)
    with pytest.raises(ConflictError, match=name):
        desk.answer("anna", FIRST, "sky")
    assert files(place) == set()
    assert desk.take("anna").id == SECOND  # type: ignore[union-attr]
    assert desk.progress("anna")["answered"] == 1
    desk.answer("anna", SECOND, "sky")
    (place / name).unlink()  # they think better of it
    clock.now += LOOK_SECONDS
    assert desk.take("ben").id == FIRST  # type: ignore[union-attr]
    desk.answer("ben", FIRST, "road")
    assert files(place) == {FIRST, SECOND}


def test_a_list_that_comes_while_nobody_answers_is_seen(desk: Desk, place: Path, clock: Clock) -> None:
    told_by_list(place)
    clock.now += LOOK_SECONDS
    assert desk.take("anna").id == SECOND  # type: ignore[union-attr]


def test_a_template_that_cannot_be_read_holds_its_regions_back(desk: Desk, place: Path) -> None:
    draw(place)
    data = (place / "templates/a.png").read_bytes()
    (place / "templates/a.png").write_bytes(data[:-20])
    with pytest.raises(ConflictError, match=r"templates/a\.png"):
        desk.answer("anna", FIRST, "sky")
    (place / "templates/a.png").write_bytes(data)
    desk.answer("anna", FIRST, "sky")


def test_a_list_that_is_said_again_in_other_words_is_read_again(desk: Desk, place: Path) -> None:
    told_by_list(place)
    with pytest.raises(ConflictError, match=r"late\.csv"):
        desk.answer("anna", FIRST, "sky")
    (place / "answers/anna/late.csv").write_text(f"{SECOND},sky\n")  # as long as it was
    desk.answer("anna", FIRST, "sky")
    with pytest.raises(ConflictError, match=r"late\.csv"):
        desk.answer("anna", SECOND, "sky")


def test_a_desk_in_an_object_store(s3: ObjectStore, tmp_path: Path) -> None:
    storage = ask(Storage(s3.uri("desk/reading"), patience=1), 6)
    place, run = folder(storage, 2), Run(storage)
    draw(tmp_path)
    place.write("templates/a.png", (tmp_path / "templates/a.png").read_bytes())
    place.write("answers/anna/first.csv", f"{FIRST},sky\n".encode())
    desk = Desk(storage, 2, CLASSES)
    assert desk.take("anna").id == SECOND  # type: ignore[union-attr]
    desk.answer("anna", SECOND, "sky")
    place.write("answers/late.csv", b"id,label\nr2-3-0000,sky\n")
    with pytest.raises(ConflictError, match=r"answers/late\.csv"):
        desk.answer("anna", "r2-3-0000", "sky")
    draw(tmp_path, r4=1)
    place.write("answers/anna/a.png", (tmp_path / "templates/a.png").read_bytes())
    with pytest.raises(ConflictError, match=r"answers/anna/a\.png"):
        desk.answer("anna", "r2-4-0000", "sky")
    draw(tmp_path, r4=1, r5=1)
    place.write("templates/a.png", (tmp_path / "templates/a.png").read_bytes())
    with pytest.raises(ConflictError, match=r"templates/a\.png"):
        desk.answer("anna", "r2-5-0000", "sky")
    run.begin()
    with pytest.raises(UndecidedError):
        desk.undo("anna")
    run.waits()
    desk.answer("anna", "r2-6-0000", "sign")
    desk.undo("anna")
    run.begin()
    run.buys(r2_2_0000=1)
    with pytest.raises(ClosedError):
        desk.undo("anna")
    assert place.files("answers/page") == [MARKER, f"answers/page/{SECOND}.jsonl"]
