"""Ask the oracle for the selected regions and commit its answers to the ledger."""

from __future__ import annotations

from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.acquisition.threshold import order_keys
from halo_ray.annotations.ask import Ask, ask, regions_in
from halo_ray.annotations.folder import RECEIVED, folder_name
from halo_ray.annotations.ledger import LEDGER, Ledger, places_of, region_count
from halo_ray.annotations.people import answers_of_people
from halo_ray.candidates import CANDIDATES, candidate_files, read_candidates
from halo_ray.checkpoint import weights_checksum
from halo_ray.context import Context
from halo_ray.errors import AnswersNeededError
from halo_ray.storage import Storage

_PICK = ["y", "x", "score", "radius", "entropy", "guess", "probability"]
_COLUMNS = ["image_id", *_PICK]


def annotate(context: Context, number: int, selection: str, candidates: str, checkpoint: str) -> dict[str, Any]:
    """Buys the labels of the regions that ``selection`` chose among ``candidates``.

    Returns:
        JSON-able: ``pixels`` bought in this round; ``asked`` and ``regions``, how many were asked and answered.

    Raises:
        AnswersNeededError: too few regions have an answer yet.
    """
    ledger, config = Ledger(context.storage), context.config
    counts = _counts(context.storage, selection, number)
    if not ledger.committed(number):  # what was bought once is not asked again
        model, name = weights_checksum(context.storage, checkpoint), config.annotation.oracle
        requests = _requests(context, number, counts, candidates)
        people = config.annotation.asks_people
        asking = Ask(name, context.classes, config.acquisition.region_radius, number, model)
        with answers_of_people(context, number, requests, model) if people else nullcontext(requests) as told:
            data = ask(told, asking, config.execution.block_images)
            _check_enough(context, number, regions_in(data), sum(counts.values()))
            ledger.commit(number, data)
    pixels = ledger.seal(number)
    bought = ledger.asked_regions(number + 1, first=number)
    return {"pixels": pixels, "asked": sum(counts.values()), "regions": region_count(bought)}


def _check_enough(context: Context, number: int, answered: int, asked: int) -> None:
    """Raises AnswersNeededError where fewer regions have an answer than must have one."""
    how = context.config.annotation
    if answered >= Fraction(str(how.accept_share)) * asked:  # as it was written: 0.55 of 100 are 55
        if answered < asked:
            print(
                f"round {number}: {answered} of {asked} regions are answered, the others are not paid for", flush=True
            )
        return
    where = f"{context.storage.uri}/{folder_name(number)}"
    more = f"add what {where}/{RECEIVED} lists" if how.asks_people else f"see what {how.oracle} waits for"
    raise AnswersNeededError(
        f"round {number}: {answered} of {asked} regions are answered, annotation.accept_share asks for "
        f"{100 * how.accept_share:g} %: {more}, then run the same command again"
    )


def _counts(storage: Storage, selection: str, number: int) -> dict[str, int]:
    """How many regions of each image a selection chose."""
    found = storage.read_sealed(selection)
    if found.get("round") != number:
        raise storage.damaged(selection, f"it is not the selection of round {number}")
    counts: dict[str, int] = found["counts"]
    return counts


def _requests(context: Context, number: int, counts: dict[str, int], candidates: str) -> pa.Table:
    """One manifest row per image with picks, by image id, with the pixels that are known and its picks in order."""
    storage = context.storage
    wanted = pa.array(list(counts), pa.string())
    touched = [CANDIDATES.empty_table().select(_COLUMNS)]
    for file in candidate_files(storage, candidates):
        table = read_candidates(storage, file, _COLUMNS)
        touched.append(table.filter(pc.is_in(table["image_id"], wanted)))
    chosen = _first_of_each(pa.concat_tables(touched), counts)
    if chosen.num_rows != sum(counts.values()):
        raise storage.damaged(candidates, f"of {sum(counts.values())} chosen regions it holds {chosen.num_rows}")
    picks: dict[str, list[dict[str, Any]]] = {}
    for row in chosen.to_pylist():
        picks.setdefault(row["image_id"], []).append({name: row[name] for name in _PICK})
    pool = context.splits.pool
    images = pool.filter(pc.is_in(pool["image_id"], pa.array(list(picks), pa.string()))).sort_by("image_id")
    known = places_of(Ledger(storage).labelled_pixels(number, images["image_id"]), images["image_id"])
    pick = pa.list_(pa.struct([LEDGER.field(name) for name in _PICK]))
    columns = {
        "known_y": known["y"],
        "known_x": known["x"],
        "picks": pa.array([picks[image_id] for image_id in images["image_id"].to_pylist()], pick),
    }
    for name, column in columns.items():
        images = images.append_column(name, column)
    return images


def _first_of_each(table: pa.Table, counts: dict[str, int]) -> pa.Table:
    """The first counts[image_id] candidates of each image in picking order."""
    ids = table["image_id"].to_numpy(zero_copy_only=False).astype(str)
    order = np.lexsort((table["x"].to_numpy(), table["y"].to_numpy(), ~order_keys(table["score"].to_numpy()), ids))
    ids = ids[order]
    # Rank within the image: distance from where its run of rows begins.
    rank = np.arange(len(ids)) - np.searchsorted(ids, ids)
    limit = np.array([counts[image_id] for image_id in ids], np.int64)
    return table.take(order[rank < limit])
