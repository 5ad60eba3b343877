"""Ask an oracle about many images, in Ray tasks, and write its answers down."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from halo_ray.annotations.ledger import LEDGER
from halo_ray.pipeline import Transform, arrow_batches, stream

GROUP_ROWS = 1 << 18
"""Rows of a row group of the ledger's file."""


def ask(requests: pa.Table, oracle: Transform, block_rows: int) -> bytes:
    """The ledger's file (LEDGER, Parquet) of what ``oracle`` answers to ``requests``, a row for each image."""
    buffer, waiting = io.BytesIO(), LEDGER.empty_table()
    with pq.ParquetWriter(buffer, LEDGER) as writer:
        if requests.num_rows:
            with arrow_batches(stream(requests, block_rows, oracle)) as answers:
                for answer in answers:
                    waiting = pa.concat_tables([waiting, answer.cast(LEDGER)])
                    # Groups of a fixed size, so that the bytes of the file do not depend on those of the blocks.
                    while waiting.num_rows >= GROUP_ROWS:
                        writer.write_table(waiting.slice(0, GROUP_ROWS).combine_chunks())
                        waiting = waiting.slice(GROUP_ROWS)
        writer.write_table(waiting.combine_chunks())
    return buffer.getvalue()
