"""Kill a process of a running experiment at a random moment of a stage, and see how the experiment ends."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ray_head import ROOT, Head, ray_head, ray_node, until

from halo_ray.verification.verify import verify_experiment

STAGES = "score", "select", "annotate", "train", "evaluate"

PRODUCTS = {
    "score": ("rounds/001/candidates", "rounds/001/problems"),
    "select": ("rounds/001/selection.json",),
    "annotate": ("rounds/001/annotations",),
    "train": ("rounds/001/checkpoint",),
    "evaluate": ("rounds/001/metrics.json", "report"),
}
"""What each stage of the round leaves beside its marker; what comes after the last one goes with it."""

PROCESSES = {
    "coordinator": "Coordinator",
    "scoring actor": "MapWorker",
    "training worker": "RayTrainWorker",
    "Train controller": "TrainController",
}
"""How the titles of the victims' processes begin, after ray::."""

NODES = 2
"""Beside the head, which computes nothing."""

SETTINGS = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
"""A node that dies is missed after seconds."""

OPTIONS = (
    "--preset=tiny",
    "--acquisition.rounds=1",
    "--training.round_steps=12",
    "--execution.num_workers=2",
    "--execution.cpus_per_worker=0.3",
    "--execution.checkpoint_steps=3",
    "--execution.storage_seconds=10",
)

SECONDS = 600
"""In which a run ends, also one that was disturbed."""


def results(output_dir: Path) -> tuple[dict[str, bytes], list[dict]]:
    """Bytes of every ledger, selection and weights file, and the metrics without their times."""
    kept = {
        str(path.relative_to(output_dir)): path.read_bytes()
        for pattern in ("rounds/*/annotations/*", "rounds/*/selection.json", "**/*.safetensors")
        for path in output_dir.glob(pattern)
    }
    records = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["seconds"]
    return kept, records


class Nodes:
    """A cluster of a head and as many others, of which any may be killed."""

    def __init__(self, stack: ExitStack) -> None:
        self.head: Head = stack.enter_context(ray_head("--num-cpus=0", settings=SETTINGS))
        self._stack = stack
        self._nodes = [self._start() for _ in range(NODES)]

    def _start(self) -> psutil.Process:
        return self._stack.enter_context(ray_node(self.head, "--num-cpus=2"))

    def kill(self, number: int) -> None:
        """SIGKILL for all processes of a node at once."""
        node = self._nodes.pop(number)
        for process in (node, *node.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def restore(self) -> None:
        """Starts nodes for those that were killed."""
        while len(self._nodes) < NODES:
            self._nodes.append(self._start())

    def processes(self, title: str) -> list[psutil.Process]:
        """Processes of actors whose title begins with that, on any node."""
        found = []
        for root in (self.head.process, *self._nodes):
            with suppress(psutil.NoSuchProcess):
                found += [each for each in root.children(recursive=True) if _is_actor(each, title)]
        return found

    def own_processes(self) -> list[psutil.Process]:
        """Those of actors that an experiment starts."""
        return [each for title in (*PROCESSES.values(), "StepBoard") for each in self.processes(title)]


def _is_actor(process: psutil.Process, title: str) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        line = process.cmdline()
        return bool(line) and line[0].startswith(f"ray::{title}")
    return False


@dataclass
class Cell:
    """One kill: of whom, in which stage, and what chance decides."""

    victim: str
    stage: str
    seed: int
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.victim} {self.stage} {self.seed}")

    def __str__(self) -> str:
        return f"{self.victim} in {self.stage}, seed {self.seed}"


CELLS = {
    "driver": STAGES,
    "coordinator": ("score", "select"),
    "scoring actor": ("score", "evaluate"),
    "training worker": ("train",),
    "Train controller": ("train",),
    "node": STAGES,
}
"""The stages in which each victim lives."""


