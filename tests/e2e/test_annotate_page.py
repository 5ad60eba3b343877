"""The page on which people answer, in a real browser, and its server, killed, restarted and asked by strangers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from asked import CLASSES, Round, ask, page
from browser import in_a_browser, open_browser
from ray_head import ROOT, until
from run_that_reads import bought_labels

KEYS = dict(zip((*CLASSES.classes, "can't tell"), [*"123456789ab", "0"], strict=True))


class Annotator:
    """A person at a browser of their own."""

    def __init__(self, address: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        self.browser = open_browser()
        self.browser.set_script_timeout(30)
        self._actions, self._by, self.keys = ActionChains, By, Keys
        self.browser.get(address)

    def region(self, other_than: str | None = None) -> str:
        """The region whose picture is there; an empty text: nothing is left."""

        def there() -> bool:
            return bool(
                self.browser.execute_script(
                    "const crop = document.getElementById('crop'), now = document.body.dataset.region;"
                    "return now !== undefined && now !== arguments[0] && !busy"
                    " && (now === '' || (crop.complete && crop.naturalWidth > 0 && crop.dataset.region === now));",
                    other_than,
                )
            )

        until(there, f"another region than {other_than}", 60)
        return str(self.browser.execute_script("return document.body.dataset.region"))

    def press(self, key: str) -> None:
        self._actions(self.browser).send_keys(key).perform()

    def click(self, text: str) -> None:
        self.browser.find_element(self._by.XPATH, f"//button[contains(., {json.dumps(text)})]").click()

    def text(self, element: str) -> str:
        return str(self.browser.find_element(self._by.ID, element).text)

    def answer(self, asked: Round, clicks: Callable[[str], bool] = lambda region: False) -> str:
        """Answers the region that is shown with the truth, and returns it."""
        now = self.region()
        if now:
            label = asked.truth[now]
            self.click(label) if clicks(now) else self.press(KEYS[label])
            self.region(other_than=now)
        return now


@pytest.fixture
def annotators() -> Iterator[Callable[[str], Annotator]]:
    open_ones: list[Annotator] = []

    def come(address: str) -> Annotator:
        open_ones.append(Annotator(address))
        return open_ones[-1]

    yield come
    for each in open_ones:
        each.browser.quit()


@in_a_browser
def test_a_session_with_keys_alone(tmp_path: Path, annotators: Callable[[str], Annotator]) -> None:
    asked = ask(tmp_path, 6)
    with page(asked) as (_, address):
        anna = annotators(address)
        first = anna.region()
        assert "The model takes it for" in anna.text("guess")
        anna.press(KEYS[asked.truth[first]])
        second = anna.region(other_than=first)
        assert asked.answers == {first: asked.truth[first]}  # before the next picture
        anna.press("0")
        third = anna.region(other_than=second)
        assert asked.answers[second] == "can't tell"
        anna.press(anna.keys.BACKSPACE)
        assert anna.region(other_than=third) == second
        assert set(asked.answers) == {first}
        anna.press(KEYS[asked.truth[second]])
        assert anna.region(other_than=second) == third
        anna.press(" ")
        fourth = anna.region(other_than=third)
        anna.press(anna.keys.ENTER)  # as the model says
        fifth = anna.region(other_than=fourth)
        guesses = {
            each["id"]: each["why"]["guess"]
            for each in map(json.loads, asked.storage.read("requests/round-001/requests.jsonl").splitlines())
        }
        assert asked.answers[fourth] == guesses[fourth]
        before = anna.browser.execute_script("return crop.src")
        anna.press("-")
        until(lambda: anna.browser.execute_script("return crop.src") != before, "a wider look", 10)
        anna.browser.refresh()
        assert anna.region() == fifth  # as it was
        anna.answer(asked)
        anna.answer(asked)
        assert anna.region() == third  # which was skipped
        anna.press(anna.keys.TAB)  # to the first class
        anna.press(anna.keys.ENTER)
        assert anna.region(other_than=third) == ""
        assert "All 6 regions are answered" in anna.text("done")
        assert asked.answers[third] == CLASSES.classes[0]


@in_a_browser
def test_two_at_once_while_the_server_is_killed(tmp_path: Path, annotators: Callable[[str], Annotator]) -> None:
    asked, shown, problems = ask(tmp_path, 200), {"anna": list[str](), "ben": list[str]()}, list[BaseException]()

    def work(name: str, annotator: Annotator) -> None:
        try:
            while region := annotator.answer(asked, clicks=lambda region: region.endswith("5")):
                shown[name].append(region)
        except BaseException as error:
            problems.append(error)

    def answered(count: int) -> Callable[[], bool]:
        return lambda: len(asked.answers) >= count or bool(problems)

    with page(asked, token="secret") as (process, address):
        threads = [threading.Thread(target=work, args=(name, annotators(address))) for name in shown]
        for thread in threads:
            thread.start()
        until(answered(70), "70 answers", 120)
        process.send_signal(signal.SIGKILL)
        process.wait()
        port = str(urlsplit(address).port)
    with page(asked, "--port", port, token="secret") as (process, _):
        until(answered(140), "140 answers", 120)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with page(asked, "--port", port, token="secret"):
        for thread in threads:
            thread.join(timeout=300)
    assert problems == []
    assert len(shown["anna"] + shown["ben"]) == len({*shown["anna"], *shown["ben"]}) == 200
    assert min(map(len, shown.values())) > 40
    assert asked.answers == asked.truth


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Round, str]]:
    asked = ask(tmp_path_factory.mktemp("asked"), 4)
    with page(asked) as (_, address):
        yield asked, address


def http(address: str, path: str = "", body: bytes | None = None, query: str | None = None) -> tuple[int, bytes]:
    """Status and content of an answer."""
    parts = urlsplit(address)
    given = parts.query if query is None else query
    request = urllib.request.Request(f"{parts.scheme}://{parts.netloc}/{path}?{given}", data=body)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("query", ["", "token=", "token=wrong", "token=%C3%A4", "client=a"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", None),
        ("crop/r1-1-0001", None),
        ("frame/r1-1-0001", None),
        ("take", b"{}"),
        ("answer", b"{}"),
        ("alive", b""),
    ],
)
def test_nothing_is_shown_without_the_token(
    served: tuple[Round, str], path: str, body: bytes | None, query: str
) -> None:
    status, said = http(served[1], path, body, query)
    assert (status, said) == (403, b"this page needs the whole address that jobs/annotate.py printed, with its token")


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("crop/r1-9-0000", None, 404, "this region is none of the round"),
        ("crop/..%2F..%2Fplan.json", None, 404, ""),
        ("frame/r1-9-0000", None, 404, "this region is none of the round"),
        ("take", b"no json", 400, "this is no request"),
        ("take", b"[]", 400, "this is no request"),
        ("take", b"\xff", 400, "this is no request"),
        ("take", b"{}", 409, "client is missing"),
        ("answer", b'{"client": "a", "id": 3, "label": "road"}', 409, "id is missing"),
        ("answer", b'{"client": "a", "id": "r1-9-0000", "label": "road"}', 400, "is none of this round"),
        ("answer", b'{"client": "a", "id": "r1-1-0001", "label": "sea"}', 400, "is no class"),
        ("undo", b'{"client": "nobody", "turn": "1"}', 409, "there is nothing to take back"),
        ("other", b'{"client": "a"}', 404, ""),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(
    served: tuple[Round, str], path: str, body: bytes | None, status: int, said: str
) -> None:
    found, text = http(served[1], path, body)
    assert found == status
    assert said in text.decode()
    assert served[0].answers == {}


def test_pictures_show_the_region(served: tuple[Round, str]) -> None:
    for path in ("crop/r1-1-0001", "frame/r1-1-0001"):
        status, data = http(served[1], path)
        assert status == 200
        assert data.startswith(b"\x89PNG")


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and last line of stderr."""
    command = [sys.executable, "jobs/annotate.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1] if done.stderr else ""


def test_a_second_page_of_a_round_is_refused(served: tuple[Round, str]) -> None:
    code, said = run(served[0].storage.root)
    assert code == 2
    assert str(os.getpid()) not in said
    assert "requests/round-001/page" in said


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    assert run(str(tmp_path)) == (2, f"error: {tmp_path} holds no experiment: name the output_dir of one")
    asked = ask(tmp_path, 1)
    for arguments in (("--port", "99999"), ("--host", "no.such.host.example")):
        code, said = run(asked.storage.root, *arguments)
        assert code == 2
        assert arguments[0] in said
        assert arguments[1] in said
    asked.storage.delete("requests/round-001/requests.jsonl")
    code, said = run(asked.storage.root)
    assert code == 2
    assert "asks nothing now (there is no requests/round-001/requests.jsonl)" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_lock_back(tmp_path: Path, number: signal.Signals) -> None:
    asked = ask(tmp_path, 1)
    with page(asked) as (process, address):
        assert http(address)[0] == 200  # it listens to signals now, even where the shell that began the tests does not
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert err == ""
    assert not list((tmp_path / "run/requests/round-001").glob("page/lock/*"))


def act(address: str, name: str, **told: str) -> tuple[int, str]:
    status, said = http(address, name, json.dumps(told).encode())
    return status, said.decode()


class Talker:
    """Somebody who answers by themselves as fast as they can, as the page does, until nothing more is asked."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address, self.accepted, self.refused = name, address, dict[str, str](), 0
        self.waited = 0
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self) -> None:
        status, said = act(self.address, "take", client=self.name)
        turn = 0
        while status == 200 and (region := json.loads(said)["region"]) is not None:
            turn += 1
            time.sleep(0.05)
            label = CLASSES.classes[turn % 11]
            status, said = self.certain("answer", client=self.name, id=region["id"], label=label)
            if status == 200:
                self.accepted[region["id"]] = label
                if turn % 3 == 0:
                    status, said = self.certain("undo", client=self.name, turn=str(turn))
                    if status == 200:
                        del self.accepted[region["id"]]
        self.refused += status == 409

    def certain(self, name: str, **told: str) -> tuple[int, str]:
        while (done := act(self.address, name, **told))[0] == 503:
            self.waited += 1
            time.sleep(0.02)
        return done


def reads(asked: Round, seconds: float, what: str) -> int:
    command = [sys.executable, "tests/run_that_reads.py", asked.storage.root, "1", str(seconds), what]
    return subprocess.run(command, cwd=ROOT, timeout=120, stdout=subprocess.DEVNULL).returncode


def test_what_the_page_accepts_is_what_a_run_of_another_process_buys(tmp_path: Path) -> None:
    asked = ask(tmp_path, 3000)
    with page(asked) as (_, address):
        talkers = [Talker(name, address) for name in ("anna", "ben", "caroline")]
        assert reads(asked, 0.3, "wait") == 0
        assert reads(asked, 0.3, "die") == -signal.SIGKILL
        before = sum(len(each.accepted) for each in talkers)
        until(lambda: sum(len(each.accepted) for each in talkers) > before + 9, "answers after the run has died", 60)
        assert reads(asked, 0.3, "buy") == 0
        for each in talkers:
            each.thread.join(timeout=60)
    accepted = {region: label for each in talkers for region, label in each.accepted.items()}
    assert accepted == bought_labels(asked.storage, 1, CLASSES) == asked.answers
    assert sum(each.waited for each in talkers) > 0
    code, said = run(asked.storage.root)
    assert (code, "asks nothing now (there is no requests/round-002" in said) == (2, True)


@in_a_browser
def test_a_tab_that_is_duplicated_is_somebody_else(tmp_path: Path, annotators: Callable[[str], Annotator]) -> None:
    asked = ask(tmp_path, 6)

    def client() -> str:
        return str(anna.browser.execute_script("return client"))

    with page(asked) as (_, address):
        anna = annotators(address)
        first, mine, tab = anna.region(), client(), anna.browser.current_window_handle
        anna.browser.refresh()
        assert (anna.region(), client()) == (first, mine)
        anna.browser.execute_script("window.open(location.href)")  # which copies the session's storage too
        other = next(each for each in anna.browser.window_handles if each != tab)
        anna.browser.switch_to.window(other)
        second, others = anna.region(), client()
        assert second != first
        assert others != mine
        for _ in range(2):
            anna.browser.refresh()
            assert (anna.region(), client()) == (second, others)
        anna.press("1")
        anna.region(other_than=second)
        anna.browser.switch_to.window(tab)
        anna.browser.refresh()
        assert (anna.region(), client()) == (first, mine)
        anna.press(anna.keys.BACKSPACE)
        until(lambda: "nothing to take back" in anna.text("said"), "that the answer was another's", 10)
        assert set(asked.answers) == {second}


@in_a_browser
def test_the_page_says_that_the_round_has_been_read(tmp_path: Path, annotators: Callable[[str], Annotator]) -> None:
    asked = ask(tmp_path, 6)
    with page(asked) as (_, address):
        anna = annotators(address)
        first = anna.answer(asked)
        second = anna.region(other_than=first)
        assert reads(asked, 0, "buy") == 0
        anna.press("1")
        assert anna.region(other_than=second) == ""
        assert "round 1 has been read" in anna.text("done")
    assert set(asked.answers) == {first} == set(bought_labels(asked.storage, 1, CLASSES))
