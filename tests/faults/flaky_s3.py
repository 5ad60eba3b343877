"""An S3 server with bad days: a proxy before a good one that refuses, drags, forgets to answer, and can be killed.

The proxy is a process of its own, which keeps nothing:

    python tests/faults/flaky_s3.py PORT UPSTREAM_PORT LOG SHARE SEED
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from halo_ray.benchmarks.object_store import ObjectStore, free_port, object_store, wait_for

REFUSED, LOST, SLOW, GOOD = "refused", "lost", "slow", "good"
"""What becomes of a request: 503 and nothing done; done, but the connection ends without an answer; done after a while;
done."""

LOST_SHARE, SLOW_SHARE, SLOW_SECONDS = 0.01, 0.02, 0.5
UPSTREAM_SECONDS = 60

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message><RequestId>FLAKY</RequestId></Error>"
)

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}
"""Headers of an answer that belong to one connection, or that this server sets itself."""


@dataclass
class FlakyStore:
    """The server, and the good one behind it, which keeps the data."""

    store: ObjectStore
    """As clients are told."""
    behind: ObjectStore
    """The same bucket for whoever wants to look at it undisturbed."""
    log: Path
    share: float
    seed: int
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """On the same port every time; returns when it listens."""
        settings = self.store.port, self.behind.port, self.log, self.share, self.seed + self.starts
        self._process = subprocess.Popen([sys.executable, __file__, *map(str, settings)])
        wait_for(self.store.port, self._process)
        self.starts += 1

    def kill(self) -> None:
        """Cuts every request that is under way; whoever connects is refused from now on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def requests(self) -> list[tuple[str, str]]:
        """The fate of each, and its method and path."""
        lines = (line.split(maxsplit=2) for line in self.log.read_text().splitlines())
        return [(fate, request) for fate, _, request in lines]


@contextmanager
def flaky_store(log: Path, *, share: float = 0.1, seed: int = 0) -> Iterator[FlakyStore]:
    """Starts it; needs moto[server].

    Args:
        log: one line for each request: its fate, the time, method and path. It outlives the server's death.
        share: of the requests that are refused. LOST_SHARE lose their answer, SLOW_SHARE get it after SLOW_SECONDS.
    """
    log.touch()
    with object_store() as behind:
        flaky = FlakyStore(replace(behind, port=free_port()), behind, log, share, seed)
        flaky.start()
        try:
            yield flaky
        finally:
            flaky.kill()


class Fates:
    """What becomes of each request, in the order in which they come.

    Whoever creates an object on the condition that there is none never hears that it did, and must ask again.
    """

    def __init__(self, share: float, seed: int, log: Path) -> None:
        self._shares = {REFUSED: share, LOST: LOST_SHARE, SLOW: SLOW_SHARE, GOOD: 1 - share - LOST_SHARE - SLOW_SHARE}
        self._random, self._lock, self._created = random.Random(seed), threading.Lock(), set[str]()
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND)

    def next(self, request: str, *, creates: bool) -> str:
        with self._lock:
            (fate,) = self._random.choices([*self._shares], [*self._shares.values()])
            if creates and fate != REFUSED and request not in self._created:
                self._created.add(request)
                fate = LOST
            # At once: a process that is killed flushes nothing.
            os.write(self._log, f"{fate} {time.strftime('%X')} {request}\n".encode())
        return fate


class Handler(BaseHTTPRequestHandler):
    """One client's connection, which lives on from request to request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fates: Fates
    upstream: int

    def do_GET(self) -> None:
        body = self._body()
        fate = self.fates.next(f"{self.command} {self.path}", creates="If-None-Match" in self.headers)
        if fate == REFUSED:
            self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
            return
        if fate == SLOW:
            time.sleep(SLOW_SECONDS)
        upstream = HTTPConnection("127.0.0.1", self.upstream, timeout=UPSTREAM_SECONDS)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "transfer-encoding", "content-length", "expect"):
                    upstream.putheader(name, value)
            upstream.putheader("Content-Length", str(len(body)))
            upstream.putheader("Connection", "close")
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        if fate == LOST:
            self.close_connection = True
            return
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, headers, data, length)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(chunks)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The log says it."""


class Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients may go whenever they like."""


def main(port: str, upstream: str, log: str, share: str, seed: str) -> None:
    Handler.fates, Handler.upstream = Fates(float(share), int(seed), Path(log)), int(upstream)
    Server(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
