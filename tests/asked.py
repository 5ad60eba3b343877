"""A round that asks people, made by hand, and the page on which they answer it, as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from PIL import Image
from ray_head import ROOT

from halo_ray.annotations.folder import folder
from halo_ray.data.classes import class_set
from halo_ray.data.listing import MANIFEST
from halo_ray.data.synthetic import render_scene
from halo_ray.root import begin_root
from halo_ray.stages import BEGIN, Stages
from halo_ray.storage import Storage

CLASSES = class_set("synthetic")
HEIGHT, WIDTH, FRAMES = 120, 200, 4


@dataclass(frozen=True)
class Round:
    """An experiment whose first round asks for regions of rendered scenes."""

    storage: Storage
    truth: dict[str, str]
    """The class at the centre of each region, by its id."""

    @property
    def answers(self) -> dict[str, str]:
        """What is stored, by id of the region."""
        files = Path(self.storage.path("requests/round-001/answers/page")).glob("*.jsonl")
        return {found["id"]: found["label"] for file in files for found in [json.loads(file.read_text())]}


def ask(directory: Path, regions: int) -> Round:
    """Writes what a run leaves that waits for people."""
    storage, rows, labels = Storage(str(directory / "run")), [], {}
    for number in range(FRAMES):
        image, label = render_scene("target", 1, number, height=HEIGHT, width=WIDTH)
        path = directory / f"{number}.png"
        Image.fromarray(image).save(path)
        labels[f"scene/{number}"] = label
        rows.append({"image_id": f"scene/{number}", "image_uri": str(path), "height": HEIGHT, "width": WIDTH})
    storage.write_checked_table("manifests/pool.parquet", pa.Table.from_pylist(rows, MANIFEST))
    storage.write_sealed("classes.json", json.loads(json.dumps(asdict(CLASSES))))
    begin_root(storage, "experiment")
    sealed_files = ["classes.json", "manifests/pool.parquet", "manifests/pool.parquet.sha256"]
    Stages(storage).commit(BEGIN, "asked", {}, sealed_files, 0.0)
    Stages(storage).run("pretrain", dict)
    chance, truth, lines = np.random.default_rng(0), {}, []
    places = chance.choice(HEIGHT * WIDTH, regions, replace=False)
    for number, place in enumerate(places.tolist(), start=1):
        image_id = f"scene/{number * FRAMES // (regions + 1)}"
        (y, x), guess = divmod(place, WIDTH), int(chance.integers(11))
        region_id = f"r1-{number}-{number:04x}"
        truth[region_id] = CLASSES.classes[labels[image_id][y, x]]
        why = {"score": 0.5, "radius": 1.5, "entropy": 0.25, "guess": CLASSES.classes[guess], "probability": 0.4}
        lines.append({"id": region_id, "image": image_id, "y": y, "x": x, "r": 1, "pixels": 9, "why": why})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    folder(storage, 1).write_checksum("requests.jsonl", text.encode())
    folder(storage, 1).write("requests.jsonl", text.encode())
    return Round(storage, truth)


@contextmanager
def page(asked: Round, *options: str, token: str | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address; killed at the end."""
    environment = {**os.environ, **({"HALO_RAY_TOKEN": token} if token else {})}
    command = [sys.executable, "jobs/annotate.py", asked.storage.root, *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = ""
        for line in process.stdout:
            address = line.strip()
            if address.startswith("http"):
                break
        assert urlsplit(address).port, process.communicate()[1]
        yield process, address
    finally:
        process.kill()
        process.communicate()
