"""A round that asks people, in a folder of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from round_of_people import CLASSES, PLACES, RADIUS, ROUND, SIZES, WHY
from small_round import Clock

from halo_ray.annotations.export import export
from halo_ray.annotations.folder import folder, with_ids
from halo_ray.storage import Storage


@pytest.fixture
def requests(tmp_path: Path) -> pa.Table:
    rows = []
    for image_id, (height, width) in SIZES.items():
        path = tmp_path / f"{image_id.replace('/', '_')}.png"
        noise = np.random.default_rng(len(rows)).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(path)
        known = {"known_y": [15], "known_x": [15]} if image_id == "b" else {"known_y": [], "known_x": []}
        picks = [{"y": y, "x": x, **WHY} for y, x in PLACES[image_id]]
        where = {"image_id": image_id, "image_uri": str(path), "label_uri": None, "label_format": None}
        rows.append({**where, "height": height, "width": width, **known, "picks": picks})
    places, text = pa.list_(pa.int64()), pa.string()
    schema = pa.schema([(key, text) for key in ("image_id", "image_uri", "label_uri", "label_format")])
    for key, kind in {"height": pa.int32(), "width": pa.int32(), "known_y": places, "known_x": places}.items():
        schema = schema.append(pa.field(key, kind))
    pick = pa.struct([(key, pa.int64() if key in ("y", "x", "guess") else pa.float64()) for key in ("y", "x", *WHY)])
    return with_ids(pa.Table.from_pylist(rows, schema.append(pa.field("picks", pa.list_(pick)))), ROUND, "model")


@pytest.fixture
def storage(cluster: None, requests: pa.Table, tmp_path: Path) -> Storage:
    """An experiment that has asked."""
    storage = Storage(str(tmp_path / "run"))
    export(requests, storage, ROUND, CLASSES, RADIUS, 1)
    return storage


@pytest.fixture
def place(storage: Storage) -> Path:
    return Path(folder(storage, ROUND).root)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ids(place: Path) -> list[str]:
    """Of the regions, as people read them."""
    return [json.loads(line)["id"] for line in (place / "requests.jsonl").read_text().splitlines()]
