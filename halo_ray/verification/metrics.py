"""What an experiment says it has found, counted again."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from halo_ray.results import CHECKPOINTS, STAGES
from halo_ray.stages import marker_file
from halo_ray.storage import round_directory
from halo_ray.verification.purchases import Purchase
from halo_ray.verification.reader import RESTORE
from halo_ray.verification.subject import Subject

METRICS = "metrics.jsonl"

SCORES = "miou", "miou_star", "iou", "accuracy", "class_accuracy", "class_share", "class_radius"


@dataclass(frozen=True)
class Spent:
    """What the ledger holds of all rounds up to one."""

    pixels: int
    regions: int
    images: int


def spent(purchases: dict[int, Purchase], number: int) -> Spent | None:
    """Added up from rounds 1 to ``number``; None where one of them could not be read."""
    if not all(each in purchases for each in range(1, number + 1)):
        return None
    mine = [purchases[each] for each in range(1, number + 1)]
    images = {row for each in mine for row in each.regions[:, 0].tolist()}
    return Spent(sum(len(each.row) for each in mine), sum(len(each.regions) for each in mine), len(images))


def check_metrics(subject: Subject, purchases: dict[int, Purchase]) -> None:
    """Checks the records of all rounds against the ledger and the markers, and the files that gather them."""
    records: list[dict[str, Any]] = []
    number = 0
    while f"{round_directory(number)}/record" in subject.done:
        name = f"{round_directory(number)}/metrics.json"
        found, marked = subject.reader.json(name), subject.result(f"{round_directory(number)}/record")
        if found is not None and marked is not None and found != marked:
            odd = sorted(key for key in {*found, *marked} if found.get(key) != marked.get(key))
            place = marker_file(f"{round_directory(number)}/record")
            subject.findings.add(name, f"differs from {place} in {', '.join(odd)}: {RESTORE}")
        record = marked if marked is not None else found
        if record is None:
            return
        with subject.reader.understanding(name):
            _check_record(subject, name, number, record, purchases)
        records.append(record)
        number += 1
    _check_gathered(subject, records)


def _check_record(
    subject: Subject, name: str, number: int, record: dict[str, Any], purchases: dict[int, Purchase]
) -> None:
    at, told = round_directory(number), []
    bought = min(number, subject.rounds)
    found = spent(purchases, bought)
    expected: dict[str, Any] = {"round": number}
    if found is not None and subject.pool is not None:
        # Under full supervision every pixel counts.
        pixels = found.pixels if number == bought else subject.pool.pixels
        expected |= {"pixels": pixels, "regions": found.regions, "images_touched": found.images}
        expected["budget_spent"] = pixels / subject.pool.pixels
    trained = subject.result(f"{at}/train" if number else "pretrain")
    if trained is not None:
        expected["checkpoint"] = trained["checkpoint"]
    quality = subject.result(f"{at}/evaluate")
    if quality is not None:
        expected |= {key: quality[0][key] for key in SCORES if key in quality[0]}  # earlier versions had fewer
        expected["control_miou"] = quality[1]["miou"] if len(quality) > 1 else None
        told += _quality(subject, quality[0])
    for key, value in expected.items():
        if record[key] != value:
            told.append(f"{key} is {record[key]}, counted again it is {value}")
    for stage, seconds in record["seconds"].items():
        marker = stage if stage in ("features", "pretrain") else f"{at}/{stage}"
        said = subject.marker(marker)
        if stage not in STAGES or (said is not None and said["seconds"] != seconds):
            told.append(f"{stage} took {seconds} s, its marker says {said and said['seconds']}")
    for what in told:
        subject.findings.add(name, f"{what}: {RESTORE}")


def _quality(subject: Subject, said: dict[str, Any]) -> list[str]:
    """What cannot be of an evaluation."""
    known = [value for value in said["iou"].values() if value is not None]
    told = []
    if subject.classes is not None and list(said["iou"]) != list(subject.classes.classes):
        told.append("iou is of other classes than classes.json has")
    if not all(0 <= value <= 1 for value in (*known, said["miou"], said["accuracy"])):
        told.append("has a miou, iou or accuracy outside of [0, 1]")
    elif known and not math.isclose(said["miou"], sum(known) / len(known), rel_tol=1e-9, abs_tol=1e-12):
        told.append(f"miou {said['miou']} is not the mean of its iou")
    return told


def _check_gathered(subject: Subject, records: list[dict[str, Any]]) -> None:
    """Checks metrics.jsonl and checkpoints.json, which are written before the marker of the last record."""
    reader, storage = subject.reader, subject.reader.storage
    if not records and not storage.exists(METRICS):
        return
    lines: list[dict[str, Any]] | None = None
    data = reader.read(METRICS)
    if data is not None:
        with reader.understanding(METRICS):
            lines = [json.loads(line) for line in data.splitlines()]
            if lines[: len(records)] != records:
                odd = next(n for n, each in enumerate(records) if n >= len(lines) or lines[n] != each)
                subject.findings.add(METRICS, f"record {odd} is not that of {round_directory(odd)}: {RESTORE}")
            # A run that was killed between the two has written one record more than its markers say.
            elif len(lines) > len(records) + 1 and not subject.running:
                subject.findings.add(METRICS, f"has {len(lines)} records, {len(records)} rounds are done: {RESTORE}")
    if not storage.exists(CHECKPOINTS) and not records:
        return
    named = reader.json(CHECKPOINTS)
    if named is None:
        return
    more = lines[len(records) :] if lines and lines[: len(records)] == records else []
    possible = [(records + more)[: len(records) + n] for n in range(len(more) + 1)]
    with reader.understanding(CHECKPOINTS):
        if not any(named == _best_and_last(rows) for rows in possible if rows):
            expected = _best_and_last(records) if records else None
            subject.findings.add(CHECKPOINTS, f"does not name the best and the last model, {expected}: {RESTORE}")


def _best_and_last(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of rounds that are as good the first is the best."""
    best = rows[0]
    for row in rows[1:]:
        if row["miou"] > best["miou"]:
            best = row
    keys = ("checkpoint", "round", "miou")
    return {"best": {key: best[key] for key in keys}, "last": {key: rows[-1][key] for key in keys}}
