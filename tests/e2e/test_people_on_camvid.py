"""Real dusk frames labelled by somebody who sees the folder of a round alone, and a run that is killed as it reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from report_page import Page, check_numbers

from halo_ray.annotations.ledger import Ledger
from halo_ray.storage import Storage
from halo_ray.verification.verify import verify_experiment

ROOT = Path(__file__).parents[2]
CAMVID = ROOT / "../shared/data/camvid"

OPTIONS = (
    "--preset=camvid_day_to_dusk",
    f"--data_root={CAMVID}",
    f"--model.backbone={ROOT / '../shared/weights/mobilenet_v2_imagenet'}",
    "--data.source.count=24",
    "--data.validation.count=6",
    "--data.height=96",
    "--data.width=128",
    "--model.decoder_width=16",
    "--acquisition.rounds=2",
    "--acquisition.budget=0.0002",
    "--acquisition.region_radius=1",
    "--training.pretrain_steps=12",
    "--training.round_steps=4",
    "--training.control=false",
    "--execution.num_workers=0",
    "--execution.max_actors=0",
    "--annotation.accept_share=0.8",
)
"""The preset, made small; the pool is whole."""

PEOPLE = ("--annotation.oracle=files",)

UNLABELLED = ("reader=folder", "images=images/*.jpg", "list_file=splits/dusk_pool.txt")
"""The same pool as the preset's, without labels."""

LEFT_OUT, MISTYPED = 0.1, 0.05


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a job, whose Ray lies in a short directory."""
    with tempfile.TemporaryDirectory(prefix="hr", dir="/tmp", ignore_cleanup_errors=True) as ray_directory:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}

        def starting(output_dir: Path, *options: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "jobs/run_al.py", *OPTIONS, f"--output_dir={output_dir}", *options],
                cwd=ROOT,
                env={**environment, "RAY_TMPDIR": ray_directory},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        yield starting


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    """What a run said that ended with that code."""
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err.splitlines()[-1] if err else ""


def killed_once(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """SIGKILL, as soon as that has happened."""
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def answered(folder: Path) -> dict[str, list[str]]:
    """What the annotator, a program of its own, says that it did."""
    command = [sys.executable, "tests/annotator.py", folder, CAMVID / "labels", str(LEFT_OUT), str(MISTYPED)]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def bought(output_dir: Path, number: int) -> pa.Table:
    return Ledger(Storage(str(output_dir))).read(number + 1, first=number)


def requests(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Image and place of each region that was asked, by id."""
    lines = map(json.loads, (folder / "requests.jsonl").read_text().splitlines())
    return {line["id"]: (line["image"], line["y"], line["x"]) for line in lines}


@pytest.mark.faults
def test_partial_answers_buy_what_the_truth_does(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    people, truth = tmp_path / "people", tmp_path / "truth"
    ended(start(truth), 0)
    pool = [
        "--data.pool.reader=folder",
        "--data.pool.images=images/*.jpg",
        "--data.pool.list_file=splits/dusk_pool.txt",
    ]
    options = (*PEOPLE, *pool)  # which have no labels
    done: dict[int, dict[str, list[str]]] = {}
    for number in (1, 2):
        folder = people / f"requests/round-{number:03d}"
        _, said = ended(start(people, *options), 3)
        assert said.startswith(f"waiting: round {number} asks for ")
        done[number] = answered(folder)
        if number == 1:
            before = (folder / "requests.jsonl").read_bytes()
            killed_once(start(people, *options), (folder / "received.json").exists)
            killed_once(start(people, *options), (people / Ledger.file(1)).exists)
            assert (folder / "requests.jsonl").read_bytes() == before
    out, _ = ended(start(people, *options), 0)
    check_numbers(Page(people / "report/index.html"), people)
    for number, kinds in done.items():
        folder = people / f"requests/round-{number:03d}"
        asked, table = requests(folder), bought(people, number)
        ids = [*kinds["filled"], *kinds["told"]]
        assert len(ids) == pytest.approx((1 - LEFT_OUT - MISTYPED) * len(asked), abs=1)
        # Neither more nor less than what was answered.
        regions = zip(*(table[name].to_pylist() for name in ("image_id", "region_y", "region_x")), strict=True)
        assert set(regions) == {asked[each] for each in ids}
        # The truth, but that one class fills the regions of the list.
        filled = {asked[each] for each in kinds["filled"]}
        for image in set(table["image_id"].to_pylist()):
            with Image.open(CAMVID / f"labels/{image}.png") as file:
                label = np.asarray(file)
            rows = [row for row in table.to_pylist() if row["image_id"] == image]
            for row in rows:
                pixel = (image, row["region_y"], row["region_x"]) in filled
                said = label[(row["y"], row["x"]) if pixel else (row["region_y"], row["region_x"])]
                assert row["label"] == (255 if said == 11 else said)
        received = json.loads((folder / "received.json").read_text())
        assert set(received["not_answered"]) == {*kinds["left out"], *kinds["mistyped"]}
        assert len(received["problems"]) == len(kinds["mistyped"])
    assert f"round 2: {len(done[2]['filled'] + done[2]['told'])} of " in out
    # In the first round both had the same model: what is answered pixel by pixel is the same, to the last digit.
    asked = requests(people / "requests/round-001")
    filled = {asked[each] for each in done[1]["filled"]}
    mine, theirs = (
        [
            {key: value for key, value in row.items() if key != "oracle"}
            for row in bought(directory, 1).to_pylist()
            if (row["image_id"], row["region_y"], row["region_x"]) in filled
        ]
        for directory in (people, truth)
    )
    assert mine == theirs
    assert len({(row["image_id"], row["region_y"], row["region_x"]) for row in mine}) == len(filled)
    assert verify_experiment(str(people)).wrong == []
