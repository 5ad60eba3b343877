"""A hundred kills, one after another, of whoever lives: every experiment ends with the bytes of the undisturbed one."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from kills import NODES, PROCESSES, SECONDS, Nodes, Undisturbed, driver, results

from halo_ray.verification.verify import verify_experiment

KILLS = 100

REST = 1.0, 20.0
"""Fewest and most seconds between two kills: less than a stage takes, so that none is spared."""

PATIENCE = 20.0
"""Seconds for which a victim is waited for that does not live now."""


VICTIMS = ("driver", "node", *PROCESSES)


def kill_somebody(nodes: Nodes, process: subprocess.Popen[str], chance: random.Random) -> str | None:
    """Who was killed, as soon as they lived; None: they did not in this run, or not for a long time."""
    who = chance.choice(VICTIMS)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if who == "driver":
            process.kill()
            return who
        if who == "node":
            nodes.kill(chance.randrange(NODES))
            nodes.restore()
            return who
        if found := nodes.processes(PROCESSES[who]):
            chance.choice(found).kill()
            return who
        time.sleep(0.02)
    return None


def is_running_after(process: subprocess.Popen[str], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


@pytest.mark.soak
@pytest.mark.timeout(3 * 3600)
def test_a_hundred_kills(nodes: Nodes, undisturbed: Undisturbed, tmp_path: Path) -> None:
    chance, killed, experiments, runs = random.Random(0), Counter[str](), 0, 0
    while killed.total() < KILLS:
        directory = tmp_path / str(experiments)
        undisturbed.before("score", directory)
        code: int | None = None
        while code != 0:
            runs += 1
            with driver(nodes, directory) as process:
                while killed.total() < KILLS and is_running_after(process, chance.uniform(*REST)):
                    who = kill_somebody(nodes, process, chance)
                    killed.update([who] if who else [])
                    print(f"{time.strftime('%H:%M:%S')} {killed.total()} kills: {dict(killed)}", flush=True)
                assert not is_running_after(process, SECONDS), "a run that nobody disturbed any more did not end"
                code = process.returncode
                out, err = process.communicate()
                assert code in (0, 2, -9), f"exit code {code}\n{out}\n{err}"
                assert "Traceback" not in err, err
        assert results(directory) == undisturbed.results
        assert verify_experiment(str(directory)).wrong == []
        experiments += 1
    print(f"{dict(killed)} in {runs} runs of {experiments} experiments")
    assert set(killed) == set(VICTIMS)
