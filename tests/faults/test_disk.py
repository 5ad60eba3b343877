"""A disk that is really full, and one that loses its permission to be written to while a run goes on."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from kills import results
from ray_head import ROOT

JOB = [sys.executable, "jobs/run_al.py", "--preset=tiny", "--acquisition.rounds=1", "--execution.max_actors=0"]

SIZE = "6m"
"""Has room for the pretrained model and not for the round's."""


def may_mount() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


def run(script: str) -> str:
    """What a script says; it runs where it alone sees what it mounts."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-ec", script],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


@pytest.mark.skipif(not may_mount(), reason="mounting a small disk needs root on Linux")
def test_a_full_disk_and_a_lost_permission_lose_nothing(tmp_path: Path) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    for path in (disk, kept):
        path.mkdir()
    job = shlex.join([*JOB, f"--output_dir={disk}/run"])
    said = run(f"""
        {shlex.join([*JOB, f"--output_dir={kept}/undisturbed"])} > /dev/null 2>&1
        mount -t tmpfs -o size={SIZE} none {disk}
        code=0; {job} --execution.storage_seconds=2 --execution.max_failures=1 || code=$?
        echo "ended with $code"
        cp -r {disk}/run {kept}/stopped
        mount -o remount,size=100m {disk}
        (
            while [ ! -e {disk}/run/stages/rounds/001/train.json ]; do sleep 0.01; done
            until mount -o remount,ro {disk}; do sleep 0.01; done
            sleep 4
            mount -o remount,rw {disk}
            echo "was read-only"
        ) 2> /dev/null &
        {job}
        wait
        cp -r {disk}/run {kept}/run
    """)
    assert "ended with 2" in said
    assert "error: " in said
    assert "No space left on device" in said
    assert "was read-only" in said
    assert "Read-only file system" in said
    stopped = kept / "stopped"
    assert (stopped / "stages/pretrain.json").exists()
    assert not (stopped / "stages/rounds/001/record.json").exists()
    for marker in stopped.glob("stages/**/*.json"):
        json.loads(marker.read_text())
    assert results(kept / "run") == results(kept / "undisturbed")
