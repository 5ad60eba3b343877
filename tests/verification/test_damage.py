"""What is damaged besides a file's content alone: the finding names it. Of contents see test_every_file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from damage import candidates, flip, rejson, reseal
from rewritten import rewrite_table

from halo_ray.storage import Storage
from halo_ray.verification.findings import Findings

Expect = Callable[[str, str], Findings]


def test_a_damaged_lock_is_named(copy: Storage, expect: Expect) -> None:
    flip(copy, "lock/00000001.json")
    expect("lock/00000001.json", "damaged")


@pytest.mark.parametrize(
    "name", ["manifests/pool.parquet", "rounds/000/annotations/ledger.parquet", "rounds/002/annotations/ledger.parquet"]
)
def test_checksum_files_belong_to_their_files(name: str, copy: Storage, expect: Expect) -> None:
    flip(copy, f"{name}.sha256")
    expect(name, f"is damaged (its SHA-256 is not that of {name}.sha256)")
    copy.delete(f"{name}.sha256")
    expect(f"{name}.sha256", "is gone")


@pytest.mark.parametrize("function", ["halo", "entropy"])
def test_candidates_are_what_their_list_says(function: str, copy: Storage, expect: Expect) -> None:
    name = candidates(copy, 2, function)
    data = copy.read(name)
    flip(copy, name)
    expect(name, "is damaged")
    copy.delete(name)
    expect(name, "is gone")
    copy.write(name, data)
    listed = f"{name.rpartition('/')[0]}/_files.json"
    flip(copy, listed)
    expect(listed, "damaged")
    copy.delete(listed)
    expect(listed, "is gone")


def test_all_is_found_at_once(copy: Storage, expect: Expect) -> None:
    names = ["manifests/source.parquet", "rounds/001/selection.json", "rounds/001/checkpoint/optimizer.pt"]
    for name in names:
        flip(copy, name)
    assert sorted(each.place for each in expect(names[0], "damaged").wrong) == sorted(names)


def test_a_configuration_that_cannot_be_read_keeps_nothing_else_from_being_found(copy: Storage, expect: Expect) -> None:
    copy.write("config.yaml", copy.read("config.yaml")[:-200] + b"\n: [")
    flip(copy, "rounds/001/checkpoint/optimizer.pt")
    expect("config.yaml", "not what was written")
    expect("rounds/001/checkpoint/optimizer.pt", "damaged")


@pytest.mark.parametrize(
    "stage", ["pretrain", "rounds/000/record", "rounds/001/select", "rounds/001/control", "rounds/002/annotate"]
)
def test_a_marker_that_later_ones_need_is_missed(stage: str, copy: Storage, expect: Expect) -> None:
    copy.delete(f"stages/{stage}.json")
    expect(f"stages/{stage}.json", "which comes after it")


def test_markers_of_other_stages_and_of_no_stages_are_found(copy: Storage, expect: Expect) -> None:
    copy.write("stages/rounds/003/score.json", copy.read("stages/rounds/002/score.json"))
    expect("stages/rounds/003/score.json", "of no stage of this experiment of 2 rounds")
    copy.clear("stages")
    expect("stages", "is gone, although labels were bought")


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("plan.json", lambda plan: plan.pop("budget"), "its keys differ"),
        ("plan.json", lambda plan: plan["rounds"][0].update(regions="48"), "holds something else"),
        ("classes.json", lambda classes: classes.update(classes=["road"]), "at least two classes"),
        ("stages/rounds/001/score.json", lambda m: m.update(result={"candidates": 7}), "holds something else"),
        ("stages/rounds/001/select.json", lambda m: m["result"].pop("audit"), "holds something else"),
        ("stages/rounds/001/train.json", lambda m: m["result"].update(checkpoint="elsewhere"), "names checkpoint"),
        ("stages/rounds/001/train.json", lambda m: m.update(seconds=-1), "took -1 seconds"),
        ("stages/rounds/001/train.json", lambda m: m.update(stage="pretrain"), "is the marker of pretrain"),
        ("rounds/001/selection.json", lambda s: s.update(counts=[]), "holds something else"),
        ("rounds/002/checkpoint/training.json", lambda s: s.update(bad_steps=[1]), "left out steps [1]"),
    ],
)
def test_content_that_makes_no_sense_is_found_whatever_its_digest(
    name: str, change: Callable[[dict], object], what: str, copy: Storage, expect: Expect
) -> None:
    reseal(copy, name, change)
    expect(name, what)


def test_inspection_must_fit_the_manifests(copy: Storage, expect: Expect) -> None:
    rejson(copy, "manifests/inspection.json", lambda found: found["source"].update(images=5))
    expect("manifests/inspection.json", "source: its images and sizes")
    rejson(
        copy, "manifests/bad_records.json", lambda bad: bad.append({"split": "pool", "image_id": "9", "problem": ""})
    )
    expect("manifests/inspection.json", "pool: 0 images were skipped, manifests/bad_records.json has 1")


def test_manifests_are_sorted_and_unique(copy: Storage, expect: Expect) -> None:
    name = "manifests/validation.parquet"
    table = copy.read_table(name)
    rewrite_table(copy, name, table.take([1, 0, 2, 3, 4, 5]))
    expect(name, "image '0' stands after '1'")
    rewrite_table(copy, name, table.take([0, 1, 1, 2, 3, 4]))
    expect(name, "image '1' stands twice")
