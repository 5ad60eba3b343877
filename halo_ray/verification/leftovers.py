"""What lies about in a directory of ours: leftovers of killed runs, and who works on it."""

from __future__ import annotations

import re
from collections import Counter

from halo_ray.atomic import unfinished_owner
from halo_ray.errors import InputError
from halo_ray.lock import DIRECTORY, Process, is_lock
from halo_ray.patience import StorageError
from halo_ray.stages import marker_file
from halo_ray.storage import WRITE_TEST, round_directory
from halo_ray.verification.reader import Reader
from halo_ray.verification.subject import Subject

_RUN = re.compile(r"(pretrain/checkpoint|rounds/\d{3}/(?:checkpoint|control))-run/")
_CANDIDATES = re.compile(r"(rounds/(\d{3})/(?:candidates|problems)/[^/]+)/")
_ROUND = re.compile(r"(rounds/([^/]+))/")


def check_lock(reader: Reader) -> bool:
    """Says who holds the lock, if anybody; gives whether a run may be at work, whose unfinished files are its own."""
    storage, findings = reader.storage, reader.findings
    files = [name for name in storage.files(DIRECTORY) if is_lock(name)]
    if not files:
        return False
    name = files[-1]
    try:
        held = storage.read_sealed(name)
    except FileNotFoundError:  # the next run has just taken it
        return True
    except StorageError:
        raise
    except InputError as error:
        what = str(error).removeprefix(f"{storage.uri}/{name} ").partition(": restore")[0]
        findings.add(name, f"{what}: the next run waits until it takes it for dead; delete it where none works")
        return False
    running = False
    with reader.understanding(name):
        if held["released"]:
            return False
        process = Process(**held["process"])
        lives, who = process.lives(), f"process {process.pid} on {process.host}"
        running = lives is not False
        what = f"{who} held the lock and has died: the next run takes it over"
        if running:
            what = f"{who} {'works' if lives else 'may be working'} on it: what it has under way was not checked"
        findings.note(name, what)
    return running


def check_leftovers(subject: Subject) -> None:
    """Notes what killed runs left and nothing reads any more."""
    found: Counter[tuple[str, str]] = Counter()
    named = _named_directories(subject)
    for name in subject.reader.tree():
        if (left := _leftover(subject, name, named)) is not None:
            found[left] += 1
    for (place, what), files in sorted(found.items()):
        subject.findings.note(place, what if files == 1 else f"{what} ({files} files)")


def _leftover(subject: Subject, name: str, named: dict[str, set[str]]) -> tuple[str, str] | None:
    """The place and the kind of what a file is left of; None where it is not."""
    unfinished = unfinished_owner(name) is not None
    if subject.running and unfinished:
        return None
    if unfinished or name.startswith(WRITE_TEST):
        return name, "was being written when a run was killed: delete it, if the next run has not"
    if found := _RUN.match(name):
        directory = found[1]
        stage = {"pretrain/checkpoint": "pretrain"}.get(directory, directory.replace("/checkpoint", "/train"))
        if stage in subject.done:
            return f"{directory}-run", "is left of a stage that is done: delete it"
    found = _CANDIDATES.match(name)
    if found and (ours := named.get(found[2])) is not None and found[1].rpartition("/")[2] not in ours:
        return found[1], "is left of an attempt that was killed: delete it"
    if (found := _ROUND.match(name)) and subject.plan is not None and subject.config is not None:
        last = 1 if subject.config.training.protocol == "fully_supervised" else subject.rounds
        if found[2] not in {round_directory(number).rpartition("/")[2] for number in range(last + 1)}:
            return found[1], f"is of no round of a plan of {subject.rounds}"
    return None


def _named_directories(subject: Subject) -> dict[str, set[str]]:
    """By number of a scored round, the attempts whose candidates count."""
    named: dict[str, set[str]] = {}
    for number in range(1, subject.rounds + 1):
        at = round_directory(number)
        scored = subject.result(f"{at}/score")
        if scored is not None:
            with subject.reader.understanding(marker_file(f"{at}/score")):
                directories = scored["candidates"].values()
                named[at.rpartition("/")[2]] = {directory.split("/")[3] for directory in directories}
    return named
