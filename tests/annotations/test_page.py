"""The page's requests, right ones and wrong ones: never an answer without a sentence."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_that_reads import buy
from small_round import CLASSES, ask

from halo_ray.annotations.desk import Desk
from halo_ray.annotations.folder import folder
from halo_ray.annotations.page import annotation_app
from halo_ray.annotations.reading import reading
from halo_ray.storage import Storage

FIRST = "r2-1-0000"
ANSWER = {"client": "anna", "id": FIRST, "label": "sky", "turn": "1"}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return ask(Storage(str(tmp_path_factory.mktemp("run")), patience=0.1), 6)


class Server:
    """The application, asked as a server asks it."""

    def __init__(self, storage: Storage) -> None:
        self.app = annotation_app(Desk(storage, 2, CLASSES), "title", CLASSES, {}, "token")

    def ask(self, path: str, *parts: bytes | None, query: bytes = b"token=token") -> tuple[int, str]:
        """Status and text of the answer to a request whose body comes in parts; None: whoever asks has gone."""
        scope = {
            "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": path, "raw_path": b"",
            "query_string": query, "root_path": "", "headers": [], "server": ("x", 80), "client": ("x", 1),
        }  # fmt: skip
        waiting = [
            {"type": "http.disconnect"}
            if part is None
            else {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
            for number, part in enumerate(parts)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        body = b"".join(each.get("body", b"") for each in sent[1:])
        return int(sent[0]["status"]), body.decode()


@pytest.fixture(scope="module")
def server(storage: Storage) -> Server:
    return Server(storage)


@pytest.fixture(autouse=True)
def nothing_is_answered(storage: Storage, request: pytest.FixtureRequest) -> None:
    assert not folder(storage, 2).files("answers/page") or "run" in request.fixturenames


NESTED = b"[" * 100_000
WRONG = {
    "brackets": NESTED,
    "brackets, closed": b"[" * 10_000 + b"]" * 10_000,
    "brackets in an object": b'{"client": ' * 2000,
    "objects in a value": b'{"client": ' + b'{"a":' * 2000 + b"1" + b"}" * 2001,
    "nothing": b"",
    "no UTF-8": b"\xff\xfe\x00",
    "half a surrogate in UTF-8": b'{"client": "\xed\xa0\x80"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "null characters": b"\0" * 100,
    "a number of 10,000 digits": b"1" * 10_000,
    "not a number": b"NaN",
    "a list": b"[]",
    "a text": b'"client"',
    "the same key twice": b'{"client": "a", "client": "b"}',
    "too much": b" " * 40_000,
    "an exponent": b'{"client": 1e999999}',
}


@pytest.mark.parametrize("path", ["/take", "/answer", "/undo", "/skip"])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_request_is_refused_with_a_sentence(server: Server, path: str, what: str) -> None:
    status, said = server.ask(path, WRONG[what])
    assert status in (400, 409, 413)
    assert said
    assert "\n" not in said


VALUES = [
    None, True, 0, -1, 1.5, "", [], {}, ["a"], {"a": "b"}, "x" * 201, "a\nb", "a\0b", "\ud800", "\udfff", "\u2028",
    float("nan"), float("inf"), 10**400,
]  # fmt: skip


@pytest.mark.parametrize("key", ["client", "id", "label"])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:12])
def test_a_value_that_is_none_is_named(server: Server, key: str, value: object) -> None:
    status, said = server.ask("/answer", json.dumps({**ANSWER, key: value}).encode())
    assert status == 409
    assert said.startswith(f"{key} is missing")


def test_a_body_is_read_in_parts_and_no_further_than_the_longest(server: Server) -> None:
    assert server.ask("/take", b'{"cli', b'ent": "a"}')[0] == 200
    assert server.ask("/take", *[b" " * 1000] * 1000)[0] == 413
    assert server.ask("/take", b'{"client', None)[0] == 400


def test_the_longest_request_of_the_page_is_taken(server: Server) -> None:
    longest = json.dumps({**ANSWER, "client": "\U0001f600" * 200, "label": "\U0001f600" * 200, "id": "x" * 200})
    status, said = server.ask("/answer", longest.encode())
    assert (status, "is none of this round" in said) == (400, True)


@pytest.mark.parametrize("query", [b"client=", b"client=" + b"x" * 201, b"", b"client=%00", b"client=%ff%fe"])
def test_a_sign_of_life_of_nobody_is_no_fault(server: Server, query: bytes) -> None:
    assert server.ask("/alive", b"", query=b"token=token&" + query)[0] in (204, 409)


@pytest.mark.parametrize("zoom", ["-1", "3", "x", "1" * 5000, "1.5", ""])
def test_a_zoom_that_there_is_not_is_refused(server: Server, zoom: str) -> None:
    server.app.router.routes[2].methods.add("POST")  # type: ignore[attr-defined]
    assert server.ask(f"/crop/{FIRST}", b"", query=f"token=token&zoom={zoom}".encode())[0] == 400


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_ODD = st.dictionaries(st.sampled_from(["client", "turn", "id", "x"]), _JSON | st.characters(), max_size=4)
_BODY = st.binary(max_size=200) | _ODD.map(lambda value: json.dumps(value).encode())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/take", "/answer", "/undo", "/skip", "/alive", "/crop/x", "/other"]), body=_BODY)
def test_no_body_is_answered_with_500(server: Server, path: str, body: bytes) -> None:
    status, said = server.ask(path, body)
    assert status < 500
    assert (status in (200, 204)) or said


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return ask(Storage(str(tmp_path), patience=0.1), 6)


def told(**more: str) -> bytes:
    return json.dumps({**ANSWER, **more}).encode()


def test_an_accepted_answer_is_told_so_though_nothing_more_is_asked(run: Storage) -> None:
    server = Server(run)
    status, said = server.ask("/answer", told())
    assert (status, json.loads(said)["closed"]) == (200, "")
    with reading(run, 2):
        assert server.ask("/answer", told(id="r2-2-0000"))[0] == 503
        assert server.ask("/answer", told())[0] == 200
        buy(run, 2, {FIRST: 1})
    status, said = server.ask("/answer", told())
    assert (status, json.loads(said)["region"]) == (200, None)
    assert "round 2 has been read" in json.loads(said)["closed"]
    status, said = server.ask("/answer", told(id="r2-2-0000"))
    assert (status, "round 2 has been read" in said) == (409, True)
    assert server.ask("/undo", told(turn="2"))[0] == 409
    assert json.loads(server.ask("/take", told())[1])["closed"]


def test_what_lies_in_the_way_of_an_answer_is_named(run: Storage) -> None:
    server, way = Server(run), Path(run.path(f"requests/round-002/answers/page/{FIRST}.jsonl"))
    way.mkdir(parents=True)
    status, said = server.ask("/answer", told())
    assert status in (400, 503)
    assert f"answers/page/{FIRST}.jsonl" in said
    way.rmdir()
    assert server.ask("/answer", told())[0] == 200
