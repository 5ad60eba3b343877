"""What a run does with the answers of a round, without the rest of it: it reads them and buys them, or gives up.

    python tests/run_that_reads.py EXPERIMENT ROUND SECONDS WHAT

Holds the experiment's lock, reads the answers that lists give, and after SECONDS buys them (WHAT is buy), finds that
they are too few (wait), or is killed by its own hand (die).
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from contextlib import suppress

import numpy as np
import pyarrow.parquet as pq

from halo_ray.annotations.ask import ledger_rows
from halo_ray.annotations.desk_files import read_requests
from halo_ray.annotations.folder import ANSWERS, folder
from halo_ray.annotations.ledger import Ledger
from halo_ray.annotations.reading import reading
from halo_ray.annotations.received import Said, read_lists
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.errors import AnswersNeededError
from halo_ray.storage import Storage

Bought = dict[str, int]
"""The class, or IGNORE, of each region that was bought."""


def answers_now(storage: Storage, number: int, classes: ClassSet) -> Bought:
    """What lists say, where they agree."""
    place = folder(storage, number)
    said: Said = {region_id: [] for region_id in read_requests(place, number)}
    for problem in read_lists(place, place.tree(ANSWERS), number, classes, said):
        raise AssertionError(problem)
    labels = {region_id: {label for _, label in mine} for region_id, mine in said.items()}
    return {region_id: found.pop() for region_id, found in labels.items() if len(found) == 1}


def buy(storage: Storage, number: int, bought: Bought) -> None:
    """Commits the centre of each region to the ledger."""
    regions = read_requests(folder(storage, number), number)
    buffer, at = io.BytesIO(), [regions[region_id] for region_id in bought]
    places = {name: np.array([getattr(each, name) for each in at], np.int64) for name in ("y", "x")}
    columns = {
        "image_id": np.array([each.image for each in at], str),
        **places,
        **{f"region_{name}": values for name, values in places.items()},
        "label": np.array([*bought.values()], np.int64),
    }
    pq.write_table(ledger_rows(columns, {"round": number}, len(at)), buffer)
    Ledger(storage).commit(number, buffer.getvalue())


def bought_labels(storage: Storage, number: int, classes: ClassSet) -> dict[str, str]:
    """The label of each region in the ledger, as the page calls it."""
    regions = {
        (each.image, each.y, each.x): each.id for each in read_requests(folder(storage, number), number).values()
    }
    rows = Ledger(storage).read(number + 1, ["image_id", "region_y", "region_x", "label"], first=number).to_pylist()
    names = {**dict(enumerate(classes.classes)), IGNORE: "can't tell"}
    return {regions[row["image_id"], row["region_y"], row["region_x"]]: names[row["label"]] for row in rows}


def read_and(what: str, storage: Storage, number: int, classes: ClassSet, seconds: float) -> None:
    with suppress(AnswersNeededError), reading(storage, number):
        found = answers_now(storage, number, classes)
        time.sleep(seconds)
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "wait":
            raise AnswersNeededError("they are too few")
        buy(storage, number, found)


if __name__ == "__main__":
    from halo_ray.lock import locked
    from halo_ray.stored import stored_classes

    with locked(Storage(sys.argv[1]), 10) as held:
        print("reads", flush=True)
        read_and(sys.argv[4], held, int(sys.argv[2]), stored_classes(held), float(sys.argv[3]))
