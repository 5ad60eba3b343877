"""One round of the ledger: its file, what it may hold, and that nothing is bought twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.acquisition.budget import AcquisitionConfig
from halo_ray.annotations.known import ImportLabels
from halo_ray.annotations.ledger import LEDGER, Ledger
from halo_ray.checkpoint import scoring_checkpoint
from halo_ray.data.classes import IGNORE
from halo_ray.storage import round_directory
from halo_ray.verification.purchases import SAID, Earlier, Purchase, bits, region_pixels_of
from halo_ray.verification.reader import RESTORE
from halo_ray.verification.spacing import crowded, nearest_within
from halo_ray.verification.subject import Pool, Subject

Mask = npt.NDArray[np.bool_]


def read_purchase(subject: Subject, number: int) -> Purchase | None:
    """The committed rows of a round; None, and findings, where they cannot be checked further."""
    reader, name = subject.reader, Ledger.file(number)
    # A run may die between the file and its checksum; what comes before the marker stores that then.
    marked = number == 0 or f"{round_directory(number)}/annotate" in subject.done
    table = reader.table(name, reader.checked(name, sealed=marked), LEDGER)
    if table is None or subject.pool is None:
        return None
    chosen = () if number == 0 else (*SAID, "model")
    empty = [key for key in LEDGER.names if table[key].null_count and (number > 0 or key not in (*SAID, "model"))]
    if empty:
        subject.findings.add(name, f"has rows without {', '.join(empty)}: {RESTORE}")
        return None
    full = [key for key in (*SAID, "model") if key not in chosen and table[key].null_count < table.num_rows]
    if full:
        subject.findings.add(name, f"known labels have {', '.join(full)}, which nothing can have said: {RESTORE}")
    row = subject.pool.rows(table["image_id"])
    if (unknown := np.flatnonzero(row < 0)).size:
        first = table["image_id"][int(unknown[0])].as_py()
        subject.findings.add(name, f"{len(unknown)} rows are of unknown images, first {first!r}: {RESTORE}")
        table, row = table.filter(pa.array(row >= 0)), row[row >= 0]
    return Purchase.of(table, row)


def check_purchase(subject: Subject, number: int, purchase: Purchase, earlier: Earlier, never: Mask | None) -> None:
    """Checks the rows of a round for themselves, against the data, and against all that was labelled before.

    Args:
        never: (H, W), where nothing may be picked; None: nowhere, or not known.
    """
    pool, acquisition = subject.pool, subject.acquisition
    assert pool is not None
    told = [*_values(subject, number, purchase, pool), *_twice(purchase, earlier, pool)]
    if acquisition is not None:
        if number:
            told += _regions(acquisition, purchase, earlier, pool, whole=subject.answers_all)
            told += _spacing(acquisition, purchase, earlier, pool)
            told += _masked(purchase, never, pool)
        elif len(purchase.regions) != len(purchase.row):
            told.append("known labels are regions of one pixel each, but some share a region")
    for what in told:
        subject.findings.add(Ledger.file(number), f"{what}: {RESTORE}")


def _values(subject: Subject, number: int, purchase: Purchase, pool: Pool) -> Iterator[str]:
    """Columns that hold what they should."""
    table, label = purchase.table, purchase.table["label"].to_numpy()
    if (odd := np.flatnonzero(table["round"].to_numpy() != number)).size:
        yield f"{len(odd)} rows are of another round, first {table['round'][int(odd[0])]}"
    outside = (purchase.y >= pool.height[purchase.row]) | (purchase.x >= pool.width[purchase.row])
    if (odd := np.flatnonzero(outside)).size:
        yield f"{len(odd)} pixels lie outside of their images, first {purchase.pixel(odd[0], pool)}"
    if subject.classes is not None:
        known = label < len(subject.classes.classes)
        if number:
            known |= label == IGNORE
        if (odd := np.flatnonzero(~known)).size:
            yield f"{len(odd)} labels are no class, first {label[odd[0]]} at {purchase.pixel(odd[0], pool)}"
    oracle = subject.oracle if number else ImportLabels.name
    others = [str(name) for name in pc.unique(table["oracle"]).to_pylist() if name != oracle]
    if others and oracle is not None:
        yield f"rows come from oracle {', '.join(map(repr, others))}, not {oracle!r}"
    if not number:
        return
    model = subject.checksums.get(scoring_checkpoint(number))
    if model is not None and any(name != model for name in pc.unique(table["model"]).to_pylist()):
        yield f"rows were chosen by another model than {scoring_checkpoint(number)} ({model})"
    for name in SAID:
        values = bits(table, name)
        if (odd := np.flatnonzero(values != values[purchase.first[purchase.region]])).size:
            yield f"{name} differs among the pixels of a region, first {purchase.place(purchase.region[odd[0]], pool)}"
    if not np.isfinite(table["score"].to_numpy()).all():
        yield "has scores that are NaN or infinite"


def _twice(purchase: Purchase, earlier: Earlier, pool: Pool) -> Iterator[str]:
    pixels = purchase.pixels
    order = np.argsort(pixels, kind="stable")
    again = order[1:][pixels[order[1:]] == pixels[order[:-1]]]
    if again.size:
        yield f"{len(again)} pixels stand twice, first {purchase.pixel(again.min(), pool)}"
    if (again := np.flatnonzero(np.isin(pixels, earlier.pixels))).size:
        yield f"{len(again)} pixels were labelled in an earlier round, first {purchase.pixel(again[0], pool)}"


def _regions(
    config: AcquisitionConfig, purchase: Purchase, earlier: Earlier, pool: Pool, *, whole: bool
) -> Iterator[str]:
    """Pixels that lie in their regions, and, where the oracle leaves nothing out, regions that have all of theirs."""
    centre = purchase.regions[purchase.region]
    far = np.maximum(np.abs(purchase.y - centre[:, 1]), np.abs(purchase.x - centre[:, 2])) > config.region_radius
    if (odd := np.flatnonzero(far)).size:
        yield f"{len(odd)} pixels lie outside of their regions, first {purchase.pixel(odd[0], pool)}"
    row, y, x = purchase.regions.T
    if (odd := np.flatnonzero((y >= pool.height[row]) | (x >= pool.width[row]))).size:
        yield f"{len(odd)} regions lie outside of their images, first {purchase.place(odd[0], pool)}"
        return
    if not whole:
        return
    expected = region_pixels_of(purchase.regions, config.region_radius, pool)
    expected = expected[~np.isin(expected, earlier.pixels)]
    if (lost := np.setdiff1d(expected, purchase.pixels)).size:
        at, y, x = (int(part) for part in (lost[0] >> 32, lost[0] >> 16 & 0xFFFF, lost[0] & 0xFFFF))
        yield f"{len(lost)} pixels of its regions have no row, first image {pool.id(at)!r}, pixel at y {y}, x {x}"


def _spacing(config: AcquisitionConfig, purchase: Purchase, earlier: Earlier, pool: Pool) -> Iterator[str]:
    """Exclusion windows, among the regions of the round and to all that was labelled before."""
    radius = config.window_radius
    window = f"within {radius} pixels (the exclusion radius) of"
    if (odd := crowded(purchase.regions, radius)).size:
        yield f"{len(odd)} regions lie {window} each other, first {purchase.place(odd[0], pool)}"
    mine = np.isin(earlier.regions[:, 0], purchase.regions[:, 0])
    if (odd := nearest_within(purchase.regions, earlier.regions[mine], radius)).size:
        yield f"{len(odd)} regions lie {window} one of an earlier round, first {purchase.place(odd[0], pool)}"


def _masked(purchase: Purchase, never: Mask | None, pool: Pool) -> Iterator[str]:
    if never is None:
        return
    _, y, x = purchase.regions.T
    inside = (y < never.shape[0]) & (x < never.shape[1])
    if (odd := np.flatnonzero(inside)[never[y[inside], x[inside]]]).size:
        yield f"{len(odd)} regions lie where acquisition.never forbids them, first {purchase.place(odd[0], pool)}"
