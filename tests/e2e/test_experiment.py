"""The real loop on a private Ray: what lies in the directory afterwards must agree with itself and with the files."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from halo_ray.config import Config
from halo_ray.context import finished_rounds
from halo_ray.errors import InputError
from halo_ray.experiment import run_experiment

ROUNDS = (1, 2)


def ledger(config: Config, number: int) -> list[dict]:
    return pq.read_table(f"{config.output_dir}/rounds/{number:03d}/annotations/ledger.parquet").to_pylist()


def selection(config: Config, number: int) -> dict:
    return json.loads(Path(config.output_dir, f"rounds/{number:03d}/selection.json").read_text())


def test_ledger_holds_the_labels_of_the_files(experiment: Config) -> None:
    for number in ROUNDS:
        rows = ledger(experiment, number)
        assert rows
        for row in rows:
            label = np.asarray(Image.open(f"{experiment.data_root}/night/labels/{row['image_id']}.png"))
            assert row["label"] == label[row["y"], row["x"]]
            assert row["round"] == number


def test_budget_is_spent_exactly_and_no_pixel_is_bought_twice(experiment: Config) -> None:
    pixels = 6 * 72 * 100
    regions = [selection(experiment, number)["regions"] for number in ROUNDS]
    assert sum(regions) == int(pixels * 0.02 / 9)
    bought = Counter((row["image_id"], row["y"], row["x"]) for number in ROUNDS for row in ledger(experiment, number))
    assert max(bought.values()) == 1


def test_no_region_is_centred_near_another_in_any_round(experiment: Config) -> None:
    centres = {
        (row["image_id"], row["region_y"], row["region_x"]) for number in ROUNDS for row in ledger(experiment, number)
    }
    assert len(centres) == sum(selection(experiment, number)["regions"] for number in ROUNDS)
    for image, y, x in centres:
        near = [c for c in centres if c[0] == image and max(abs(c[1] - y), abs(c[2] - x)) <= 3]
        assert len(near) == 1


def test_regions_are_squares_clipped_to_the_image(experiment: Config) -> None:
    for number in ROUNDS:
        squares: dict[tuple, set] = {}
        for row in ledger(experiment, number):
            squares.setdefault((row["image_id"], row["region_y"], row["region_x"]), set()).add((row["y"], row["x"]))
        for (_, y, x), square in squares.items():
            rows, columns = range(max(y - 1, 0), min(y + 2, 72)), range(max(x - 1, 0), min(x + 2, 100))
            assert square == {(i, j) for i in rows for j in columns}


def test_metrics_have_a_record_before_any_purchase_and_one_per_round(experiment: Config) -> None:
    records = [json.loads(line) for line in Path(experiment.output_dir, "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [0, 1, 2]
    assert (records[0]["pixels"], records[0]["regions"], records[0]["images_touched"]) == (0, 0, 0)
    for number, record in enumerate(records):
        rows = [row for n in range(1, number + 1) for row in ledger(experiment, n)]
        assert record["pixels"] == len(rows)
        assert record["budget_spent"] == pytest.approx(len(rows) / (6 * 72 * 100))
        assert record["images_touched"] == len({row["image_id"] for row in rows})
        assert 0 <= record["miou"] <= 1
        known = [iou for iou in record["iou"].values() if iou is not None]
        assert record["miou"] == pytest.approx(sum(known) / len(known))
        stages = {"pretrain", "evaluate"} if number == 0 else {"score", "select", "annotate", "train", "evaluate"}
        assert stages <= set(record["seconds"])


def test_maps_are_kept_for_the_images_with_picks_and_explain_their_scores(experiment: Config) -> None:
    for number in ROUNDS:
        maps = Path(experiment.output_dir, f"rounds/{number:03d}/maps")
        assert {path.stem for path in maps.glob("*.npz")} == set(selection(experiment, number)["counts"])
        for row in ledger(experiment, number):
            stored = np.load(maps / f"{row['image_id']}.npz")
            place = row["region_y"], row["region_x"]
            for name in ("score", "radius", "entropy"):
                assert stored[name].shape == (72, 100)
                assert stored[name][place] == pytest.approx(row[name], rel=2e-3, abs=1e-3)  # float16


def test_a_finished_experiment_is_not_run_again(experiment: Config) -> None:
    def times() -> dict[Path, int]:
        """Of all files but the lock, which says who was there last."""
        files = [path for path in Path(experiment.output_dir).rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in files if path.parent.name != "lock"}

    before = times()
    assert finished_rounds(experiment) == 2
    records = run_experiment(experiment)
    assert [record["round"] for record in records] == [0, 1, 2]
    assert times() == before


def test_another_identity_in_the_same_directory_is_refused_by_name(experiment: Config) -> None:
    other = replace(experiment, seed=1, model=replace(experiment.model, curvature=2.0))
    with pytest.raises(InputError, match=r"model\.curvature, seed"):
        run_experiment(other)


def test_other_images_are_refused_by_name(experiment: Config) -> None:
    other = replace(experiment.data.pool, count=0, images="day/images/*.jpg", labels="day/labels/*.png")
    with pytest.raises(InputError, match=r"data\.pool\.images, data\.pool\.labels"):
        run_experiment(replace(experiment, data=replace(experiment.data, pool=other)))


def test_more_rounds_continue_a_finished_experiment(experiment: Config, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(experiment.output_dir, copy)
    moved = tmp_path / "moved"
    shutil.copytree(experiment.data_root, moved)  # the same images under another root are the same experiment
    three = replace(experiment.acquisition, rounds=3)
    config = replace(experiment, output_dir=str(copy), data_root=str(moved), acquisition=three)
    with pytest.raises(InputError, match=r"raise acquisition\.budget above 0\.02"):
        run_experiment(config)
    config = replace(config, acquisition=replace(three, budget=0.03))
    with pytest.raises(InputError, match=r"training\.round_steps"):
        run_experiment(replace(config, training=replace(config.training, round_steps=(2, 1, 3))))
    config = replace(config, training=replace(config.training, round_steps=(2, 2, 3)))
    records = run_experiment(config)
    assert [record["round"] for record in records] == [0, 1, 2, 3]
    assert records[3]["regions"] == int(6 * 72 * 100 * 0.03 / 9)
    for number in ROUNDS:
        assert ledger(config, number) == ledger(experiment, number)