@dataclass(frozen=True)
class Undisturbed:
    """A whole experiment of one round that nobody disturbed."""

    directory: Path
    results: tuple[dict[str, bytes], list[dict]]
    seconds: dict[str, float]
    """Of each stage of the round."""

    @classmethod
    def run(cls, nodes: Nodes, directory: Path) -> Undisturbed:
        # The pretrained model, quickly; it is killed when that is there.
        with driver(nodes, directory, "--execution.num_workers=0"):
            until((directory / "stages/rounds/000/record.json").exists, "the pretrained model", SECONDS)
        with driver(nodes, directory) as process:
            ended(process)
        markers = {stage: json.loads(marker(directory, stage).read_text()) for stage in STAGES}
        return cls(directory, results(directory), {stage: each["seconds"] for stage, each in markers.items()})

    def before(self, stage: str, copy: Path) -> None:
        """A copy of the experiment as it was when the stage before that one began."""
        shutil.copytree(self.directory, copy)
        first = max(STAGES.index(stage) - 1, 0)
        if stage == STAGES[0]:
            (copy / "stages/rounds/000/record.json").unlink()
        for later in STAGES[first:]:
            marker(copy, later).unlink()
            for product in PRODUCTS[later]:
                path = copy / product
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        for name in ("stages/rounds/001/record.json", "stages/report-1.json"):
            (copy / name).unlink()


def marker(directory: Path, stage: str) -> Path:
    return directory / f"stages/rounds/001/{stage}.json"


@contextmanager
def driver(nodes: Nodes, directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A driver that joins the cluster; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "jobs/run_al.py", *OPTIONS, f"--output_dir={directory}", *options],
        cwd=ROOT,
        env={**nodes.head.environment, "RAY_ADDRESS": nodes.head.gcs},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], codes: Sequence[int] = (0,)) -> int:
    """The exit code of a run, which must be one of those, without a traceback."""
    out, err = process.communicate(timeout=SECONDS)
    assert "Traceback" not in err, err
    assert process.returncode in codes, f"exit code {process.returncode}\n{out[-2000:]}\n{err[-2000:]}"
    return process.returncode


def run_cell(cell: Cell, nodes: Nodes, undisturbed: Undisturbed, directory: Path) -> None:
    """Kills the victim, lets the run end or resumes it, and compares."""
    moment = cell.chance.uniform(0, undisturbed.seconds[cell.stage])
    for attempt in range(4):
        copy = directory / str(attempt)
        undisturbed.before(cell.stage, copy)
        with driver(nodes, copy) as process:
            if _killed(cell, nodes, process, copy, moment):
                code = -9 if cell.victim == "driver" else ended(process, (0, 2))
                break
        moment /= 2  # the stage was over before
    else:
        raise AssertionError(f"{cell}: the stage was always over before the victim could be killed")
    nodes.restore()
    if code:
        with driver(nodes, copy) as process:
            ended(process)
    assert results(copy) == undisturbed.results
    assert verify_experiment(str(copy)).wrong == []
    assert not [path for pattern in ("**/*.tmp", "**/*-run") for path in copy.glob(pattern)]
    until(lambda: not nodes.own_processes(), "all actors to end", 60)


def _killed(cell: Cell, nodes: Nodes, process: subprocess.Popen[str], directory: Path, moment: float) -> bool:
    """Whether the victim was killed while its stage was under way, ``moment`` seconds after that began or later."""
    number = STAGES.index(cell.stage)
    begun = marker(directory, STAGES[number - 1]) if number else directory / "stages/rounds/000/record.json"

    def is_over() -> bool:
        return process.poll() is not None or marker(directory, cell.stage).exists()

    deadline = time.monotonic() + SECONDS
    while not begun.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{cell}: the stage never began"
        time.sleep(0.002)
    at = time.monotonic() + moment
    while not is_over():
        left = at - time.monotonic()
        if left > 0:
            time.sleep(min(left, 0.02))
        elif _kill(cell, nodes, process):
            return not marker(directory, cell.stage).exists()
        else:
            time.sleep(0.01)
    return False


def _kill(cell: Cell, nodes: Nodes, process: subprocess.Popen[str]) -> bool:
    """Whether there was somebody to kill."""
    if cell.victim == "driver":
        process.kill()
        process.wait()
        return True
    if cell.victim == "node":
        nodes.kill(cell.chance.randrange(NODES))
        return True
    found = nodes.processes(PROCESSES[cell.victim])
    if not found:
        return False
    cell.chance.choice(found).kill()
    return True
