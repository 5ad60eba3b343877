"""The samples of a training stage: how many, of which domain, on which worker, and which of them depend on what."""

import pyarrow as pa
import pytest

from halo_ray.data.listing import MANIFEST
from halo_ray.data.schedule import SCHEDULE, SOURCE, TARGET, training_schedule, worker_share

STEPS = 11


def manifest(domain: str, count: int) -> pa.Table:
    rows = [
        {"image_id": f"{domain}-{i}", "image_uri": f"/{domain}/{i}", "height": 10 + i, "width": 20 + i}
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST)


SOURCES, TARGETS, NONE = manifest(SOURCE, 7), manifest(TARGET, 3), manifest(TARGET, 0)


def schedule(target: pa.Table = TARGETS, **changes: int) -> pa.Table:
    how = {"steps": STEPS, "source_batch": 8, "target_batch": 4, "seed": 5, **changes}
    return training_schedule(SOURCES, target, **how)


def steps_of(table: pa.Table, steps: int = STEPS) -> list[list[dict]]:
    """The rows of each step."""
    batch = table.num_rows // steps
    return [table.slice(step * batch, batch).to_pylist() for step in range(steps)]


def drawn(table: pa.Table, domain: str) -> list[str]:
    """Ids of a domain in their order."""
    return [row["image_id"] for row in table.to_pylist() if row["domain"] == domain]


@pytest.mark.parametrize(("target", "targets"), [(TARGETS, 4), (NONE, 0)])
def test_every_step_holds_the_batch_of_both_domains_source_first(target: pa.Table, targets: int) -> None:
    table = schedule(target)
    assert table.schema == SCHEDULE
    assert table.num_rows == STEPS * (8 + targets)
    for rows in steps_of(table):
        assert [row["domain"] for row in rows] == [SOURCE] * 8 + [TARGET] * targets


@pytest.mark.parametrize(("target", "targets"), [(TARGETS, 4), (NONE, 0)])
def test_rows_are_numbered_by_their_place_in_full_batches(target: pa.Table, targets: int) -> None:
    numbers = [[row["row"] for row in rows] for rows in steps_of(schedule(target))]
    assert numbers == [list(range(12 * k, 12 * k + 8 + targets)) for k in range(STEPS)]


def test_source_rows_do_not_depend_on_the_target() -> None:
    def sources(target: pa.Table) -> list[dict]:
        return [row for row in schedule(target).to_pylist() if row["domain"] == SOURCE]

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


def test_a_row_carries_its_image_s_own_columns() -> None:
    known = {row["image_id"]: row for row in pa.concat_tables([SOURCES, TARGETS]).to_pylist()}
    for row in schedule().to_pylist():
        assert row["image_id"].startswith(row["domain"])
        assert {name: row[name] for name in MANIFEST.names} == known[row["image_id"]]


def test_the_seed_fixes_the_order() -> None:
    assert schedule() == schedule()
    for domain in (SOURCE, TARGET):
        assert drawn(schedule(), domain) != drawn(schedule(seed=6), domain)


def test_a_longer_schedule_begins_with_the_shorter_one() -> None:
    short, long = schedule(), schedule(steps=30)
    assert long.slice(0, short.num_rows) == short


@pytest.mark.parametrize(("changes", "domains", "rows"), [
    ({"target_batch": 0}, {SOURCE}, 88), ({"source_batch": 0}, {TARGET}, 44), ({"steps": 0}, set(), 0),
])  # fmt: skip
def test_a_batch_of_none_leaves_its_domain_out(changes: dict, domains: set[str], rows: int) -> None:
    table = schedule(**changes)
    assert table.schema == SCHEDULE
    assert set(table["domain"].to_pylist()) == domains
    assert table.num_rows == rows


def test_the_pool_alone_is_a_schedule_too() -> None:
    table = training_schedule(SOURCES.slice(0, 0), TARGETS, steps=5, source_batch=8, target_batch=4, seed=5)
    assert table["row"].to_pylist() == [12 * step + 8 + place for step in range(5) for place in range(4)]
    assert drawn(table, TARGET) == drawn(schedule(steps=5), TARGET)


@pytest.mark.parametrize("workers", range(1, 8))
@pytest.mark.parametrize(("source_batch", "target_batch"), [(4, 4), (5, 3), (1, 7), (8, 0)])
def test_workers_deal_out_the_rows_of_every_step(source_batch: int, target_batch: int, workers: int) -> None:
    table = schedule(source_batch=source_batch, target_batch=target_batch)
    shares = [steps_of(worker_share(table, 8, rank, workers)) for rank in range(workers)]
    for step, rows in enumerate(steps_of(table)):
        own = [share[step] for share in shares]
        dealt = sorted((row for part in own for row in part), key=lambda row: row["row"])
        assert dealt == rows
        for domain in (SOURCE, TARGET, ""):
            counts = [sum(row["domain"].startswith(domain) for row in part) for part in own]
            assert max(counts) - min(counts) <= 1
        assert all(part == sorted(part, key=lambda row: row["row"]) for part in own)
    # The same places of every step, so that all workers have batches of one size throughout.
    places = {tuple(row["row"] % 8 for row in shares[-1][step]) for step in range(STEPS)}
    assert len(places) == 1


def test_workers_deal_out_what_is_left_of_a_schedule_as_they_would_have() -> None:
    table = schedule()
    for rank in range(5):
        whole = worker_share(table, 12, rank, 5)
        left = worker_share(table.slice(4 * 12), 12, rank, 5)
        assert left == whole.slice(whole.num_rows - left.num_rows)
        assert left.num_rows / whole.num_rows == 7 / 11
