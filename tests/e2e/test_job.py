"""The job as a user runs it: a process of its own that starts its own Ray, is killed, and runs again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from kills import results
from ray_head import until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ray_directory() -> Iterator[str]:
    """A short directory for the job's own Ray."""
    with tempfile.TemporaryDirectory(prefix="hr", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield directory


def start(output_dir: Path, ray_directory: str, *options: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "jobs/run_al.py", "--preset", "tiny", "--output_dir", str(output_dir), *options],
        cwd=ROOT,
        env={**environment, "RAY_TMPDIR": ray_directory},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_once_there(process: subprocess.Popen[str], file: Path) -> None:
    """SIGKILL, as soon as the file appears."""
    deadline = time.monotonic() + 300
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no {file} in 300 s"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def running_in(directory: str) -> list[str]:
    """Command lines of processes that have a directory of that name in them."""
    return [
        line for each in psutil.process_iter(["cmdline"]) if directory in (line := " ".join(each.info["cmdline"] or []))
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_directory: str) -> tuple[Path, str, str]:
    """Directory, standard output and standard error of a whole run."""
    output_dir = tmp_path_factory.mktemp("job") / "undisturbed"
    process = start(output_dir, ray_directory)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return output_dir, out, err


def test_says_what_it_does(undisturbed: tuple[Path, str, str]) -> None:
    output_dir, out, err = undisturbed
    for number in (0, 1, 2):
        assert f"round {number}: " in out
    assert "mIoU" in out
    assert "IoU bicycle" in out
    assert f"Results: {output_dir}" in out
    # Progress with rate and time left, one line at a time where stderr is no terminal; none of Ray's own log.
    assert "\r" not in err
    for line in err.splitlines():
        assert re.search(r": +\d+% \d+/\d+ \[\d\d:\d\d<[\d:?]+, +[\d.?]+(s/)?(image|step)(/s)?\]$", line), line


def test_runs_again_as_finished(undisturbed: tuple[Path, str, str], ray_directory: str) -> None:
    before = results(undisturbed[0])
    process = start(undisturbed[0], ray_directory)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "finished" in out
    assert results(undisturbed[0]) == before


def test_killed_and_run_again_ends_as_if_undisturbed(
    undisturbed: tuple[Path, str, str], ray_directory: str, tmp_path: Path
) -> None:
    output_dir = tmp_path / "killed"
    process = start(output_dir, ray_directory)
    # Killed while the first round is being trained: its labels are bought, its checkpoint is not there.
    bought = output_dir / "stages/rounds/001/annotate.json"
    kill_once_there(process, bought)
    assert not (output_dir / "stages/rounds/001/train.json").exists()
    marker = bought.stat().st_mtime_ns
    # Its Ray dies with it.
    until(lambda: not running_in(ray_directory), "the processes of a killed run to end", 60)

    process = start(output_dir, ray_directory)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert bought.stat().st_mtime_ns == marker  # nothing was asked again
    assert results(output_dir) == results(undisturbed[0])


@pytest.mark.faults
def test_killed_within_training_goes_on_at_its_last_step(
    undisturbed: tuple[Path, str, str], ray_directory: str, tmp_path: Path
) -> None:
    output_dir, options = tmp_path / "killed", ("--execution.checkpoint_steps", "2")
    process = start(output_dir, ray_directory, *options)
    checkpoint = output_dir / "rounds/001/checkpoint-run/00000004/training.json"
    kill_once_there(process, checkpoint)
    assert not (output_dir / "stages/rounds/001/train.json").exists()

    process = start(output_dir, ray_directory, *options)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert re.search(r"rounds/001/checkpoint: 8 steps, from step [46] on, of 4 images", out)
    assert results(output_dir) == results(undisturbed[0])
    assert not list(output_dir.glob("**/*-run"))
