"""What was bought, with digests that are right: budget, places, picks, and what the ledger says of them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from damage import candidates, moved, redigest, region, reseal, rewrite_candidates, rewrite_ledger, rows
from PIL import Image
from rewritten import rewrite_config
from small_experiments import PIXELS

from halo_ray.annotations.ledger import LEDGER, Ledger
from halo_ray.storage import Storage
from halo_ray.verification.findings import Findings
from halo_ray.verification.purchases import region_pixels_of
from halo_ray.verification.spacing import crowded, nearest_within
from halo_ray.verification.subject import Pool
from halo_ray.verification.verify import verify_experiment

Expect = Callable[[str, str], Findings]
Row = dict[str, object]

MOST = PIXELS * 2 // 100 // 9
"""Regions that the budget pays for."""

SIZE = 72, 100


def set_all(**values: object) -> Callable[[list[Row]], None]:
    return lambda table: [row.update(values) for row in table][:0]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda table: table.append(dict(table[0])), "1 pixels stand twice"),
        (lambda table: table.pop(), "1 pixels of its regions have no row"),
        (lambda table: table[0].update(label=77), "1 labels are no class, first 77"),
        (lambda table: table[3].update(x=(table[3]["x"] + 20) % 100), "pixels lie outside of their regions"),
        (lambda table: table[0].update(y=72), "pixels lie outside of their images"),
        (lambda table: table[0].update(image_id="nowhere"), "1 rows are of unknown images, first 'nowhere'"),
        (lambda table: table[0].update(round=1), "1 rows are of another round, first 1"),
        (lambda table: table[0].update(score=0.5), "score differs among the pixels of a region"),
        (lambda table: table[0].update(model=None), "has rows without model"),
        (set_all(model="0" * 32), "another model than rounds/001/checkpoint"),
        (set_all(oracle="somebody"), "oracle 'somebody'"),
        (set_all(radius=0.5), "regions is not that of their candidates"),
        (set_all(guess=3), "guess of "),
    ],
)
def test_rows_that_cannot_be_are_found(
    change: Callable[[list[Row]], object], what: str, copy: Storage, expect: Expect
) -> None:
    rewrite_ledger(copy, 2, lambda table: rows(table, change))
    expect(Ledger.file(2), what)


def free_place(copy: Storage, image_id: str, radius: int = 3) -> tuple[int, int]:
    """Where another region could be centred, by looking at all places."""
    table = Ledger(copy).read(3, first=1)
    taken = {(r["region_y"], r["region_x"]) for r in table.to_pylist() if r["image_id"] == image_id}
    return next(
        (y, x)
        for y in range(1, SIZE[0] - 1)
        for x in range(1, SIZE[1] - 1)
        if all(max(abs(y - a), abs(x - b)) > radius for a, b in taken)
    )


def test_one_region_more_than_planned_is_found(copy: Storage, expect: Expect) -> None:
    y, x = free_place(copy, "0")
    planned = copy.read_sealed("plan.json")["rounds"][1]["regions"]

    def more(table: pa.Table) -> pa.Table:
        added = moved(table, 0, "0", y, x)
        return pa.concat_tables([table, added.slice(added.num_rows - 9)])

    rewrite_ledger(copy, 2, more)
    wrong = [str(each) for each in expect(Ledger.file(2), f"has {planned + 1} regions, the plan has {planned}").wrong]
    assert not any("exclusion" in each or "twice" in each for each in wrong)


def test_a_region_elsewhere_is_found(copy: Storage, expect: Expect) -> None:
    image_id = Ledger(copy).read(3, first=2)["image_id"][0].as_py()
    y, x = free_place(copy, image_id)
    rewrite_ledger(copy, 2, lambda table: moved(table, 0, image_id, y, x))
    wrong = expect(Ledger.file(2), "1 regions are not what was chosen").wrong
    assert len(wrong) == 1


@pytest.mark.parametrize(("other", "what"), [(2, "each other"), (1, "one of an earlier round")])
def test_regions_that_are_too_near_are_found(other: int, what: str, copy: Storage, expect: Expect) -> None:
    bought = Ledger(copy).read(other + 1, first=other)
    neighbour = bought.filter(pa.array(region(bought, 1)))
    image_id, y, x = (neighbour[key][0].as_py() for key in ("image_id", "region_y", "region_x"))
    x = x + 3 if x + 4 < SIZE[1] else x - 3  # 3 pixels are forbidden, though no pixel is bought twice
    y = min(max(y, 1), SIZE[0] - 2)
    rewrite_ledger(copy, 2, lambda table: moved(table, 0, image_id, y, x))
    expect(Ledger.file(2), f"within 3 pixels (the exclusion radius) of {what}")


def test_nothing_is_bought_that_was_known(copy: Storage, expect: Expect) -> None:
    first = Ledger(copy).read(2, first=1).to_pylist()[0]
    beside = first["region_x"] + 2 if first["region_x"] + 2 < SIZE[1] else first["region_x"] - 2
    known = {"image_id": first["image_id"], "round": 0, "label": 1, "oracle": "imported"}
    known |= {"y": first["region_y"], "region_y": first["region_y"], "x": beside, "region_x": beside}
    rewrite_ledger(copy, 0, lambda table: pa.Table.from_pylist([known], schema=LEDGER))
    expect(Ledger.file(1), "of one of an earlier round")
    known |= {"x": first["x"], "y": first["y"], "region_y": first["y"], "region_x": first["x"]}
    rewrite_ledger(copy, 0, lambda table: pa.Table.from_pylist([known], schema=LEDGER))
    expect(Ledger.file(1), "1 pixels were labelled in an earlier round")
    known |= {"score": 1.0, "label": 255}
    rewrite_ledger(copy, 0, lambda table: pa.Table.from_pylist([known], schema=LEDGER))
    expect(Ledger.file(0), "known labels have score")
    expect(Ledger.file(0), "1 labels are no class, first 255")


def test_the_plan_spends_no_more_than_the_budget(copy: Storage, expect: Expect) -> None:
    plan = copy.read_sealed("plan.json")
    bought = sum(each["regions"] for each in plan["rounds"])
    assert bought == MOST
    plan["rounds"][1]["regions"] += 1
    copy.write_sealed("plan.json", plan)
    expect("plan.json", f"buy {MOST + 1} regions of 9 pixels, the budget pays for 864 pixels")
    plan["rounds"][1] |= {"regions": MOST // 2, "share": str(Fraction(2, 100))}
    copy.write_sealed("plan.json", plan)
    expect("plan.json", "its shares make 1296 pixels, the budget pays for 864")
    plan["rounds"][1]["share"] = str(Fraction(1, 100))
    copy.write_sealed("plan.json", {**plan, "budget": 0.01})
    found = expect("plan.json", "the budget pays for 432 pixels")
    assert any(each.place == "rounds" and "the budget pays for 432" in each.what for each in found.wrong)


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("rounds/001/selection.json", lambda s: s["counts"].popitem(), "regions, its counts add up to"),
        ("rounds/001/selection.json", lambda s: s["cut"].update(score=1.0), "its cut is"),
        ("rounds/001/selection.json", lambda s: s.update(round=2), "is of round 2"),
        ("rounds/001/selection.json", lambda s: s["planned"].update(regions=1), "was planned as"),
        ("rounds/001/compared/entropy.json", lambda s: s["cut"].update(image_id="4?"), "its cut is"),
        ("stages/rounds/001/select.json", lambda m: m["result"]["audit"].update(stored=7), "stored is 7, not"),
    ],
)
def test_a_selection_follows_from_the_candidates(
    name: str, change: Callable[[dict], object], what: str, copy: Storage, expect: Expect
) -> None:
    reseal(copy, name, change)
    expect(name, what)


def test_regions_that_were_given_to_another_image_are_found(copy: Storage, expect: Expect) -> None:
    def change(selection: dict) -> None:
        one, other = list(selection["counts"])[:2]
        selection["counts"][one] += 1
        selection["counts"][other] -= 1

    reseal(copy, "rounds/001/selection.json", change)
    expect("rounds/001/selection.json", "the stored candidates give")
    expect(Ledger.file(1), "its selection chose")


def test_swapped_candidates_are_found(copy: Storage, expect: Expect) -> None:
    own, other = candidates(copy, 1, "halo"), candidates(copy, 1, "entropy")
    contents = copy.read(own), copy.read(other)
    for name, data in zip((other, own), contents, strict=True):
        copy.write(name, data)
        redigest(copy, name)
    expect("rounds/001/selection.json", "the stored candidates give")
    expect("rounds/001/compared/entropy.json", "the stored candidates give")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda table: table.pop(0), "candidates of 1 images are missing"),
        (lambda table: table.append(dict(table[0])), "stands twice"),
        (lambda table: table[0].update(row=17), "1 candidates are of row 17, but the pool has 6 images"),
        (lambda table: table[0].update(row=table[0]["row"] ^ 1), "1 candidates name another image than their row"),
        (lambda table: table[0].update(score=float("nan")), "NaN or infinite"),
        (lambda table: table[1].update(score=table[0]["score"] + 1), "does not come after the one before it"),
        (lambda table: table[1].update(y=table[0]["y"], x=table[0]["x"]), "a place of an image stands twice"),
        (lambda table: table[0].update(y=72), "lie outside of their images"),
        (lambda table: table[0].update(radius=None), "has candidates without radius"),
    ],
)
def test_candidates_that_cannot_be_are_found(change: Callable[[list[Row]], object], what: str, copy: Storage) -> None:
    rewrite_candidates(copy, 2, lambda table: rows(table, change))
    wrong = [str(each) for each in verify_experiment(copy.uri).wrong]
    assert any(each.startswith(candidates(copy, 2, "halo").rpartition("/")[0]) and what in each for each in wrong), (
        wrong
    )


def test_candidates_of_what_was_bought_before_are_found(copy: Storage, expect: Expect) -> None:
    old = copy.read_table(candidates(copy, 1, "halo"))
    rewrite_candidates(copy, 2, lambda table: old)
    expect(candidates(copy, 2, "halo"), "lie within the exclusion radius of what was labelled before")


def test_what_is_never_picked_is_kept(copy: Storage, tmp_path: Path, expect: Expect) -> None:
    mask = np.zeros(SIZE, np.uint8)
    first = Ledger(copy).read(2, first=1).to_pylist()[0]
    rewrite_config(copy, lambda config: config["acquisition"].update(never=str(tmp_path / "never.png")))
    findings = verify_experiment(copy.uri)
    assert findings.wrong == []
    assert "acquisition.never was not checked" in str(findings.notes)
    Image.fromarray(mask).save(tmp_path / "never.png")
    findings = verify_experiment(copy.uri)
    assert (findings.wrong, findings.notes) == ([], [])
    mask[first["region_y"], first["region_x"]] = 255
    Image.fromarray(mask).save(tmp_path / "never.png")
    expect(Ledger.file(1), "acquisition.never forbids")


@pytest.mark.parametrize("radius", [0, 1, 4])
def test_spacing_is_that_of_every_pair(radius: int) -> None:
    generator = np.random.default_rng(radius)
    old, new = (np.stack([generator.integers(0, n, 120) for n in (4, 40, 60)], axis=1) for _ in range(2))

    def near(one: np.ndarray, other: np.ndarray) -> bool:
        return one[0] == other[0] and max(abs(one[1:] - other[1:])) <= radius

    assert nearest_within(new, old, radius).tolist() == [
        n for n, one in enumerate(new) if any(near(one, o) for o in old)
    ]
    alone = [n for n, one in enumerate(new) if any(near(one, o) for m, o in enumerate(new) if m != n)]
    assert crowded(new, radius).tolist() == alone


def test_pixels_of_regions_are_those_that_are_painted() -> None:
    heights, widths = np.array([7, 9]), np.array([8, 5])
    pool = Pool(pa.chunked_array([["a", "b"]]), heights, widths)
    regions = np.array([[0, 0, 0], [0, 6, 7], [1, 4, 2], [1, 5, 3]])
    painted = []
    for image, (height, width) in enumerate(zip(heights, widths, strict=True)):
        mask = np.zeros((height, width), bool)
        for _, y, x in regions[regions[:, 0] == image]:
            mask[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
        painted += [image << 32 | int(y) << 16 | int(x) for y, x in zip(*np.nonzero(mask), strict=True)]
    assert region_pixels_of(regions, 2, pool).tolist() == painted
