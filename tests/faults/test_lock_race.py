"""A run that was taken for dead goes on, again and again: it replaces nothing that its successor has committed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RACE = """
import json, os, random, signal, sys, time
from halo_ray import lock
from halo_ray.errors import InputError
from halo_ray.root import begin_root
from halo_ray.storage import Storage

FILES, SECONDS = [f"rounds/001/{number}" for number in range(12)], 0.12

def commit_all(storage, who):
    if storage.exists("stages/one.json"):
        return
    for name in FILES:
        storage.commit(name, who * 3)
    storage.create("stages/one.json", who)

def first(storage, ready):
    try:
        with lock.locked(storage, SECONDS) as mine:
            os.write(ready, b"x")
            commit_all(mine, b"A")
    except (InputError, FileExistsError):
        os._exit(3)
    os._exit(0)

def race(directory, draw):
    storage = Storage(directory, patience=5)
    begin_root(storage, "experiment")
    heard, ready = os.pipe()
    child = os.fork()
    if not child:
        first(storage, ready)
    os.close(ready)
    os.read(heard, 1)
    os.close(heard)
    time.sleep(draw.uniform(0, 0.02))
    os.kill(child, signal.SIGSTOP)
    goes_on = draw.uniform(0.5, 3) * SECONDS
    waker = os.fork()
    if not waker:
        time.sleep(goes_on)
        os.kill(child, signal.SIGCONT)
        os._exit(0)
    committed = {}
    try:
        with lock.locked(storage, SECONDS) as mine:  # as from another machine: whether the child lives is not known
            commit_all(mine, b"B")
            committed = {name: mine.read(name) for name in (*FILES, "stages/one.json")}
    except InputError:
        pass  # the child woke up in time, and gives signs of life
    os.waitpid(waker, 0)
    lost = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    after = {name: storage.read(name) for name in (*FILES, "stages/one.json")}
    winners = {content[:1] for content in after.values()}
    replaced = [name for name, content in committed.items() if after[name] != content]
    left = [name for name in storage.tree("") if ".tmp" in name]
    who = winners.pop().decode()
    return {"mixed": bool(winners), "replaced": replaced, "lost": lost, "left": left, "winner": who}

seed, count, where = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
boots = iter([])
own = lock._boot()
parent = os.getpid()
lock._boot = lambda: own if os.getpid() == parent else "another machine"
for number in range(seed, seed + count):
    sys.stdout.flush()
    print(json.dumps(race(f"{where}/{number}", random.Random(number))), flush=True)
"""
"""Two processes of what seems to be two machines; the first is stopped while it commits, and goes on at any moment."""


def races(seed: int, count: int, directory: Path) -> list[dict[str, object]]:
    command = [sys.executable, "-c", RACE, str(seed), str(count), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=count * 5 + 60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check(found: list[dict[str, object]], count: int) -> None:
    assert len(found) == count
    assert not [each for each in found if each["replaced"] or each["mixed"] or each["left"]]
    # Else nothing was raced for.
    assert {each["winner"] for each in found} == {"A", "B"}
    assert 3 in {each["lost"] for each in found}


def test_a_late_writer_replaces_nothing(tmp_path: Path) -> None:
    check(races(0, 40, tmp_path), 40)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
def test_a_late_writer_replaces_nothing_in_a_thousand_races(part: int, tmp_path: Path) -> None:
    check(races(1000 + 100 * part, 100, tmp_path), 100)
