"""The desk deals regions out to several annotators: none is answered twice, and none is lost, whatever is killed."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from pathlib import Path

import pytest
from run_that_reads import buy
from small_round import CLASSES, Clock, ask

from halo_ray.annotations.desk import SILENT_SECONDS, ConflictError, Desk
from halo_ray.annotations.desk_files import Answer
from halo_ray.errors import InputError
from halo_ray.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return ask(Storage(str(tmp_path)), 6)


@pytest.fixture
def desk(storage: Storage, clock: Clock) -> Desk:
    return Desk(storage, 2, CLASSES, clock)


def taken(desk: Desk, by: str) -> int | None:
    """The number of the region that an annotator has."""
    region = desk.take(by)
    return None if region is None else int(region.id.split("-")[1])


def answer(desk: Desk, by: str, label: str = "road") -> None:
    region = desk.take(by)
    assert region is not None
    desk.answer(by, region.id, label)


def stored(storage: Storage) -> dict[str, str]:
    """What the folder says to those who read it."""
    files = Path(storage.path("requests/round-002/answers/page")).glob("*.jsonl")
    return {found["id"]: found["label"] for file in files for found in [json.loads(file.read_text())]}


def test_two_annotators_never_have_the_same_region(desk: Desk) -> None:
    assert taken(desk, "anna") == 1
    assert taken(desk, "ben") == 2
    assert taken(desk, "anna") == 1  # who loads the page again
    answer(desk, "anna")
    assert taken(desk, "anna") == 3
    assert taken(desk, "ben") == 2


def test_an_answer_is_stored_before_it_counts(desk: Desk, storage: Storage) -> None:
    answer(desk, "anna", "sky")
    answer(desk, "ben", "can't tell")
    assert stored(storage) == {"r2-1-0000": "sky", "r2-2-0000": "can't tell"}


def test_an_undo_takes_the_last_answer_back(desk: Desk, storage: Storage) -> None:
    answer(desk, "anna", "sky")
    answer(desk, "ben")
    answer(desk, "anna", "sign")
    assert taken(desk, "anna") == 4
    desk.undo("anna")
    assert taken(desk, "anna") == 3
    assert stored(storage) == {"r2-1-0000": "sky", "r2-2-0000": "road"}
    assert taken(desk, "carl") == 4  # which anna has given back
    desk.undo("anna")
    assert taken(desk, "anna") == 1
    with pytest.raises(ConflictError, match="nothing to take back"):
        desk.undo("anna")
    answer(desk, "anna", "road")
    assert stored(storage)["r2-1-0000"] == "road"


def test_what_is_skipped_comes_back_last(desk: Desk) -> None:
    desk.take("anna")
    desk.skip("anna")
    assert taken(desk, "anna") == 2
    desk.skip("anna")
    assert taken(desk, "ben") == 1  # others get it at once
    for _ in range(4):
        answer(desk, "anna")
    assert taken(desk, "anna") == 2
    answer(desk, "ben")
    answer(desk, "anna")
    assert taken(desk, "anna") is None


def test_when_all_that_is_left_was_skipped_it_goes_round(desk: Desk) -> None:
    for _ in range(13):
        desk.take("anna")
        desk.skip("anna")
    assert taken(desk, "anna") == 2  # 6 regions twice, and the first one


def test_nothing_is_left_while_others_look_at_the_last_one(desk: Desk, clock: Clock) -> None:
    for _ in range(5):
        answer(desk, "anna")
    assert taken(desk, "anna") == 6
    assert taken(desk, "ben") is None
    clock.now += SILENT_SECONDS - 1
    assert taken(desk, "ben") is None
    clock.now += 2  # anna's page gives no sign of life
    assert taken(desk, "ben") == 6
    with pytest.raises(ConflictError, match="somebody else has this region meanwhile"):
        desk.answer("anna", "r2-6-0000", "sky")
    desk.answer("ben", "r2-6-0000", "road")
    with pytest.raises(ConflictError, match="somebody else has this region meanwhile"):
        desk.answer("anna", "r2-6-0000", "road")


def test_a_sign_of_life_keeps_a_region(desk: Desk, clock: Clock) -> None:
    desk.take("anna")
    for _ in range(4):
        clock.now += SILENT_SECONDS / 2
        desk.hear("anna")
        assert taken(desk, "ben") == 2
    assert taken(desk, "anna") == 1


def test_who_was_silent_may_still_answer_what_nobody_else_has(desk: Desk, clock: Clock, storage: Storage) -> None:
    desk.take("anna")
    clock.now += 10 * SILENT_SECONDS
    desk.answer("anna", "r2-1-0000", "sky")
    assert stored(storage) == {"r2-1-0000": "sky"}


def test_an_answer_that_is_told_twice_is_one(desk: Desk, storage: Storage) -> None:
    desk.take("anna")
    for _ in range(2):
        desk.answer("anna", "r2-1-0000", "sky")
    assert desk.progress("anna")["mine"] == 1
    answer(desk, "anna")
    desk.answer("anna", "r2-1-0000", "sky")  # and once more, late
    desk.undo("anna")
    assert stored(storage) == {"r2-1-0000": "sky"}


@pytest.mark.parametrize("label", ["sea", "", "0", "Road"])
def test_a_label_that_is_none_is_refused(desk: Desk, storage: Storage, label: str) -> None:
    with pytest.raises(InputError, match="is no class"):
        desk.answer("anna", "r2-1-0000", label)
    assert stored(storage) == {}


def test_a_region_that_is_none_is_refused(desk: Desk) -> None:
    with pytest.raises(InputError, match="is none of this round"):
        desk.answer("anna", "../../plan", "sky")


def test_a_desk_goes_on_where_another_one_was_killed(desk: Desk, storage: Storage, clock: Clock) -> None:
    answer(desk, "anna", "sky")
    answer(desk, "ben", "sign")
    desk.take("anna")
    desk.skip("anna")
    had = {by: taken(desk, by) for by in ("anna", "ben")}
    again = Desk(storage, 2, CLASSES, clock)
    assert taken(again, "carl") not in had.values()  # although the others have not been heard since
    assert {by: taken(again, by) for by in had} == had
    assert again.progress("anna")["answered"] == 2
    again.undo("ben")
    assert stored(storage) == {"r2-1-0000": "sky"}


def test_what_a_list_says_is_not_asked_again(storage: Storage) -> None:
    storage.write("requests/round-002/answers/mine.csv", b"id,label\nr2-2-0000,sky\n")
    desk = Desk(storage, 2, CLASSES)
    answer(desk, "anna")
    assert taken(desk, "anna") == 3
    assert desk.progress("anna")["answered"] == 2


def test_what_a_list_says_wrongly_is_asked(storage: Storage) -> None:
    at = Path(storage.path("requests/round-002/answers"))
    at.mkdir()
    (at / "sheet.csv").write_text("id,label\nr2-1-0000,\nr2-2-0000,raod\nr2-3-0000,sky\nr2-4-0000,sky\n")
    (at / "other.csv").write_text("id,label\nr2-4-0000,road\n")
    (at / ".hidden.csv").write_text("id,label\nr2-5-0000,road\n")
    desk = Desk(storage, 2, CLASSES)
    for number in (1, 2, 5, 6):  # of region 4 two lists say different things: a third answer would not settle that
        assert taken(desk, "anna") == number
        answer(desk, "anna")
    assert taken(desk, "anna") is None


def test_after_a_run_has_read_the_round_nothing_more_is_taken(desk: Desk, storage: Storage) -> None:
    answer(desk, "anna")
    buy(storage, 2, {"r2-1-0000": 0})
    for act in (lambda: desk.answer("anna", "r2-2-0000", "sky"), lambda: desk.undo("anna"), lambda: desk.take("anna")):
        with pytest.raises(ConflictError, match="round 2 has been read: nothing more is asked, thank you"):
            act()
    assert stored(storage) == {"r2-1-0000": "road"}


@pytest.mark.parametrize("killed", [False, True])
def test_what_is_told_twice_is_done_once(desk: Desk, storage: Storage, killed: bool) -> None:
    for _ in range(3):
        answer(desk, "anna")
    desk.undo("anna", "turn 1")
    desk = Desk(storage, 2, CLASSES) if killed else desk
    desk.undo("anna", "turn 1")
    assert sorted(stored(storage)) == ["r2-1-0000", "r2-2-0000"]
    desk.skip("anna", "turn 2")
    desk = Desk(storage, 2, CLASSES) if killed else desk
    assert taken(desk, "anna") == 4
    desk.skip("anna", "turn 2")
    assert taken(desk, "anna") == 4
    desk.undo("anna", "turn 3")
    assert sorted(stored(storage)) == ["r2-1-0000"]


def test_an_undo_that_was_cut_off_is_completed(desk: Desk, storage: Storage) -> None:
    answer(desk, "anna")
    name = "requests/round-002/answers/page/r2-1-0000.jsonl"
    before = storage.read(name)
    desk.undo("anna", "turn")
    storage.write(name, before)  # the region is hers again, and it was killed before the answer was deleted
    desk = Desk(storage, 2, CLASSES)
    desk.undo("anna", "turn")
    assert stored(storage) == {}
    assert taken(desk, "anna") == 1


def test_a_sign_of_life_does_not_wait_for_the_storage(desk: Desk) -> None:
    with desk._lock:  # as while it writes
        thread = threading.Thread(target=desk.hear, args=("anna",), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()


def test_rate_and_time(desk: Desk, clock: Clock) -> None:
    for by in ("anna", "anna", "ben", "anna"):
        answer(desk, by)
        clock.now += 15
    said = desk.progress("anna")
    assert (said["total"], said["answered"], said["mine"], said["annotators"]) == (6, 4, 3, 2)
    assert said["rate"] == pytest.approx(3)
    assert said["rate_all"] == pytest.approx(4)


def test_many_annotators_at_once_answer_everything_once(tmp_path: Path) -> None:
    storage = ask(Storage(str(tmp_path)), 120)
    desk, answers = Desk(storage, 2, CLASSES), Counter[str]()

    def work(by: str) -> None:
        chance = random.Random(by)
        while (region := desk.take(by)) is not None:
            what = chance.random()
            if what < 0.2:
                desk.skip(by)
            else:
                desk.answer(by, region.id, chance.choice(CLASSES.classes))
                answers[region.id] += 1

    threads = [threading.Thread(target=work, args=(f"annotator {n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while (region := desk.take("the last")) is not None:  # what was looked at when others found nothing
        desk.answer("the last", region.id, "sky")
        answers[region.id] += 1
    assert set(answers.values()) == {1}
    assert len(stored(storage)) == len(answers) == 120


@pytest.mark.parametrize(
    "name", ["requests.jsonl", "requests.jsonl.sha256", "page.json", "answers/page/r2-1-0000.jsonl"]
)
@pytest.mark.parametrize("what", ["cut", "empty", "half", "flipped", "deep", "null", "list", "another's"])
def test_a_damaged_file_is_named(desk: Desk, storage: Storage, name: str, what: str) -> None:
    answer(desk, "anna")
    answer(desk, "ben")
    desk.take("anna")
    file = Path(storage.path(f"requests/round-002/{name}"))
    data = file.read_bytes()
    others = {"answers/page/r2-1-0000.jsonl": file.with_name("r2-2-0000.jsonl")}.get(name, file.parent / "page.json")
    damaged = {
        "cut": [data[:-1]],
        "empty": [b""],
        "half": [data[: len(data) // 2] + bytes(len(data) - len(data) // 2)],
        "flipped": [data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] for at in range(0, len(data), 7)],
        "deep": [b"[" * 100_000],
        "null": [b"null"],
        "list": [b"[]"],
        "another's": [others.read_bytes() if name != "page.json" else (file.parent / "requests.jsonl").read_bytes()],
    }[what]
    for each in damaged:
        file.write_bytes(each)
        with pytest.raises(InputError, match=f"requests/round-002/{name.removesuffix('.sha256')}"):
            Desk(storage, 2, CLASSES)
        assert file.read_bytes() == each


def test_an_answer_to_no_region_of_the_round_is_named(storage: Storage) -> None:
    given = Answer("r2-9-0000", "sky", "anna", 1)
    storage.write("requests/round-002/answers/page/r2-9-0000.jsonl", given.data())
    with pytest.raises(InputError, match=r"answers/page/r2-9-0000\.jsonl"):
        Desk(storage, 2, CLASSES)


def test_a_round_that_asks_nothing_is_said(storage: Storage) -> None:
    with pytest.raises(InputError, match=r"round-003/requests\.jsonl or its checksum file is gone"):
        Desk(storage, 3, CLASSES)
