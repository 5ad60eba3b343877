"""Several experiments on one page: who is one line, and what the line says."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_page import Page
from rewritten import rewrite_config, rewrite_records

from halo_ray.config import Config
from halo_ray.report.compare import groups
from halo_ray.report.reported import Reported, read_experiment
from halo_ray.report.write import report
from halo_ray.storage import Storage

T_95 = {2: 12.7062, 3: 4.3027}
"""Two-sided 95 % quantile of Student's t for so many values, from a table."""

Make = Callable[..., Reported]


@pytest.fixture
def make(experiment: Config, tmp_path: Path) -> Make:
    """A copy of an experiment with another seed or setting, each mIoU shifted."""

    def making(name: str, shift: float = 0.0, **settings: object) -> Reported:
        at = tmp_path / name
        shutil.copytree(experiment.output_dir, at, ignore=shutil.ignore_patterns("lock", "report", "maps"))

        def change(config: dict[str, Any]) -> None:
            for key, value in settings.items():
                section, _, rest = key.partition("__")
                if rest:
                    config[section][rest] = value
                else:
                    config[section] = value

        storage = Storage(str(at))
        rewrite_config(storage, change)
        rewrite_records(storage, lambda rows: [{**row, "miou": row["miou"] + shift * row["round"]} for row in rows])
        return read_experiment(storage)

    return making


def test_seeds_are_one_line_with_the_interval_of_its_mean(make: Make) -> None:
    told = [make(f"s{seed}", shift, seed=seed) for seed, shift in enumerate((0.0, 0.01, 0.05))]
    (group,) = groups(told)
    assert group.label == "halo"
    assert group.seeds == [0, 1, 2]
    for number, point in enumerate(group.points()):
        values = [each.rows[number]["miou"] for each in told]
        mean = sum(values) / 3
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
        assert point.miou == pytest.approx(mean)
        assert point.interval == pytest.approx(T_95[3] * deviation / math.sqrt(3), rel=1e-4, abs=1e-9)
        assert point.pixels == told[0].rows[number]["pixels"]
        assert point.runs == 3


def test_a_round_that_not_all_seeds_have_is_the_mean_of_those_that_do(make: Make) -> None:
    told = [make("a", seed=0), make("b", 0.02, seed=1)]
    del told[1].rows[2]
    points = groups(told)[0].points()
    assert [point.runs for point in points] == [2, 2, 1]
    assert points[2].miou == pytest.approx(told[0].rows[2]["miou"])
    assert points[2].interval is None


def test_lines_are_called_by_what_they_differ_in(make: Make) -> None:
    told = [
        make("halo", seed=0),
        make("entropy", acquisition__function="entropy"),
        make("more", acquisition__function="entropy", acquisition__budget=0.5, execution__max_actors=7),
        make("full", training__protocol="fully_supervised", acquisition__budget=0.25),
        make("other full", training__protocol="fully_supervised", acquisition__budget=0.75, seed=1),
    ]
    found = groups(told)
    assert [group.label for group in found] == [
        "function halo, budget 0.02, protocol source_target",
        "function entropy, budget 0.02, protocol source_target",
        "function entropy, budget 0.5, protocol source_target",
        "protocol fully_supervised",
    ]
    assert [len(group.members) for group in found] == [1, 1, 1, 2]
    assert [group.buys for group in found] == [True, True, True, False]


def test_machines_and_places_make_no_other_line(make: Make) -> None:
    assert len(groups([make("a"), make("b", seed=3, data_root="/elsewhere", execution__max_actors=3)])) == 1


def test_the_page_has_a_line_for_every_group_and_a_part_for_every_experiment(make: Make, tmp_path: Path) -> None:
    told = [make("s0", seed=0), make("s1", 0.03, seed=1), make("e0", acquisition__function="entropy")]
    names = [each.storage.uri for each in told]
    report(names, str(tmp_path / "out"), own_functions=False)
    page = Page(tmp_path / "out/index.html")
    lines = page.tables[0]
    assert lines[0] == ["experiment", "seeds", "round", "pixels bought", "share of the pool", "mIoU"]
    assert [line[:3] for line in lines[1:]] == [
        [f"function {name}", seeds, number] for name, seeds in (("halo", "2"), ("entropy", "1")) for number in "012"
    ]
    values = [100 * each.rows[2]["miou"] for each in told[:2]]
    half = T_95[2] * abs(values[1] - values[0]) / 2
    assert lines[3][5] == f"{sum(values) / 2:.1f} ± {half:.1f}"
    assert lines[6][3:] == [str(told[2].rows[2]["pixels"]), lines[3][4], f"{100 * told[2].rows[2]['miou']:.1f}"]
    assert all(name in page.text for name in names)
    assert {"#experiment-1", "#experiment-2", "#experiment-3"} <= {*page.addresses}
    files = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"quality.png", "1-class-iou.png", "2-class-iou.png", "3-frame-1.png"} <= files
    assert len(page.images) == len(files)


def test_who_is_named_twice_is_one(make: Make, tmp_path: Path) -> None:
    uri = make("s0").storage.uri
    report([uri, f"{uri}/", uri], str(tmp_path / "out"), own_functions=False)
    assert Page(tmp_path / "out/index.html").tables[0][0][0] == "round"  # the page of a single experiment


def test_of_many_experiments_one_of_each_group_has_frames(make: Make, tmp_path: Path) -> None:
    names = [make(f"s{seed}", seed=seed).storage.uri for seed in range(4)]
    names.append(make("entropy", acquisition__function="entropy").storage.uri)
    report(names, str(tmp_path / "out"), own_functions=False)
    files = {path.name for path in (tmp_path / "out").glob("*frame-1.png")}
    assert files == {"1-frame-1.png", "5-frame-1.png"}
    assert len([*(tmp_path / "out").glob("*-class-iou.png")]) == 5


def test_a_sweep_is_all_its_trials_that_have_a_record(make: Make, tmp_path: Path) -> None:
    for seed in (0, 1):
        shutil.move(make(f"s{seed}", seed=seed).storage.uri, tmp_path / f"sweep/trials/s{seed}")
    (tmp_path / "sweep/trials/waiting").mkdir()
    assert report([str(tmp_path / "sweep")], None, own_functions=False) == str(tmp_path / "sweep/report/index.html")
    page = Page(tmp_path / "sweep/report/index.html")
    assert [line[:2] for line in page.tables[0][1:]] == [["halo", "2"]] * 3
