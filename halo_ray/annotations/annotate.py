"""Ask the oracle for the selected regions and commit its answers to the ledger."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from halo_ray.acquisition.threshold import order_keys
from halo_ray.annotations.ledger import LEDGER, Ledger
from halo_ray.annotations.oracles import GroundTruth
from halo_ray.candidates import CANDIDATES
from halo_ray.checkpoint import weights_checksum
from halo_ray.context import Context
from halo_ray.pipeline import arrow_batches, stream

GROUP_ROWS = 1 << 18
"""Rows of a row group of the ledger's file."""

_PICK = ["y", "x", "score", "radius", "entropy", "guess", "probability"]
_COLUMNS = ["image_id", *_PICK]


def annotate(context: Context, number: int, selection: str, candidates: str, checkpoint: str) -> dict[str, Any]:
    """Buys the labels of the regions that ``selection`` chose among ``candidates``.

    Returns:
        JSON-able: ``pixels`` bought in this round.
    """
    storage, config = context.storage, context.config
    requests = _requests(context, number, storage.read_json(selection)["counts"], candidates)
    oracle = GroundTruth(
        context.classes, config.acquisition.region_radius, number, weights_checksum(storage, checkpoint)
    )
    buffer, pixels = io.BytesIO(), 0
    waiting = LEDGER.empty_table()
    with pq.ParquetWriter(buffer, LEDGER) as writer:
        if requests.num_rows:
            with arrow_batches(stream(requests, config.execution.block_images, oracle)) as answers:
                for answer in answers:
                    waiting = pa.concat_tables([waiting, answer.cast(LEDGER)])
                    pixels += answer.num_rows
                    # Groups of a fixed size, so that the bytes of the file do not depend on those of the blocks.
                    while waiting.num_rows >= GROUP_ROWS:
                        writer.write_table(waiting.slice(0, GROUP_ROWS).combine_chunks())
                        waiting = waiting.slice(GROUP_ROWS)
        writer.write_table(waiting.combine_chunks())
    storage.write(Ledger.file(number), buffer.getvalue())
    return {"pixels": pixels}


def _requests(context: Context, number: int, counts: dict[str, int], candidates: str) -> pa.Table:
    """One row per image with picks, by image id: its label, the regions asked before, and its picks in order."""
    storage = context.storage
    wanted = pa.array(list(counts), pa.string())
    touched = [CANDIDATES.empty_table().select(_COLUMNS)]
    for path in storage.files(candidates):
        table = pq.read_table(path, filesystem=storage.filesystem, columns=_COLUMNS)
        touched.append(table.filter(pc.is_in(table["image_id"], wanted)))
    picks: dict[str, list[dict[str, Any]]] = {}
    for row in _first_of_each(pa.concat_tables(touched), counts).to_pylist():
        picks.setdefault(row["image_id"], []).append({name: row[name] for name in _PICK})
    label_of = dict(zip(*(context.splits.pool[name].to_pylist() for name in ("image_id", "label_uri")), strict=True))
    asked = Ledger(storage).asked_regions(number)
    rows = []
    for image_id in sorted(picks):
        asked_y, asked_x = asked.get(image_id, ([], []))
        rows.append(
            {
                "image_id": image_id,
                "label_uri": label_of[image_id],
                "asked_y": asked_y,
                "asked_x": asked_x,
                "picks": picks[image_id],
            }
        )
    places = pa.list_(pa.int64())
    pick = pa.struct([LEDGER.field(name) for name in _PICK])
    names = [("image_id", pa.string()), ("label_uri", pa.string()), ("asked_y", places), ("asked_x", places)]
    return pa.Table.from_pylist(rows, schema=pa.schema([*names, ("picks", pa.list_(pick))]))


def _first_of_each(table: pa.Table, counts: dict[str, int]) -> pa.Table:
    """The first counts[image_id] candidates of each image in picking order."""
    ids = table["image_id"].to_numpy(zero_copy_only=False).astype(str)
    order = np.lexsort((table["x"].to_numpy(), table["y"].to_numpy(), ~order_keys(table["score"].to_numpy()), ids))
    ids = ids[order]
    # Rank within the image: distance from where its run of rows begins.
    rank = np.arange(len(ids)) - np.searchsorted(ids, ids)
    limit = np.array([counts[image_id] for image_id in ids], np.int64)
    return table.take(order[rank < limit])
