"""Labels of the pool that the user had before any was bought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.annotations.ask import ask, ledger_rows
from halo_ray.annotations.ledger import LEDGER, Ledger
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.images import other_size, read_label
from halo_ray.storage import Storage


@dataclass(frozen=True)
class ImportLabels:
    """Takes labels over that somebody made before: every pixel of a label image that is not void."""

    classes: ClassSet

    name = "imported"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Ledger rows of round 0 for manifest rows whose label_uri is the label to import."""
        tables = [LEDGER.empty_table()]
        for row in batch.to_pylist():
            label = read_label(row["label_uri"], self.classes, row["label_format"])
            size = (row["height"], row["width"])
            if label.shape != size:
                raise other_size(row["label_uri"], label, size)
            y, x = np.nonzero(label != IGNORE)
            columns: dict[str, npt.NDArray[Any]] = {"y": y, "x": x, "region_y": y, "region_x": x, "label": label[y, x]}
            same = {"image_id": row["image_id"], "round": 0, "oracle": self.name}
            tables.append(ledger_rows(columns, same, len(y)))
        return pa.concat_tables(tables)


def import_known(known: pa.Table, classes: ClassSet, storage: Storage, block_rows: int) -> None:
    """Commits labels as round 0 of an experiment that begins, empty where there are none.

    Args:
        known: pool images (MANIFEST), label_uri being what is to be imported.

    Raises:
        BadRecordError: a label cannot be read or has another size than its image.
    """
    ledger = Ledger(storage)
    ledger.commit(0, ask(known, ImportLabels(classes), block_rows))
    pixels = ledger.seal(0)
    if pixels:
        print(f"round 0: {pixels} pixels of {known.num_rows} images were labelled already", flush=True)
