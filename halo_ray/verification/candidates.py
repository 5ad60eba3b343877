"""The stored candidates of a round, for one acquisition function: file by file, never all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.acquisition.threshold import order_keys
from halo_ray.candidates import CANDIDATES, FILES, CandidateFile
from halo_ray.storage import DIGEST, sha256
from halo_ray.verification.purchases import Earlier, keys
from halo_ray.verification.reader import RESTORE
from halo_ray.verification.spacing import crowded, nearest_within
from halo_ray.verification.subject import Pool, Subject

Ints = npt.NDArray[np.int64]

STORED = CANDIDATES.remove(CANDIDATES.get_field_index("function"))
"""The columns of a file; the function stands in the name of its directory."""


@dataclass
class Stored:
    """The candidates of a directory that is whole."""

    files: list[CandidateFile]
    number: int = 0
    picks: list[pa.Table] = field(default_factory=list)
    """STORED: of each image the first ones, as many as its count says."""


def read_stored(subject: Subject, number: int, directory: str, counts: Ints | None, earlier: Earlier) -> Stored | None:
    """Checks the files of a directory of candidates of a round.

    Args:
        counts: (images,) how many of each image's first candidates to keep; None: none.
        earlier: what was labelled before the round.

    Returns:
        None, and findings, where a selection cannot be made from them.
    """
    pool, before, findings = subject.pool, len(subject.findings.wrong), subject.findings
    files = _list(subject, directory)
    if files is None or pool is None:
        return None
    images = _Images(np.zeros(len(pool.ids), np.int64), np.zeros(len(pool.ids), np.int64))
    stored = Stored(files)
    for file in files:
        table = _read(subject, file)
        if table is None:
            continue
        told = [*_rows(table, pool)] or [*_order(table, pool), *_places(subject, table, pool, earlier)]
        for what in told:
            findings.add(file.name, f"{what}: {RESTORE}")
        if told:
            continue
        row, rank = (table[key].to_numpy().astype(np.int64) for key in ("row", "rank"))
        images.add(row, rank)
        stored.number += table.num_rows
        if counts is not None:
            stored.picks.append(table.filter(pa.array(rank < counts[row])))
    if len(findings.wrong) > before:
        return None
    for what in images.problems(subject, number, pool):
        findings.add(directory, f"{what}: {RESTORE}")
    findings.checked["candidates"] += stored.number
    return stored if len(findings.wrong) == before else None


def _list(subject: Subject, directory: str) -> list[CandidateFile] | None:
    """The files that the directory had when it was complete; says what came after that."""
    reader, storage, name = subject.reader, subject.reader.storage, f"{directory}/{FILES}"
    there = storage.files(directory)
    if name not in there:
        subject.findings.add(name, f"is gone, so that nothing says which files belong there: {RESTORE}")
        return None
    digests = reader.sealed(name)
    if digests is None:
        return None
    for other in there:
        if other != name and other.rpartition("/")[2] not in digests:
            subject.findings.note(other, f"is not in {FILES}: no selection reads it; delete it")
    return [CandidateFile(f"{directory}/{file}", digests[file]) for file in sorted(digests)]


def _read(subject: Subject, file: CandidateFile) -> pa.Table | None:
    data = subject.reader.read(file.name)
    if data is not None and file.sha256 != sha256(data):
        subject.findings.add(file.name, f"is damaged (its {DIGEST} is not that in {FILES}): {RESTORE}")
        return None
    return subject.reader.table(file.name, data, STORED)


def _rows(table: pa.Table, pool: Pool) -> Iterator[str]:
    """Rows without holes, of images that there are."""
    empty = [name for name in table.column_names if table[name].null_count]
    if empty:
        yield f"has candidates without {', '.join(empty)}"
        return
    row = table["row"].to_numpy().astype(np.int64)
    if (odd := np.flatnonzero(row >= len(pool.ids))).size:
        yield f"{len(odd)} candidates are of row {row[odd[0]]}, but the pool has {len(pool.ids)} images"
        return
    wrong = pc.not_equal(pool.ids.take(pa.array(row)), table["image_id"]).to_numpy()
    if (odd := np.flatnonzero(wrong)).size:
        named = table["image_id"][int(odd[0])].as_py()
        yield f"{len(odd)} candidates name another image than their row, first {named!r} at row {row[odd[0]]}"


def _order(table: pa.Table, pool: Pool) -> Iterator[str]:
    """Ranks that are the order of picking: score falling, then y, x rising."""
    row, rank, y, x = (table[key].to_numpy().astype(np.int64) for key in ("row", "rank", "y", "x"))
    score = table["score"].to_numpy()
    if not np.isfinite(score).all():
        yield f"image {pool.id(row[~np.isfinite(score)][0])!r} has a score that is NaN or infinite"
    outside = (y >= pool.height[row]) | (x >= pool.width[row])
    if outside.any():
        yield f"{outside.sum()} candidates lie outside of their images, first image {pool.id(row[outside][0])!r}"
    order = np.lexsort((rank, row))
    falling = (~order_keys(score)).astype(np.int64)
    same = row[order[1:]] == row[order[:-1]]
    place = y << 16 | x
    rising = falling[order[1:]] > falling[order[:-1]]
    rising |= (falling[order[1:]] == falling[order[:-1]]) & (place[order[1:]] > place[order[:-1]])
    rising &= rank[order[1:]] > rank[order[:-1]]
    if (odd := order[1:][same & ~rising]).size:
        yield f"image {pool.id(row[odd[0]])!r}: candidate {rank[odd[0]]} does not come after the one before it"


def _places(subject: Subject, table: pa.Table, pool: Pool, earlier: Earlier) -> Iterator[str]:
    """Places that could still be picked."""
    row, y, x = (table[key].to_numpy().astype(np.int64) for key in ("row", "y", "x"))
    if len(np.unique(keys(row, y, x))) < len(row):
        yield "a place of an image stands twice"
        return
    if subject.acquisition is None:
        return
    regions, radius = np.stack([row, y, x], axis=1), subject.acquisition.window_radius
    near = "within the exclusion radius of"
    if (odd := crowded(regions, radius)).size:
        yield f"{len(odd)} candidates lie {near} each other, first image {pool.id(row[odd[0]])!r}"
    if (odd := nearest_within(regions, earlier.regions, radius)).size:
        yield f"{len(odd)} candidates lie {near} what was labelled before, first image {pool.id(row[odd[0]])!r}"


@dataclass
class _Images:
    """What is counted over all files, by image."""

    candidates: Ints
    ranks: Ints
    """Sum of the ranks."""

    def add(self, row: Ints, rank: Ints) -> None:
        np.add.at(self.candidates, row, 1)
        np.add.at(self.ranks, row, rank)

    def problems(self, subject: Subject, number: int, pool: Pool) -> Iterator[str]:
        """Ranks other than 0, 1, 2, ..., and images that have more than a round may choose of them."""
        odd = np.flatnonzero(self.ranks != self.candidates * (self.candidates - 1) // 2)
        if odd.size:
            yield f"candidates of {len(odd)} images are missing or stand twice, first image {pool.id(odd[0])!r}"
        plan, acquisition = subject.round_plan(number), subject.acquisition
        if plan is None or acquisition is None:
            return
        limits = pool.limits(acquisition, plan)
        if (odd := np.flatnonzero(self.candidates > limits)).size:
            first = odd[0]
            yield (
                f"{len(odd)} images have more candidates than their cap, first image {pool.id(first)!r} with "
                f"{self.candidates[first]} of {limits[first]}"
            )
