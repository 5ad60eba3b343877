"""Serve the page of the round that waits for people."""

from __future__ import annotations

import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

import uvicorn

from halo_ray.annotations.desk import Desk
from halo_ray.annotations.folder import LIST, folder, folder_name
from halo_ray.annotations.ledger import Ledger
from halo_ray.annotations.page import Frames, annotation_app
from halo_ray.annotations.pictures import read_frame
from halo_ray.annotations.reading import look
from halo_ray.bounds import Range
from halo_ray.data.classes import ClassSet
from halo_ray.errors import BadRecordError, InputError, has_control_characters
from halo_ray.lock import locked
from halo_ray.secret import shown
from halo_ray.stages import Stages
from halo_ray.storage import Storage, round_directory
from halo_ray.stored import stored_classes, stored_pool

TOKEN = "HALO_RAY_TOKEN"
"""Environment variable that sets the token of the page."""

LOCK_SECONDS = 10.0
"""In which another page that gives no sign of life is taken for dead."""

OPEN_SECONDS = 0.5
"""Between two looks whether a run has ended to read the answers."""

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(experiment: str, host: str, port: int, token: str | None, data_root: str | None = None) -> None:
    """Serves the page until Ctrl+C or SIGTERM.

    Args:
        experiment: directory or URI.
        port: 0: any that is free.
        token: what the address must hold; None: a new one.
        data_root: where the images lie now; None: where they lay when the experiment was begun.

    Raises:
        InputError: nothing is asked, another page is open, or the address cannot be listened at.
    """
    Range(0, 65_535).check("--port", port)
    storage, fixed = Storage(experiment), bool(token and port)
    token = token or secrets.token_urlsafe(16)
    if has_control_characters(token):
        raise InputError(f"{TOKEN} holds control characters: set another token")
    number = waiting_round(storage)
    classes, frames = stored_classes(storage), _frames(storage, data_root)
    with (
        suppress(KeyboardInterrupt),
        _ended_by_sigterm(),
        _listening(host, port) as listening,
        locked(folder(storage, number).below("page"), LOCK_SECONDS) as held,
    ):
        desk = _open(storage.guarded(held.guard) if held.guard else storage, number, classes)
        app = annotation_app(desk, f"Round {number} of {shown(experiment)}", classes, frames, token)
        name = "localhost" if host in _LOOPBACK else socket.gethostname()
        if host not in _LOOPBACK:
            print(f"{host} can be reached from other machines, without encryption: only on networks that you trust")
        if not fixed:
            print(f"set {TOKEN} and --port, and pages that are open will find this one again after a restart")
        print(f"round {number}: {len(desk.regions)} regions; open or hand on this address, end with Ctrl+C:")
        print(f"http://{name}:{listening.getsockname()[1]}/?token={quote(token, safe='')}", flush=True)
        # No access log: it would show the token.
        how = uvicorn.Config(app, access_log=False, log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(how).run(sockets=[listening])


def waiting_round(storage: Storage) -> int:
    """The round whose regions people are asked for.

    Raises:
        InputError: there is none.
    """
    if not storage.exists("stages"):
        raise InputError(f"{storage.uri} holds no experiment: name the output_dir of one")
    stages, number = Stages(storage), 1
    # A run that died after it had bought the answers has left no marker of the stage.
    while stages.done(f"{round_directory(number)}/annotate") or Ledger(storage).committed(number):
        number += 1
    if not folder(storage, number).exists(LIST):
        raise InputError(
            f"{storage.uri} asks nothing now (there is no {folder_name(number)}/{LIST}): run the experiment with "
            "--annotation.oracle files until it ends with exit code 3"
        )
    return number


def _open(storage: Storage, number: int, classes: ClassSet) -> Desk:
    """The desk of a round, as soon as no run is reading its answers."""
    while (reader := look(storage, number).reader) is not None:
        print(f"round {number}: {reader} is reading the answers: waiting until it has", flush=True)
        while look(storage, number).reader == reader:
            time.sleep(OPEN_SECONDS)
    return Desk(storage, number, classes)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the body as Ctrl+C does, so that what it holds is given back; a second one changes nothing."""

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone hears signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _frames(storage: Storage, data_root: str | None) -> Frames:
    """The images of the pool.

    Raises:
        InputError: the first of them cannot be read.
    """
    pool = stored_pool(storage, data_root).to_pylist()
    frames = {row["image_id"]: (row["image_uri"], (row["height"], row["width"])) for row in pool}
    try:
        read_frame(*next(iter(frames.values())))
    except (BadRecordError, OSError) as error:
        raise InputError(f"{error}: say with --data_root where the images lie now") from error
    return frames


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"--host {host} --port {port} cannot be listened at ({error}): name others") from error
