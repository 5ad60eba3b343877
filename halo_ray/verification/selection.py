"""The selection of a round, made again from its stored candidates, and the ledger's picks against it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from halo_ray.acquisition.budget import capped_sequences, region_pixels
from halo_ray.acquisition.threshold import Answer, Cut, Question, Selection
from halo_ray.annotations.ledger import Ledger
from halo_ray.candidates import CandidateFile, ReadCandidates
from halo_ray.errors import InputError
from halo_ray.patience import StorageError
from halo_ray.selection import TIE_RULE, compared_file
from halo_ray.stages import marker_file
from halo_ray.storage import round_directory
from halo_ray.stored_config import CONFIG
from halo_ray.verification.candidates import STORED, Stored, read_stored
from halo_ray.verification.purchases import SAID, Earlier, Purchase, bits, keys
from halo_ray.verification.reader import RESTORE
from halo_ray.verification.subject import Subject

KEYS = "round", "function", "planned", "regions", "cut", "order", "counts", "problems"


def selection_file(subject: Subject, number: int, function: str) -> str:
    own = function == subject.function
    return f"{round_directory(number)}/selection.json" if own else compared_file(number, function)


def check_selections(subject: Subject, number: int, earlier: Earlier) -> Stored | None:
    """Checks the candidates of a round and every selection made from them.

    Returns:
        The candidates of the function that buys; None where they cannot be compared with the ledger.
    """
    at = round_directory(number)
    scored = subject.result(f"{at}/score")
    if scored is None or subject.pool is None:
        return None
    own = None
    with subject.reader.understanding(marker_file(f"{at}/score")):
        if subject.function is not None and subject.function not in scored["candidates"]:
            raise ValueError(f"no candidates of {subject.function}")
        _check_problems(subject, number, scored["problems"])
        for function, directory in sorted(scored["candidates"].items()):
            stored = _check_function(subject, number, function, directory, earlier)
            if function == subject.function:
                own = stored
    return own


def _check_function(subject: Subject, number: int, function: str, directory: str, earlier: Earlier) -> Stored | None:
    at, name = round_directory(number), selection_file(subject, number, function)
    done = f"{at}/select" in subject.done
    said = subject.reader.sealed(name, KEYS) if done else None
    counts = None
    if said is not None and subject.pool is not None:
        with subject.reader.understanding(name):
            counts = _check_description(subject, number, function, name, said)
    if not subject.reader.storage.exists(directory):
        subject.findings.add(directory, f"is gone, so that nothing says what its selection follows from: {RESTORE}")
        return None
    stored = read_stored(subject, number, directory, counts, earlier)
    if stored is None or said is None or counts is None:
        return None
    if subject.acquisition is None or subject.round_plan(number) is None:
        subject.findings.note(name, f"was not made again, since {CONFIG} or plan.json cannot be read")
        return stored
    with subject.reader.understanding(name):
        selection = _select_again(subject, number, stored.files)
        if selection is not None:
            _compare(subject, number, name, said, selection)
    return stored


def _check_description(subject: Subject, number: int, function: str, name: str, said: dict[str, Any]) -> Any:
    """Checks what a selection says of itself; returns (images,) its counts."""
    assert subject.pool is not None
    plan, scored = subject.round_plan(number), subject.result(f"{round_directory(number)}/score")
    rows = subject.pool.rows(pa.chunked_array([pa.array(list(said["counts"]), pa.string())]))
    values = list(said["counts"].values())
    if any(type(value) is not int or value < 1 for value in values):
        raise ValueError("counts are whole numbers of at least 1")
    told = []
    if (said["round"], said["function"], said["order"]) != (number, function, TIE_RULE):
        told.append(f"is of round {said['round']}, function {said['function']!r}, order {said['order']!r}")
    if plan is not None and said["planned"] != asdict(plan):
        told.append(f"was planned as {said['planned']}, plan.json says {asdict(plan)}")
    if said["regions"] != sum(values):
        told.append(f"says {said['regions']} regions, its counts add up to {sum(values)}")
    if plan is not None and sum(values) > plan.regions:
        told.append(f"chose {sum(values)} regions, the plan has {plan.regions}")
    if said["problems"] != sorted(scored["problems"], key=lambda problem: str(problem["image_id"])):
        told.append("names other problems than the scores' marker")
    if (rows < 0).any():
        told.append(f"counts regions of image {list(said['counts'])[int(np.argmin(rows))]!r}, which the pool has not")
    for what in told:
        subject.findings.add(name, f"{what}: {RESTORE}")
    counts = np.zeros(len(subject.pool.ids), np.int64)
    counts[rows[rows >= 0]] = np.array(values, np.int64)[rows >= 0]
    return counts


def _select_again(subject: Subject, number: int, files: list[CandidateFile]) -> Selection | None:
    config, pool, plan = subject.acquisition, subject.pool, subject.round_plan(number)
    assert config is not None
    assert pool is not None
    assert plan is not None
    try:
        sequences = capped_sequences(config, pool.ids.to_pylist(), pool.sizes, plan)
    except StorageError:
        raise
    except InputError as error:
        subject.findings.add(CONFIG, str(error))
        return None
    read = ReadCandidates(subject.reader.storage)

    def ask(question: Question) -> Iterator[Answer]:
        return (question.answer(read(file)) for file in files)

    wanted = plan.regions if config.scope == "pool" else None
    return Cut(len(pool.ids), wanted, sequences).run(ask)


def _compare(subject: Subject, number: int, name: str, said: dict[str, Any], selection: Selection) -> None:
    """Compares a selection with the one made again."""
    assert subject.pool is not None
    cut = selection.cut and {"score": selection.cut[0], "image_id": subject.pool.id(selection.cut[1])}
    ids = [subject.pool.id(row) for row in selection.rows.tolist()]
    counts = dict(zip(ids, selection.counts.tolist(), strict=True))
    if said["cut"] != cut:
        subject.findings.add(name, f"its cut is {said['cut']}, the stored candidates give {cut}: {RESTORE}")
    for image_id in sorted(set(counts) | set(said["counts"])):
        if counts.get(image_id, 0) != said["counts"].get(image_id, 0):
            subject.findings.add(
                name,
                f"image {image_id!r} has {said['counts'].get(image_id, 0)} regions, the stored candidates give "
                f"{counts.get(image_id, 0)}: {RESTORE}",
            )
            break
    if said["function"] == subject.function:
        _check_audit(subject, number, selection)


def _check_audit(subject: Subject, number: int, selection: Selection) -> None:
    """Checks what the marker says of the selection that buys."""
    stage = f"{round_directory(number)}/select"
    assert subject.pool is not None
    assert subject.acquisition is not None
    with subject.reader.understanding(marker_file(stage)):
        audit, regions = subject.result(stage)["audit"], int(selection.counts.sum())
        expected = {
            "stored": selection.candidates,
            "threshold": None if selection.cut is None else selection.cut[0],
            "budget_used": regions * region_pixels(subject.acquisition) / subject.pool.pixels,
        }
        for key, value in expected.items():
            if audit[key] != value:
                subject.findings.add(marker_file(stage), f"{key} is {audit[key]}, not {value}: {RESTORE}")


def _check_problems(subject: Subject, number: int, problems: list[dict[str, Any]]) -> None:
    assert subject.pool is not None
    named = pa.chunked_array([pa.array([problem["image_id"] for problem in problems], pa.string())])
    if (subject.pool.rows(named) < 0).any():
        where = marker_file(f"{round_directory(number)}/score")
        subject.findings.add(where, f"names a problem of an image that the pool has not: {RESTORE}")


def check_picks(subject: Subject, number: int, purchase: Purchase, stored: Stored | None) -> None:
    """Checks that a round bought what its selection chose, and that the ledger says of it what the candidates say."""
    name, stage = Ledger.file(number), f"{round_directory(number)}/select"
    said = subject.reader.sealed(selection_file(subject, number, subject.function or ""), KEYS)
    chosen = subject.result(stage)
    if said is None or chosen is None or subject.pool is None:
        return
    with subject.reader.understanding(marker_file(stage)):
        if _differ(subject, len(purchase.regions), chosen["regions"]):
            subject.findings.add(
                name, f"has {len(purchase.regions)} regions, {marker_file(stage)} says {chosen['regions']}: {RESTORE}"
            )
    bought, counts = purchase.per_image(subject.pool), said["counts"]
    ids = sorted({*bought, *counts})
    odd = [image_id for image_id in ids if _differ(subject, bought.get(image_id, 0), counts.get(image_id, 0))]
    if odd:
        subject.findings.add(
            name,
            f"image {odd[0]!r} has {bought.get(odd[0], 0)} regions, its selection chose {counts.get(odd[0], 0)}: "
            f"{RESTORE}",
        )
    elif stored is not None:
        _compare_picks(subject, name, purchase, pa.concat_tables([STORED.empty_table(), *stored.picks]))


def _differ(subject: Subject, bought: int, chosen: int) -> bool:
    """Whether a round bought another number of regions than it can have; people may leave some unanswered."""
    return bought > chosen or (bought < chosen and subject.answers_all)


def _compare_picks(subject: Subject, name: str, purchase: Purchase, picks: pa.Table) -> None:
    assert subject.pool is not None
    places = keys(*(picks[key].to_numpy().astype(np.int64) for key in ("row", "y", "x")))
    picks, places = picks.take(pa.array(np.argsort(places))), np.sort(places)
    centres = keys(*purchase.regions.T)
    if (odd := np.flatnonzero(~np.isin(centres, places))).size:
        subject.findings.add(
            name, f"{len(odd)} regions are not what was chosen, first {purchase.place(odd[0], subject.pool)}: {RESTORE}"
        )
        return
    if _differ(subject, len(centres), len(places)):
        subject.findings.add(name, f"has {len(centres)} regions, {len(places)} candidates were chosen: {RESTORE}")
        return
    for key in SAID:
        differ = bits(purchase.table, key)[purchase.first] != bits(picks, key)[np.searchsorted(places, centres)]
        if (odd := np.flatnonzero(differ)).size:
            what = f"{key} of {len(odd)} regions is not that of their candidates"
            subject.findings.add(name, f"{what}, first {purchase.place(odd[0], subject.pool)}: {RESTORE}")
