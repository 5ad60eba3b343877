"""A cluster that grows from nothing and shrinks to nothing: a real autoscaler, whose nodes are processes here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import Head, command_line, ray_head, until

WORKER = "worker"


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head without CPUs; the autoscaler adds up to two nodes with one each, and takes idle ones back."""
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        WORKER: {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    settings = {
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.1,
        "available_node_types": kinds,
        "head_node_type": "ray.head.default",
    }
    with ray_head("--num-cpus=0", autoscaling=settings) as running:
        yield running


def raylets(head: Head) -> int:
    """How many nodes there are beside the head.

    By command line: a raylet that starts a worker has a copy of itself for a moment, until that becomes the worker.
    """
    return len({command_line(process) for process in head.processes("raylet/raylet")} - {""}) - 1


def test_scales_up_from_nothing_finishes_and_scales_down_to_nothing(head: Head, tmp_path: Path) -> None:
    assert raylets(head) == 0
    options = ["--execution.num_workers=1", "--acquisition.rounds=1"]
    output_dir = tmp_path / "experiment"
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(1):
            most = max(most, raylets(head))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        ended = head.python("jobs/run_al.py", "--preset=tiny", f"--output_dir={output_dir}", *options)
    finally:
        done.set()
        watcher.join()
    assert ended.returncode == 0, ended.stderr
    assert "waiting for a node with a CPU" in ended.stdout
    assert most == 2
    assert len((output_dir / "metrics.jsonl").read_text().splitlines()) == 2
    # Training took place on the node that was added: the head is not to compute.
    assert "over 1 training processes" in ended.stdout
    until(lambda: raylets(head) == 0, "the nodes to be taken back", 120)
