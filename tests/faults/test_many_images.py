"""A pool of many images: it fits in a small object store, and the driver's memory hardly grows with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image
from ray_head import ROOT, Head, ray_head

from halo_ray.data.synthetic import CLASSES, render_scene

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

MANY, FEW = 10_000, 64
"""Images of the two pools."""
DRAWN = 256
"""How many of them are drawn; the others are links to those."""
SIZE, INPUT = (48, 64), (96, 128)
"""Heights and widths of an image and of the network's input: decoded, the large pool does not fit in the store."""
STORE = 300_000_000
"""Bytes of the object store."""
MOST_SPILLED, MOST_GROWTH = 1_000_000_000, 200_000_000
"""Bytes that the large pool may cost."""

STAGES = {
    "inspection": "config.yaml",
    "pretraining": "stages/rounds/000/record.json",
    "scoring": "stages/rounds/001/score.json",
    "purchase": "stages/rounds/001/annotate.json",
    "training": "stages/report-1.json",
}
"""What an experiment does in turn, each with the file that it ends with."""

SAMPLE_SECONDS = 0.2
MIB = 2**20

FILL = """
import numpy as np
import ray

ray.init()
kept = [ray.put(np.ones({size}, np.uint8)) for _ in range({count})]
"""


@dataclass(frozen=True)
class Run:
    """A whole experiment of one round."""

    output_dir: Path
    peaks: dict[str, int]
    """The most bytes that the driver had resident in each of STAGES."""
    seconds: dict[str, float]
    """That each took."""
    before_scoring: int
    """Bytes that the driver had resident when the pool began to be scored."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head("--num-cpus=2", f"--object-store-memory={STORE}") as running:
        yield running


@pytest.fixture(scope="module")
def few(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(head, tmp_path_factory.mktemp("few"), FEW)


@pytest.fixture(scope="module")
def many(head: Head, few: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(head, tmp_path_factory.mktemp("many"), MANY)


def write_pool(root: Path, images: int) -> None:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(images):
        files = [root / folder / f"{number:05d}{suffix}" for folder, suffix in (("images", ".jpg"), ("labels", ".png"))]
        if number < DRAWN:
            for array, file in zip(
                render_scene("target", 0, number, height=SIZE[0], width=SIZE[1]), files, strict=True
            ):
                Image.fromarray(array).save(file)
        else:
            for file in files:
                os.link(file.with_stem(f"{number % DRAWN:05d}"), file)


def write_config(directory: Path) -> Path:
    """The least of everything that does not grow with the pool."""
    (directory / "classes.yaml").write_text(f"name: streets\nclasses: {list(CLASSES)}\n")
    rendered = {"reader": "synthetic", "scenes": 8, "height": SIZE[0], "width": SIZE[1]}
    config = {
        "output_dir": str(directory / "run"),
        "data_root": str(directory / "pool"),
        "data": {
            "source": rendered,
            "pool": {"reader": "folder", "images": "images/*.jpg", "labels": "labels/*.png"},
            "validation": {**rendered, "first": 100_000},
            "class_set": str(directory / "classes.yaml"),
            "height": INPUT[0],
            "width": INPUT[1],
        },
        "model": {"backbone": "resnet-tiny", "embedding": 8, "decoder_width": 16},
        "acquisition": {"rounds": 1},
        "training": {"pretrain_steps": 4, "round_steps": 4, "warmup_steps": 1, "control": False},
    }
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def run(head: Head, directory: Path, images: int) -> Run:
    """The job on a pool of so many images, as a user starts it beside a cluster, watched from outside."""
    write_pool(directory / "pool", images)
    command = [sys.executable, "jobs/run_al.py", "--config", str(write_config(directory))]
    output_dir, log = directory / "run", directory / "log"
    samples: dict[str, list[tuple[float, int]]] = {stage: [] for stage in STAGES}
    with open(log, "w") as out:
        environment = {**head.environment, "RAY_ADDRESS": head.gcs}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        driver = psutil.Process(process.pid)
        try:
            while process.poll() is None:
                now = next((stage for stage, end in STAGES.items() if not (output_dir / end).exists()), "training")
                with suppress(psutil.NoSuchProcess):
                    samples[now].append((time.monotonic(), driver.memory_info().rss))
                time.sleep(SAMPLE_SECONDS)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0, log.read_text()
    return Run(
        output_dir,
        peaks={stage: max(rss for _, rss in told) for stage, told in samples.items()},
        seconds={stage: told[-1][0] - told[0][0] for stage, told in samples.items()},
        before_scoring=samples["scoring"][0][1],
    )


def spilled(head: Head) -> int:
    """Bytes that the cluster has spilled since it began, to a MiB; Ray says nothing of them while there are none."""
    said = head.ray("memory", "--stats-only", "--address", head.gcs)
    assert "Plasma memory usage" in said.stdout, said.stderr
    found = re.search(r"Spilled (\d+) MiB", said.stdout)
    return int(found[1]) * MIB if found else 0


def test_all_images_go_through_the_round(many: Run) -> None:
    chosen = json.loads((many.output_dir / "stages/rounds/001/select.json").read_text())["result"]
    plan = json.loads((many.output_dir / "plan.json").read_text())
    bought, last = (json.loads(line) for line in (many.output_dir / "metrics.jsonl").read_text().splitlines())
    assert chosen["audit"]["images"] == MANY
    assert chosen["regions"] == plan["rounds"][0]["regions"] > 0
    assert bought["pixels"] == 0
    assert last["pixels"] > 8 * chosen["regions"]  # of 9 each, but for some at the border


def test_the_object_store_spills_little(head: Head, many: Run) -> None:
    assert MANY * INPUT[0] * INPUT[1] * 3 > STORE
    before = spilled(head)
    print(f"spilled {before / 1e6:.0f} MB")
    assert before < MOST_SPILLED
    # And had it spilled, that would be seen: what does not fit is.
    count, size = 12, STORE // 6
    filled = head.python("-c", FILL.format(count=count, size=size))
    assert filled.returncode == 0, filled.stderr
    assert spilled(head) - before >= count * size - STORE


def test_the_driver_hardly_grows_with_the_pool(few: Run, many: Run) -> None:
    """Most of what it has resident are libraries, some of which are first needed in training.

    What the pool costs is therefore told in two ways: by comparing, stage by stage, with an experiment that differs in
    its pool alone, and by what is added once the pool is scored, when everything else has been loaded.
    """
    growth = {stage: many.peaks[stage] - few.peaks[stage] for stage in STAGES}
    later = max(list(many.peaks.values())[list(STAGES).index("scoring") :]) - many.before_scoring
    for name, told in (("few", few), ("many", many)):
        print(name, {stage: f"{told.peaks[stage] / 1e6:.0f} MB, {told.seconds[stage]:.0f} s" for stage in STAGES})
    print(f"since scoring began {later / 1e6:.0f} MB")
    assert max(growth.values()) < MOST_GROWTH, growth
    assert later < MOST_GROWTH
