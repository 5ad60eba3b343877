"""What a sweep says it has found, against scipy's own intervals of numbers that were written into its trials."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from made_trials import ran, was_stopped
from PIL import Image
from scipy import stats

from halo_ray.acquisition.budget import AcquisitionConfig
from halo_ray.config import Config
from halo_ray.intervals import half_interval
from halo_ray.storage import Storage
from halo_ray.sweep.results import Cell, read_cells, table, write_results
from halo_ray.sweep.space import FLOOR, Point, SearchSpace

CURVATURES, BUDGETS, FUNCTIONS = (0.5, 2.0), (0.01, 0.05), ("halo", FLOOR)
ROUNDS = 2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of files, which need not survive the loss of power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def base(tmp_path: Path) -> Config:
    return Config(output_dir=str(tmp_path), acquisition=AcquisitionConfig(rounds=ROUNDS))


@pytest.fixture
def space(base: Config) -> SearchSpace:
    return SearchSpace.of(base, CURVATURES[:1], BUDGETS, FUNCTIONS, 3)


@pytest.fixture
def wide(base: Config) -> SearchSpace:
    return SearchSpace.of(base, CURVATURES, BUDGETS, FUNCTIONS, 3)


Mious = dict[Point, float]


def run_all(base: Config, space: SearchSpace, but: tuple[Point, ...] = ()) -> Mious:
    """Finishes all trials but some; the mIoU of each after its last round, which is not its best."""
    random = np.random.default_rng(0)
    mious = {point: float(random.uniform(0.3, 0.7)) for point in space.points()}
    for point, miou in mious.items():
        if point not in but:
            ran(base, point, [0.2, miou + 0.1, miou])
    return mious


def by_key(cells: list[Cell]) -> dict[tuple[float, float, str], Cell]:
    return {(cell.curvature, cell.budget, cell.acquisition): cell for cell in cells}


def of_cell(mious: Mious, cell: Cell, acquisition: str | None = None) -> list[float]:
    """By seed, of the cell or of another function beside it."""
    wanted = cell.curvature, cell.budget, acquisition or cell.acquisition
    return [miou for point, miou in mious.items() if (point.curvature, point.budget, point.acquisition) == wanted]


def half(interval: object) -> float:
    return (interval.high - interval.low) / 2  # type: ignore[attr-defined]


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_means_intervals_and_paired_differences_are_those_of_scipy(base: Config, wide: SearchSpace) -> None:
    mious = run_all(base, wide)
    cells = read_cells(base, wide)
    assert len(by_key(cells)) == len(cells) == len(CURVATURES) * len(BUDGETS) * len(FUNCTIONS)
    for cell in cells:
        own, floor = of_cell(mious, cell), of_cell(mious, cell, FLOOR)
        assert sorted(cell.values) == sorted(own)
        assert cell.miou == pytest.approx(np.mean(own))
        assert cell.interval == pytest.approx(half(stats.ttest_1samp(own, 0).confidence_interval(0.95)))
        assert (cell.finished, cell.stopped) == (3, 0)
        regions = int(50_000 * cell.budget / 9)
        assert cell.pixels == 9 * regions
        assert cell.share == pytest.approx(9 * regions / 50_000)
        if cell.acquisition == FLOOR:
            assert (cell.over_floor, cell.over_floor_interval) == (None, None)
            continue
        paired = stats.ttest_rel(own, floor).confidence_interval(0.95)
        assert cell.over_floor == pytest.approx((paired.high + paired.low) / 2)
        assert cell.over_floor_interval == pytest.approx(half(paired))


@pytest.mark.parametrize("n", [2, 3, 10])
def test_half_an_interval_is_students(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    # Quantiles of Student's t for 95 % as printed in any table.
    quantile = {2: 12.7062, 3: 4.3027, 10: 2.2622}[n]
    by_hand = quantile * np.sqrt(((values - values.mean()) ** 2).sum() / (n - 1) / n)
    assert half_interval(list(values)) == pytest.approx(by_hand, rel=1e-4)


def test_one_seed_has_no_interval(base: Config) -> None:
    space = SearchSpace.of(base, [], BUDGETS, FUNCTIONS, 1)
    mious = run_all(base, space)
    cells = read_cells(base, space)
    for cell in cells:
        assert cell.interval is cell.over_floor_interval is None
        if cell.acquisition != FLOOR:
            ((own,), (floor,)) = of_cell(mious, cell), of_cell(mious, cell, FLOOR)
            assert cell.over_floor == pytest.approx(own - floor)
    assert "±" not in table(cells, space).partition("\n\n")[0]


def test_a_stopped_trial_is_left_out_beside_finished_ones(base: Config, space: SearchSpace) -> None:
    stopped = Point(0.5, 0.01, "halo", 1)
    mious = run_all(base, space, but=(stopped,))
    was_stopped(base, stopped, [0.2, 0.9])
    cells = by_key(read_cells(base, space))
    cell = cells[0.5, 0.01, "halo"]
    own, floor = ([of_cell(mious, cell, name)[seed] for seed in (0, 2)] for name in ("halo", FLOOR))
    assert (cell.finished, cell.stopped, cell.values) == (2, 1, own)
    assert cell.miou == pytest.approx(np.mean(own))
    assert cell.interval == pytest.approx(half(stats.ttest_1samp(own, 0).confidence_interval(0.95)))
    assert cell.over_floor == pytest.approx(np.mean(own) - np.mean(floor))
    assert cell.over_floor_interval == pytest.approx(half(stats.ttest_rel(own, floor).confidence_interval(0.95)))
    assert {key for key, each in cells.items() if each.stopped} == {(0.5, 0.01, "halo")}


def test_where_all_were_stopped_their_last_rounds_are_shown(base: Config, space: SearchSpace) -> None:
    stopped = [Point(0.5, 0.05, "halo", seed) for seed in range(3)]
    run_all(base, space, but=tuple(stopped))
    for point, last in zip(stopped, ([0.1, 0.4], [0.1, 0.5], [0.2]), strict=True):
        was_stopped(base, point, last)
    cell = by_key(read_cells(base, space))[0.5, 0.05, "halo"]
    assert (cell.finished, cell.stopped) == (0, 3)
    assert cell.values == [0.4, 0.5, 0.2]
    assert cell.miou == pytest.approx((0.4 + 0.5 + 0.2) / 3)
    assert (cell.over_floor, cell.over_floor_interval) == (None, None)
    assert 0 < cell.pixels < 50_000 * 0.05 / 2


def test_only_seeds_that_the_floor_finished_are_paired(base: Config, space: SearchSpace) -> None:
    missing, unfinished = Point(0.5, 0.01, FLOOR, 0), Point(0.5, 0.05, FLOOR, 2)
    mious = run_all(base, space, but=(missing, unfinished))
    ran(base, unfinished, [0.2, 0.9])
    cells = by_key(read_cells(base, space))
    for budget, seeds in ((0.01, (1, 2)), (0.05, (0, 1))):
        cell = cells[0.5, budget, "halo"]
        own, floor = ([of_cell(mious, cell, name)[seed] for seed in seeds] for name in ("halo", FLOOR))
        assert cell.finished == 3
        assert cell.over_floor == pytest.approx(np.mean(np.subtract(own, floor)))
        assert cell.over_floor_interval == pytest.approx(half(stats.ttest_rel(own, floor).confidence_interval(0.95)))
    assert cells[0.5, 0.01, FLOOR].finished == 2
    assert (cells[0.5, 0.05, FLOOR].finished, cells[0.5, 0.05, FLOOR].open) == (2, 1)


def test_a_trial_that_never_began_is_missing(base: Config, space: SearchSpace) -> None:
    gone = tuple(point for point in space.points() if (point.budget, point.acquisition) == (0.05, "halo"))
    one = Point(0.5, 0.01, "halo", 2)
    mious = run_all(base, space, but=(*gone, one))
    ran(base, one, [])  # killed before its first record
    cells = by_key(read_cells(base, space))
    assert (0.5, 0.05, "halo") not in cells
    assert len(cells) == len(BUDGETS) * len(FUNCTIONS) - 1
    cell = cells[0.5, 0.01, "halo"]
    assert cell.values == of_cell(mious, cell)[:2]
    assert (cell.finished, cell.stopped) == (2, 0)


# How it is shown.


def shown(text: str) -> dict[tuple[str, str], list[str]]:
    """The columns of each line of a table by curvature and function."""
    head, rule, *lines = text.partition("\n\n")[0].splitlines()
    assert set(rule) == {"-"}
    columns = [head.index(name) for name in ("curvature", "acquisition", *(f"{budget:g}" for budget in BUDGETS))]
    ends = [*columns[1:], None]
    cut = [[line[start:end].strip() for start, end in zip(columns, ends, strict=True)] for line in lines]
    return {(curvature, name): values for curvature, name, *values in cut}


def test_the_table_has_a_column_for_each_budget_and_a_line_for_each_function(base: Config, wide: SearchSpace) -> None:
    partly, wholly, gone = ((0.5, 0.01, "halo"), (2.0, 0.05, "halo"), (2.0, 0.01, FLOOR))
    points = wide.points()
    of = {key: [p for p in points if (p.curvature, p.budget, p.acquisition) == key] for key in (partly, wholly, gone)}
    run_all(base, wide, but=(of[partly][1], *of[wholly], *of[gone]))
    for point in (of[partly][1], *of[wholly]):
        was_stopped(base, point, [0.2, 0.333])
    cells = read_cells(base, wide)
    found, text = by_key(cells), table(cells, wide)
    lines = shown(text)
    assert list(lines) == [(f"{c:g}", name) for c in CURVATURES for name in FUNCTIONS]
    for (curvature, name), values in lines.items():
        assert len(values) == len(BUDGETS)
        for budget, value in zip(BUDGETS, values, strict=True):
            key = float(curvature), budget, name
            if key == gone:
                assert value == "-"
                continue
            cell = found[key]
            # Written out from the numbers: mean ± half interval (paired difference ± half interval) and stars.
            expected = f"{100 * cell.miou:.1f} ± {100 * cell.interval:.1f}"
            if cell.over_floor is not None:
                sign = "+" if cell.over_floor >= 0 else "-"
                expected += f" ({sign}{abs(100 * cell.over_floor):.1f} ± {100 * cell.over_floor_interval:.1f})"
            assert value == expected + {partly: "*", wholly: "**"}.get(key, "")
    assert lines["2", "halo"][1] == "33.3 ± 0.0**"
    assert "3 seeds" in text
    assert "**" in text.partition("\n\n")[2]


def test_a_trial_that_failed_is_not_taken_for_one_that_was_stopped(base: Config, space: SearchSpace) -> None:
    failed = Point(0.5, 0.01, "halo", 1)
    run_all(base, space, but=(failed,))
    ran(base, failed, [0.2, 0.9])
    cells = read_cells(base, space)
    cell = by_key(cells)[0.5, 0.01, "halo"]
    assert (cell.finished, cell.stopped, cell.open) == (2, 0, 1)
    text = table(cells, space)
    assert "*" not in text
    assert "? seeds are not done" in text


def test_stars_are_explained_only_where_they_stand(base: Config, space: SearchSpace) -> None:
    run_all(base, space)
    assert "*" not in table(read_cells(base, space), space)


def test_the_files_say_the_same(base: Config, space: SearchSpace) -> None:
    stopped = Point(0.5, 0.01, "halo", 1)
    run_all(base, space, but=(stopped, Point(0.5, 0.05, FLOOR, 0)))
    was_stopped(base, stopped, [0.2, 0.9])
    cells = write_results(Storage(base.output_dir), base, space)
    stored = json.loads(Path(base.output_dir, "results.json").read_text())
    assert stored == [asdict(cell) for cell in cells]
    lines = list(csv.DictReader(io.StringIO(Path(base.output_dir, "results.csv").read_text())))
    assert len(lines) == len(stored)
    for line, cell in zip(lines, stored, strict=True):
        del cell["values"]
        assert set(line) == set(cell)
        for key, value in cell.items():
            if value is None:
                assert line[key] == ""
            else:
                assert type(value)(line[key]) == value


def picture(base: Config) -> np.ndarray:
    with Image.open(Path(base.output_dir, "sweep.png")) as file:
        assert file.format == "PNG"
        return np.asarray(file.convert("RGB")).astype(int)


@pytest.mark.usefixtures("no_warnings")
def test_the_plot_shows_a_panel_for_each_curvature_and_what_was_found(base: Config) -> None:
    space = SearchSpace.of(base, CURVATURES, BUDGETS, FUNCTIONS, 1)
    run_all(base, space)
    write_results(Storage(base.output_dir), base, space)
    first = picture(base)
    assert min(first.shape[:2]) > 300
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 50
    ran(base, Point(2.0, 0.05, "halo", 0), [0.2, 0.3, 0.9])
    write_results(Storage(base.output_dir), base, space)
    assert (picture(base) != first).any()
    one = replace(base, output_dir=str(Path(base.output_dir, "one")))
    alone = SearchSpace.of(one, [0.5], BUDGETS, FUNCTIONS, 1)
    run_all(one, alone)
    write_results(Storage(one.output_dir), one, alone)
    assert picture(one).shape[1] < first.shape[1]


@pytest.mark.usefixtures("no_warnings")
def test_the_plot_holds_each_function_in_its_colour(base: Config) -> None:
    """Blue, vermilion and bluish green, in the order of the functions (Okabe and Ito)."""
    colors = {"halo": (0, 114, 178), "entropy": (213, 94, 0), FLOOR: (0, 158, 115)}
    space = SearchSpace.of(base, CURVATURES, [0.01], colors, 1)
    for left_out in (None, *colors):
        own = replace(base, output_dir=str(Path(base.output_dir, str(left_out))))
        run_all(own, space, but=tuple(point for point in space.points() if point.acquisition == left_out))
        write_results(Storage(own.output_dir), own, space)
        # The last panel's legend names all functions; the first panel has what was found alone.
        panel = picture(own)
        panel = panel[:, : panel.shape[1] // 2]
        for name, color in colors.items():
            assert (np.abs(panel - color).max(axis=2) < 8).any() == (name != left_out), (name, left_out)


@pytest.mark.usefixtures("no_warnings")
def test_results_can_be_written_at_any_time(base: Config, space: SearchSpace) -> None:
    assert write_results(Storage(base.output_dir), base, space) == []
    assert {value for values in shown(table([], space)).values() for value in values} == {"-"}
    assert picture(base).size
    for point in space.points()[:4]:
        ran(base, point, [0.2])  # nothing bought yet, which a logarithmic axis cannot show
    cells = write_results(Storage(base.output_dir), base, space)
    assert {cell.pixels for cell in cells} == {0}
    assert {cell.finished for cell in cells} == {0}
    assert picture(base).size
