"""Jobs on a real head with token authentication, through Ray's own client: submitted, stopped, submitted again."""

from __future__ import annotations

import json
import platform
import re
import shutil
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import ray
from ray_head import LOOK_EVERY, Head, own_actors, until

TINY = ("python", "jobs/run_al.py", "--preset", "tiny")


@pytest.fixture(scope="module")
def finished(head: Head, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """An experiment whose first job was stopped and whose second, with code of its own, went on to the end.

    Its directory, when the marker of the first purchase was written, and what the second job printed.
    """
    output_dir = tmp_path_factory.mktemp("job") / "experiment"
    metrics: set[str] = set()
    submit(head, "first", "--", *TINY, "--output_dir", str(output_dir))
    bought = output_dir / "stages/rounds/001/annotate.json"

    def begun() -> bool:
        metrics.update(shown(head))
        assert state(head, "first") in ("PENDING", "RUNNING"), logs(head, "first")
        return bought.exists()

    until(begun, "the first purchase", pause=LOOK_EVERY)
    assert driver(head, output_dir)
    assert len(head.processes("gcs_server")) == 1  # the job joined the cluster and started none of its own
    assert head.ray("job", "stop", "first").returncode == 0
    until(lambda: state(head, "first") == "STOPPED", "the job to be stopped", 60)
    until(lambda: not driver(head, output_dir), "the driver to end", 60)
    until(lambda: not own_actors(head), "the job's actors to end", 60)
    assert not (output_dir / "stages/rounds/002/train.json").exists()  # stopped long before its end
    marker = bought.stat().st_mtime_ns

    (repository / "shipped").mkdir()
    shutil.copytree(repository / "halo_ray", repository / "shipped/halo_ray")
    shutil.copytree(repository / "jobs", repository / "shipped/jobs")
    line = 'print("from the shipped directory", flush=True)\n'
    script = repository / "shipped/halo_ray/scoring.py"
    script.write_text(script.read_text() + line)
    submit(head, "second", "--working-dir", str(script.parents[1]), "--", *TINY, "--output_dir", str(output_dir))

    def done() -> bool:
        metrics.update(shown(head))
        return state(head, "second") not in ("PENDING", "RUNNING")

    until(done, "the second job to end", pause=LOOK_EVERY)
    (output_dir.parent / "metrics").write_text("\n".join(sorted(metrics)))
    return output_dir, marker, logs(head, "second")


def submit(head: Head, name: str, *words: str) -> None:
    ended = head.ray("job", "submit", "--no-wait", "--submission-id", name, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def state(head: Head, name: str) -> str:
    said = head.ray("job", "status", name).stdout
    found = re.search(r"(PENDING|RUNNING|STOPPED|SUCCEEDED|FAILED)|'(\w+)' (succeeded|failed|stopped)", said.upper())
    assert found, said
    return found[1]


def logs(head: Head, name: str) -> str:
    return head.ray("job", "logs", name).stdout


def driver(head: Head, output_dir: Path) -> bool:
    return bool(head.processes(str(output_dir)))


def shown(head: Head) -> set[str]:
    """Names of our gauges on the metrics endpoint, which needs no token."""
    with suppress(OSError), urllib.request.urlopen(head.metrics, timeout=5) as answer:
        return set(re.findall(r"^ray_(halo_ray_\w+)\{", answer.read().decode(), re.M))
    return set()


def test_a_stopped_job_goes_on_with_the_next_one_and_buys_nothing_twice(
    head: Head, finished: tuple[Path, int, str]
) -> None:
    output_dir, marker, said = finished
    assert state(head, "second") == "SUCCEEDED"
    assert f"Results: {output_dir}" in said
    assert (output_dir / "stages/rounds/001/annotate.json").stat().st_mtime_ns == marker
    rows = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert "IoU bicycle" in said
    assert not own_actors(head)


def test_a_directory_that_is_shipped_wins_over_what_is_installed(finished: tuple[Path, int, str]) -> None:
    assert "from the shipped directory" in finished[2]


def test_a_run_shows_its_progress_as_ray_metrics(finished: tuple[Path, int, str]) -> None:
    seen = set((finished[0].parent / "metrics").read_text().splitlines())
    wanted = {"round", "progress", "pixels_scored", "threshold", "pixels_bought", "miou", "loss"}
    assert {f"halo_ray_{name}" for name in wanted} <= seen


def test_what_must_be_mended_is_the_jobs_exit_code_and_last_word(head: Head, tmp_path: Path) -> None:
    submit(head, "wrong", "--", *TINY, "--output_dir", str(tmp_path / "wrong"), "--model.curvature", "0")
    until(lambda: state(head, "wrong") not in ("PENDING", "RUNNING"), "the job to end")
    assert state(head, "wrong") == "FAILED"
    assert "exit code 2" in head.ray("job", "status", "wrong").stdout
    said = logs(head, "wrong")
    assert "error: model.curvature is 0" in said
    assert "Traceback" not in said


def test_without_the_token_nothing_is_run(head: Head, tmp_path: Path) -> None:
    refused = head.ray("job", "submit", "--no-wait", "--", "true", RAY_AUTH_MODE="disabled")
    assert refused.returncode != 0
    assert re.search("unauthorized|authentication|token", refused.stdout + refused.stderr, re.I)
    ended = head.python("jobs/run_al.py", "--preset=tiny", f"--output_dir={tmp_path}", RAY_AUTH_MODE="disabled")
    sentences = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 2, ended.stderr
    assert len(sentences) == 1
    assert head.gcs in sentences[0]
    assert "token" in sentences[0]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("own", [("2.59.0", "3.11.7"), ("2.60.0", "3.10.2")])
def test_another_version_than_the_clusters_is_named(head: Head, tmp_path: Path, own: tuple[str, str]) -> None:
    script = f"import runpy, sys, ray._private.utils as utils; utils.compute_version_info = lambda: {own}"
    script += "; sys.argv = ['jobs/run_al.py', *sys.argv[1:]]; runpy.run_path('jobs/run_al.py', run_name='__main__')"
    ended = head.python("-c", script, "--preset=tiny", f"--output_dir={tmp_path}")
    sentences = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 2, ended.stderr
    assert len(sentences) == 1
    there = f"Ray {ray.__version__} on Python {platform.python_version()}"
    for words in (head.gcs, there, f"Ray {own[0]} on Python {own[1]}"):
        assert words in sentences[0]
    assert "Traceback" not in ended.stderr


def test_a_gpu_that_no_autoscaler_can_add_is_refused(head: Head, tmp_path: Path) -> None:
    ended = head.python("jobs/run_al.py", "--preset=tiny", f"--output_dir={tmp_path}", "--execution.device=cuda")
    assert ended.returncode == 2
    assert "error: execution.device is cuda, but the Ray cluster has no GPU" in ended.stderr
