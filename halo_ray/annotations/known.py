"""Labels of the pool that the user had before any was bought."""

from __future__ import annotations

import pyarrow as pa

from halo_ray.annotations.ask import ask
from halo_ray.annotations.ledger import Ledger
from halo_ray.annotations.oracles import ImportLabels
from halo_ray.data.classes import ClassSet
from halo_ray.storage import Storage, round_directory


def import_known(known: pa.Table, classes: ClassSet, storage: Storage, block_rows: int) -> None:
    """Commits labels as round 0 of an experiment that begins, empty where there are none.

    Args:
        known: pool images (MANIFEST), label_uri being what is to be imported.

    Raises:
        BadRecordError: a label cannot be read or has another size than its image.
    """
    storage.clear(f"{round_directory(0)}/annotations")  # of a beginning that was given up
    ledger = Ledger(storage)
    ledger.commit(0, ask(known, ImportLabels(classes), block_rows))
    pixels = ledger.seal(0)
    if pixels:
        print(f"round 0: {pixels} pixels of {known.num_rows} images were labelled already", flush=True)
