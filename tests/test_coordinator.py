"""The coordinator's logic, without Ray; that it is a named actor is shown by the end-to-end tests."""

from __future__ import annotations

import numpy as np
import pytest
import ray

from halo_ray.acquisition.bound import histogram
from halo_ray.acquisition.threshold import Candidates, Sequences
from halo_ray.coordinator import Coordinator, Report
from halo_ray.tasks import CALLS_AT_HOME

IMAGES = 12
Row = tuple[float, int, int]


def pool(parts: int, seed: int = 0) -> tuple[list[Candidates], list[Row]]:
    """Random candidates of 12 images in some parts, and all of them as (−score, row, number) in order of choice."""
    random = np.random.default_rng(seed)
    scores = (random.integers(0, 12, 160) / 4).astype(np.float32)
    rows = random.integers(0, IMAGES, 160).astype(np.uint32)
    ranked = sorted((-float(s), int(r), n) for n, (s, r) in enumerate(zip(scores, rows, strict=True)))
    return [Candidates(scores[n::parts], rows[n::parts]) for n in range(parts)], ranked


def report(scores: list[float], pruned: int = 0) -> dict[str, Report]:
    return {"halo": Report(histogram(np.array(scores, np.float32)), pruned)}


def shares(rows: list[Row]) -> dict[int, int]:
    return {image: sum(row[1] == image for row in rows) for image in sorted({row[1] for row in rows})}


def identity(part: Candidates) -> Candidates:
    return part


@pytest.mark.parametrize("regions", [1, 37, 160, 1000])
def test_selection_is_the_head_of_the_sorted_pool(regions: int) -> None:
    parts, ranked = pool(4)
    found = Coordinator(IMAGES, regions).select(identity, parts)
    head = ranked[:regions]
    assert found.candidates == len(ranked)
    assert dict(zip(found.rows.tolist(), found.counts.tolist(), strict=True)) == shares(head)
    assert found.cut == ((-head[-1][0], head[-1][1]) if regions <= 160 else None)


def test_many_parts_are_counted_in_tasks_with_the_same_result(cluster: None) -> None:
    few, _ = pool(1)
    many, _ = pool(CALLS_AT_HOME + 25)
    alone = Coordinator(IMAGES, 37).select(identity, few)
    actor = ray.remote(num_cpus=0)(Coordinator).remote(IMAGES, 37)
    spread = ray.get(actor.select.remote(identity, many))
    ray.kill(actor)
    assert np.array_equal(alone.rows, spread.rows)
    assert np.array_equal(alone.counts, spread.counts)
    assert (alone.cut, alone.candidates) == (spread.cut, spread.candidates)


def test_caps_of_sequences_hold_in_the_bound_and_in_the_cut() -> None:
    parts, ranked = pool(3)
    sequences = Sequences((np.arange(IMAGES) % 2).astype(np.int32), np.array([10, 1000]))
    coordinator = Coordinator(IMAGES, 60, sequences)
    found = coordinator.select(identity, parts)
    even = [row for row in ranked if row[1] % 2 == 0][:10]
    chosen = sorted(even + [row for row in ranked if row[1] % 2])[:60]
    assert dict(zip(found.rows.tolist(), found.counts.tolist(), strict=True)) == shares(chosen)
    for image in range(IMAGES):
        coordinator.add({image: report([-row[0] for row in ranked if row[1] == image])})
    assert 0 <= coordinator.bounds()["halo"] <= -chosen[-1][0]


def test_scope_image_takes_every_candidate() -> None:
    parts, ranked = pool(2)
    coordinator = Coordinator(IMAGES, None)
    assert coordinator.add({0: report([1.0, 2.0])}) == {"halo": float("-inf")}
    assert int(coordinator.select(identity, parts).counts.sum()) == len(ranked)


def test_a_repeated_message_counts_once() -> None:
    coordinator = Coordinator(IMAGES, 3)
    for _ in range(3):
        assert coordinator.add({4: report([1.0, 2.0], pruned=5)})["halo"] == float(
            "-inf"
        )  # two prove no bound for three
    assert coordinator.images() == 1
    assert coordinator.add({7: report([0.5])})["halo"] == 0.5
    audit = coordinator.audit()["halo"]
    assert audit == {"images": 2, "candidates": 3, "pruned_at_most": 5, "bound": 0.5}


def test_speed_is_measured_from_the_first_report_on(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 102.0, 104.0])
    monkeypatch.setattr("halo_ray.coordinator.time.monotonic", lambda: next(times))
    coordinator = Coordinator(IMAGES, 3)
    coordinator.add({0: report([1.0]), 1: report([1.0])})
    assert coordinator.images_per_second() is None
    for row in (2, 3):
        coordinator.add({row: report([1.0]), row + 5: report([1.0])})
    assert coordinator.images_per_second() == 1.0  # four images in four seconds


def test_each_function_has_a_bound_of_its_own() -> None:
    coordinator = Coordinator(IMAGES, 1, functions=("halo", "entropy"))
    both = report([0.25]) | {"entropy": Report(histogram(np.array([2.0], np.float32)), 0)}
    assert coordinator.add({0: both}) == {"halo": 0.25, "entropy": 2.0}


def test_nothing_to_choose_from() -> None:
    found = Coordinator(IMAGES, 5).select(identity, [])
    assert (len(found.rows), found.cut, found.candidates) == (0, None, 0)
