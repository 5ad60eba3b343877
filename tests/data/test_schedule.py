"""The samples of a training stage: how many, of which domain, on which worker, and which of them depend on what."""

from collections import Counter

import pyarrow as pa
import pytest

from halo_ray.data.listing import MANIFEST
from halo_ray.data.schedule import SCHEDULE, SOURCE, TARGET, training_schedule

WORKERS = (1, 2, 4)


def manifest(domain: str, count: int) -> pa.Table:
    rows = [
        {"image_id": f"{domain}-{i}", "image_uri": f"/{domain}/{i}", "height": 10 + i, "width": 20 + i}
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST)


SOURCES, TARGETS, NONE = manifest(SOURCE, 7), manifest(TARGET, 3), manifest(TARGET, 0)


def schedule(workers: int = 1, target: pa.Table = TARGETS, **changes: int) -> list[pa.Table]:
    how = {"steps": 11, "source_batch": 8, "target_batch": 4, "seed": 5, **changes}
    return training_schedule(SOURCES, target, workers=workers, **how)


def steps_of(tables: list[pa.Table], steps: int = 11) -> list[list[list[dict]]]:
    """The rows of each step on each worker."""
    shares = [table.num_rows // steps for table in tables]
    return [
        [table.slice(step * share, share).to_pylist() for table, share in zip(tables, shares, strict=True)]
        for step in range(steps)
    ]


def drawn(tables: list[pa.Table], domain: str) -> list[str]:
    """Ids of a domain in the order of the row numbers, over all workers."""
    rows = sorted(pa.concat_tables(tables).to_pylist(), key=lambda row: row["row"])
    return [row["image_id"] for row in rows if row["domain"] == domain]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(("target", "targets"), [(TARGETS, 4), (NONE, 0)])
def test_every_worker_has_its_equal_part_of_both_domains_in_every_step(
    workers: int, target: pa.Table, targets: int
) -> None:
    tables = schedule(workers, target)
    assert len(tables) == workers
    assert [table.schema for table in tables] == [SCHEDULE] * workers
    assert [table.num_rows for table in tables] == [11 * (8 + targets) // workers] * workers
    expected = Counter({SOURCE: 8 // workers, TARGET: targets // workers})
    for step in steps_of(tables):
        assert [Counter(row["domain"] for row in rows) for rows in step] == [expected] * workers


@pytest.mark.parametrize("workers", WORKERS)
def test_row_numbers_count_all_workers_samples_once_and_step_by_step(workers: int) -> None:
    tables = schedule(workers)
    numbers = [[row["row"] for rows in step for row in rows] for step in steps_of(tables)]
    assert [sorted(step) for step in numbers] == [list(range(12 * k, 12 * k + 12)) for k in range(11)]


@pytest.mark.parametrize("target", [TARGETS, NONE])
def test_a_step_holds_the_same_images_whatever_the_number_of_workers(target: pa.Table) -> None:
    def images(workers: int) -> list[Counter]:
        steps = steps_of(schedule(workers, target))
        return [Counter(row["image_id"] for rows in step for row in rows) for step in steps]

    assert images(1) == images(2) == images(4)


@pytest.mark.parametrize("workers", WORKERS)
def test_source_images_of_a_step_do_not_depend_on_the_target(workers: int) -> None:
    def sources(target: pa.Table) -> list[list[list[str]]]:
        steps = steps_of(schedule(workers, target))
        return [[[r["image_id"] for r in rows if r["domain"] == SOURCE] for rows in step] for step in steps]

    assert sources(TARGETS) == sources(NONE) == sources(manifest(TARGET, 50))


@pytest.mark.parametrize(("domain", "images"), [(SOURCE, 7), (TARGET, 3)])
def test_every_image_is_used_once_in_each_pass_and_passes_differ(domain: str, images: int) -> None:
    ids = drawn(schedule(), domain)
    passes = [tuple(ids[start : start + images]) for start in range(0, len(ids), images)]
    everything = {f"{domain}-{i}" for i in range(images)}
    assert len(passes) > 10
    assert all(set(one) == everything for one in passes if len(one) == images)
    assert all(len(set(one)) == len(one) for one in passes)
    assert len(set(passes)) > 3


@pytest.mark.parametrize("workers", WORKERS)
def test_a_row_carries_its_image_s_own_columns(workers: int) -> None:
    known = {row["image_id"]: row for row in pa.concat_tables([SOURCES, TARGETS]).to_pylist()}
    for row in pa.concat_tables(schedule(workers)).to_pylist():
        assert row["image_id"].startswith(row["domain"])
        assert {name: row[name] for name in MANIFEST.names} == known[row["image_id"]]


def test_the_seed_fixes_the_order() -> None:
    assert schedule(2) == schedule(2)
    for domain in (SOURCE, TARGET):
        assert drawn(schedule(), domain) != drawn(schedule(seed=6), domain)


def test_a_longer_schedule_begins_with_the_shorter_one() -> None:
    short, long = schedule(2), schedule(2, steps=30)
    assert [table.slice(0, short[0].num_rows) for table in long] == short


def test_a_target_batch_of_none_leaves_the_target_out() -> None:
    (table,) = schedule(target_batch=0)
    assert set(table["domain"].to_pylist()) == {SOURCE}
    assert table.num_rows == 88
