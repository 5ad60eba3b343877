"""A sweep whose driver is killed in the middle and that is run again, with ASHA, on a cluster that goes on."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from PIL import Image
from ray_head import LOOK_EVERY, ROOT, Head, listed, own_actors, until

TOGETHER = 2

CURVATURES, BUDGETS, FUNCTIONS = (1.0, 0.001), (0.01,), ("halo", "random")
CELLS = set(product(CURVATURES, BUDGETS, FUNCTIONS))

pytestmark = pytest.mark.faults


@dataclass(frozen=True)
class Sweep:
    """What was seen of a sweep."""

    directory: Path
    published: dict[str, int]
    """Entries of the shared stages and when their markers were written, when the first driver was killed."""
    said: str
    most_groups: int
    """The most placement groups that stood at the same time while the second driver ran."""


def start(head: Head, directory: Path, *options: str) -> subprocess.Popen[str]:
    """In the directory above, by relative paths, as a user would."""
    command = [
        sys.executable,
        str(ROOT / "jobs/sweep.py"),
        "--preset",
        "tiny",
        "--curvature",
        *map(str, CURVATURES),
        "--budget",
        *map(str, BUDGETS),
    ]
    command += ["--acquisition", "halo", "--scheduler", "asha", "--max_concurrent_trials", str(TOGETHER)]
    return subprocess.Popen(
        [*command, "--output_dir", directory.name, "--execution.shared_stages", "store", *options],
        cwd=directory.parent,
        env={**head.environment, "RAY_ADDRESS": head.gcs},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def entries(directory: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in directory.parent.glob("store/*/stage.json")}


@pytest.fixture(scope="module")
def sweep(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    directory = tmp_path_factory.mktemp("sweep") / "sweep"
    first = start(head, directory)
    until(
        lambda: first.poll() is not None or list(directory.glob("trials/*/stages/rounds/001/annotate.json")),
        "the first purchase",
    )
    assert first.poll() is None, first.communicate()[0]
    first.kill()
    first.communicate()
    published = entries(directory)
    until(lambda: not own_actors(head), "the killed sweep's actors to end", 60)

    most = 0
    second = start(head, directory)
    while second.poll() is None:
        time.sleep(LOOK_EVERY)
        groups = [group for group in listed(head, "placement-groups") if group["state"] != "REMOVED"]
        most = max(most, len(groups))
    said = second.communicate()[0]
    assert second.returncode == 0, said
    return Sweep(directory, published, said, most)


def test_pretraining_of_each_curvature_ran_once(sweep: Sweep) -> None:
    now = entries(sweep.directory)
    assert len([name for name in now if name.startswith("pretrain-")]) == len(CURVATURES)
    assert len([name for name in now if name.startswith("rounds-001-score-")]) == len(CURVATURES)
    # Whoever trains writes event files: two trials did, the others took what those had.
    trained = {path.parent.parent.name for path in sweep.directory.glob("trials/*/tensorboard/pretrain")}
    assert len(trained) == len(CURVATURES)
    weights = [path.read_bytes() for path in sweep.directory.glob("trials/*/pretrain/checkpoint/model.safetensors")]
    assert len(weights) == len(CELLS)
    assert len(set(weights)) == len(CURVATURES)


def test_the_second_driver_did_nothing_again(sweep: Sweep) -> None:
    assert sweep.published
    now = entries(sweep.directory)
    assert {name: now[name] for name in sweep.published} == sweep.published


def test_the_table_has_every_cell(sweep: Sweep) -> None:
    rows = list(csv.DictReader((sweep.directory / "results.csv").open()))
    cells = {(float(row["curvature"]), float(row["budget"]), row["acquisition"]) for row in rows}
    assert cells == CELLS
    for row in rows:
        trial = f"c{row['curvature']}-b{row['budget']}-{row['acquisition']}-s0"
        last = json.loads((sweep.directory / "trials" / trial / "metrics.jsonl").read_text().splitlines()[-1])
        assert float(row["miou"]) == last["miou"]
        assert f"{100 * last['miou']:.1f}" in sweep.said
    with Image.open(sweep.directory / "sweep.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 10


def test_asha_stops_a_poor_trial_and_leaves_no_placement_group_or_actor(sweep: Sweep, head: Head) -> None:
    stopped = [path.stem for path in (sweep.directory / "stopped").iterdir()]
    assert stopped
    for trial in stopped:
        assert "random" not in trial
        assert f"{trial}: stopped after round 1" in sweep.said
        assert not (sweep.directory / "trials" / trial / "stages/rounds/002/record.json").exists()
    # One for each trial that runs, and at the end none.
    assert 1 <= sweep.most_groups <= TOGETHER
    assert not [group for group in listed(head, "placement-groups") if group["state"] != "REMOVED"]
    assert not own_actors(head)


def test_a_directory_with_another_search_space_is_refused(sweep: Sweep, head: Head) -> None:
    before = (sweep.directory / "results.json").read_bytes()
    other = start(head, sweep.directory, "--seeds", "2")
    said = other.communicate(timeout=100)[0]
    assert other.returncode == 2
    assert "holds another sweep" in said
    assert "--seeds (there 1)" in said
    assert (sweep.directory / "results.json").read_bytes() == before
