"""Damage to a copy of a finished experiment: what a disk, a hand or a bug could do to it, digests made right again."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from halo_ray.annotations.ledger import LEDGER, Ledger
from halo_ray.candidates import FILES
from halo_ray.storage import Storage, round_directory, sha256

Change = Callable[[Any], Any]

ROUND_STAGES = "score", "select", "annotate", "train", "control", "evaluate", "record"

ORDER = (
    "begin",
    "pretrain",
    *(f"rounds/000/{stage}" for stage in ("evaluate", "record")),
    *(f"rounds/{number:03d}/{stage}" for number in (1, 2) for stage in ROUND_STAGES),
    "report-2",
)
"""The stages of the finished experiment as they were done."""

MADE = {
    "pretrain": ("pretrain",),
    "score": ("candidates", "maps", "problems"),
    "select": ("selection.json", "compared"),
    "annotate": ("annotations",),
    "train": ("checkpoint",),
    "control": ("control",),
    "record": ("metrics.json",),
    "report-2": ("report",),
}
"""What each stage writes, below its round."""


def flip(storage: Storage, name: str) -> None:
    """Another bit in the middle of a file."""
    data = bytearray(storage.read(name))
    data[len(data) // 2] ^= 1
    storage.write(name, bytes(data))


def reseal(storage: Storage, name: str, change: Change) -> None:
    """Changes the value of a sealed JSON file and its digest, and what markers say of it."""
    value = storage.read_sealed(name)
    change(value)
    storage.write_sealed(name, value)
    remark(storage, name)


def remark(storage: Storage, name: str) -> None:
    """Puts the digest of a file as it is now into the marker that seals it."""
    for file in storage.tree("stages"):
        if file.endswith(".json") and file != name:
            marker = storage.read_sealed(file)
            if name in marker.get("files", {}):
                marker["files"][name] = sha256(storage.read(name))
                storage.write_sealed(file, marker)


def rejson(storage: Storage, name: str, change: Change) -> None:
    """The same of a JSON file without a digest."""
    value = storage.read_json(name)
    change(value)
    storage.write_json(name, value)
    remark(storage, name)


def rewrite_ledger(storage: Storage, number: int, change: Callable[[pa.Table], pa.Table]) -> None:
    """Changes a round of the ledger and its checksum."""
    buffer = io.BytesIO()
    pq.write_table(change(storage.read_table(Ledger.file(number))).cast(LEDGER), buffer)
    storage.write(Ledger.file(number), buffer.getvalue())
    storage.write_checksum(Ledger.file(number), buffer.getvalue())
    for name in (Ledger.file(number), Ledger.checksum_file(number)):
        remark(storage, name)


def candidates(storage: Storage, number: int, function: str) -> str:
    """The only file of candidates of a function."""
    result = storage.read_sealed(f"stages/{round_directory(number)}/score.json")["result"]
    (name,) = (file for file in storage.files(result["candidates"][function]) if file.endswith(".parquet"))
    return name


def rewrite_candidates(
    storage: Storage, number: int, change: Callable[[pa.Table], pa.Table], function: str = "halo"
) -> None:
    """Changes a file of candidates and its digest in the list of files."""
    name = candidates(storage, number, function)
    storage.write_table(name, change(storage.read_table(name)))
    redigest(storage, name)


def redigest(storage: Storage, name: str) -> None:
    directory, _, file = name.rpartition("/")
    digest = hashlib.sha256(storage.read(name)).hexdigest()
    reseal(storage, f"{directory}/{FILES}", lambda digests: digests.update({file: digest}))


def rows(table: pa.Table, change: Callable[[list[dict[str, Any]]], Any]) -> pa.Table:
    """The table with its rows changed in place, as a list of dictionaries."""
    values = table.to_pylist()
    change(values)
    return pa.Table.from_pylist(values, schema=table.schema)


def region(table: pa.Table, number: int) -> list[bool]:
    """Which rows of a ledger are of the region that comes at that place, counted by what was bought first."""
    centres = list(dict.fromkeys(map(_centre, table.to_pylist())))
    return [_centre(row) == centres[number] for row in table.to_pylist()]


def _centre(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["image_id"], row["region_y"], row["region_x"]


def moved(table: pa.Table, number: int, image_id: str, y: int, x: int) -> pa.Table:
    """The table with a region centred elsewhere, with all its pixels, which must lie inside."""
    mine = region(table, number)
    model = table.filter(pa.array(mine)).to_pylist()[0]
    pixels = [
        {**model, "image_id": image_id, "region_y": y, "region_x": x, "y": y + dy, "x": x + dx}
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    rest = table.filter(pc.invert(pa.array(mine)))
    return pa.concat_tables([rest, pa.Table.from_pylist(pixels, schema=table.schema)])


def undo(storage: Storage, stage: str) -> None:
    """Deletes what a stage, whose marker is gone, has written."""
    at, _, kind = stage.rpartition("/")
    for name in MADE.get(kind, ()):
        path = Path(storage.path(f"{at}/{name}" if at else name))
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if kind == "record":
        forget_record(storage, int(at.rpartition("/")[2]))


def forget_record(storage: Storage, number: int) -> None:
    """The gathered metrics as they were before that round was recorded."""
    records = [json.loads(line) for line in storage.read("metrics.jsonl").splitlines()][:number]
    if not records:
        storage.delete("metrics.jsonl")
        storage.delete("checkpoints.json")
        return
    storage.write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
    best = max(records, key=lambda record: record["miou"])
    kept = {
        name: {key: record[key] for key in ("checkpoint", "round", "miou")}
        for name, record in {"best": best, "last": records[-1]}.items()
    }
    storage.write_json("checkpoints.json", kept)
