"""Ask an oracle about many images, in Ray tasks, and write its answers down."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from halo_ray.annotations.ledger import LEDGER
from halo_ray.annotations.oracles import UNANSWERED, Question, answer, question
from halo_ray.data.classes import ClassSet
from halo_ray.pipeline import Transform, arrow_batches, stream

GROUP_ROWS = 1 << 18
"""Rows of a row group of the ledger's file."""


@dataclass(frozen=True)
class Ask:
    """Asks an oracle for the regions of each image."""

    oracle: str
    """Its name, as configured."""
    classes: ClassSet
    region_radius: int
    round: int
    model: str
    """Checksum of the weights that chose the regions."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """LEDGER rows of what is answered of requests, which have a row for each image: see oracles.question."""
        tables = [LEDGER.empty_table()]
        for request in batch.to_pylist():
            asked = question(request, self.region_radius)
            tables.append(self._rows(asked, answer(self.oracle, self.classes, asked)))
        return pa.concat_tables(tables)

    def _rows(self, asked: Question, label: npt.NDArray[np.uint8]) -> pa.Table:
        y, x = (np.concatenate(places) for places in zip(*asked.pixels, strict=True))
        region = np.repeat(np.arange(len(asked.regions)), [len(ys) for ys, _ in asked.pixels])
        answered = np.flatnonzero(label[y, x] != UNANSWERED)
        y, x, region = y[answered], x[answered], region[answered]
        columns: dict[str, npt.NDArray[Any]] = {"y": y, "x": x, "label": label[y, x]}
        for name, values in zip(asked.regions[0]._fields, zip(*asked.regions, strict=True), strict=True):
            columns[f"region_{name}" if name in ("y", "x") else name] = np.array(values)[region]
        same = {"image_id": asked.image_id, "round": self.round, "oracle": self.oracle, "model": self.model}
        return ledger_rows(columns, same, len(answered))


def ledger_rows(columns: dict[str, npt.NDArray[Any]], same: dict[str, object], count: int) -> pa.Table:
    """LEDGER rows with some columns (``count``,) and some values that all rows share; others are null."""
    arrays = [
        pa.array(columns[field.name]).cast(field.type)
        if field.name in columns
        else pa.repeat(pa.scalar(same.get(field.name), field.type), count)
        for field in LEDGER
    ]
    return pa.Table.from_arrays(arrays, schema=LEDGER)


def ask(requests: pa.Table, answering: Transform, block_rows: int) -> bytes:
    """The ledger's file (LEDGER, Parquet) of the rows that ``answering`` makes of requests, a row for each image."""
    buffer, waiting = io.BytesIO(), LEDGER.empty_table()
    with pq.ParquetWriter(buffer, LEDGER) as writer:
        if requests.num_rows:
            with arrow_batches(stream(requests, block_rows, answering)) as answers:
                for each in answers:
                    waiting = pa.concat_tables([waiting, each.cast(LEDGER)])
                    # Groups of a fixed size, so that the bytes of the file do not depend on those of the blocks.
                    while waiting.num_rows >= GROUP_ROWS:
                        writer.write_table(waiting.slice(0, GROUP_ROWS).combine_chunks())
                        waiting = waiting.slice(GROUP_ROWS)
        writer.write_table(waiting.combine_chunks())
    return buffer.getvalue()


def regions_in(data: bytes) -> int:
    """How many regions the ledger's file of a round has rows of."""
    columns = ["image_id", "region_y", "region_x"]
    return int(pq.ParquetFile(io.BytesIO(data)).read(columns).group_by(columns).aggregate([]).num_rows)
