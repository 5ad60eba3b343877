"""The report of a real experiment, and of copies of it that lack something."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from bad_input import assert_one_sentence
from damage import reseal
from PIL import Image
from report_page import Page, check_numbers, metrics
from rewritten import rewrite_config, rewrite_records, rewrite_table
from small_experiments import tree

from halo_ray.acquisition.stochastic import stochastic_keys
from halo_ray.checkpoint import load_model
from halo_ray.config import Config
from halo_ray.data.images import read_image
from halo_ray.errors import InputError
from halo_ray.report import write
from halo_ray.report.frames import frame_maps, sampled
from halo_ray.report.page import render
from halo_ray.report.reported import read_experiment
from halo_ray.report.write import report
from halo_ray.storage import Storage, round_directory
from halo_ray.verification.verify import verify_experiment

Job = Callable[[str], ModuleType]


@pytest.fixture
def copy(experiment: Config, tmp_path: Path) -> Path:
    shutil.copytree(experiment.output_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("lock"))
    return tmp_path / "copy"


def ledger(at: Path) -> list[dict]:
    files = sorted(at.glob("rounds/*/annotations/ledger.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist() if row["round"]]


def edited(path: Path, change: Callable[[dict], object]) -> None:
    """Changes a JSON file and, where it has one, its digest."""
    at, storage = str(path.name), Storage(str(path.parent))
    value = storage.read_sealed(at)
    change(value)
    storage.write_sealed(at, value)


def reported(at: Path) -> Page:
    report([str(at)], None, own_functions=False)
    return Page(at / "report/index.html")


def test_every_run_ends_with_a_page_whose_numbers_are_those_of_its_files(experiment: Config) -> None:
    at = Path(experiment.output_dir)
    check_numbers(Page(at / "report/index.html"), at)


def test_the_page_needs_nothing_else_and_the_files_beside_it_are_its_pictures(experiment: Config) -> None:
    at = Path(experiment.output_dir, "report")
    page = Page(at / "index.html")
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & page.tags
    beside = {path.name: path.read_bytes() for path in at.glob("*.png")}
    assert sorted(page.images) == sorted(beside.values())
    drawn = "quality class-iou bought-classes radius histograms frame-1 frame-2 frame-3 sampled-most sampled-least time"
    assert {*beside} == {f"{name}.png" for name in drawn.split()}
    digests = json.loads((at / "files.json").read_text())["files"]
    for path in at.iterdir():
        if path.name != "files.json":
            assert digests[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_frames_and_charts_are_drawn(experiment: Config) -> None:
    at = Path(experiment.output_dir, "report")
    for name, least in (("frame-1.png", 2000), ("sampled-most.png", 2000), ("quality.png", 40), ("radius.png", 40)):
        pixels = np.asarray(Image.open(at / name).convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > least  # frames and maps, or at least lines and text


def test_the_maps_are_those_by_which_the_round_was_chosen(experiment: Config, dataset: Path) -> None:
    told = read_experiment(Storage(experiment.output_dir))
    rows = [row for row in ledger(Path(experiment.output_dir)) if row["round"] == 2]
    model = load_model(told.storage, "rounds/001/checkpoint")
    for image_id in {row["image_id"] for row in rows}:
        maps = frame_maps(told, model, "halo", image_id, read_image(f"{dataset}/night/images/{image_id}.jpg"), 2)
        keys = stochastic_keys(
            torch.from_numpy(maps["acquisition"]), beta=1.0, seed=experiment.seed * 1000 + 2, image_id=image_id
        )
        for row in rows:
            if row["image_id"] == image_id:
                place = row["region_y"], row["region_x"]
                assert maps["radius"][place] == pytest.approx(row["radius"], rel=1e-4)
                assert maps["entropy"][place] == pytest.approx(row["entropy"], rel=1e-4, abs=1e-5)
                assert float(keys[place]) == pytest.approx(row["score"], rel=1e-5)


def test_the_most_and_the_least_sampled_images_are_those_of_the_ledger(experiment: Config) -> None:
    regions = {(row["image_id"], row["region_y"], row["region_x"]) for row in ledger(Path(experiment.output_dir))}
    counts = Counter(image_id for image_id, *_ in regions)
    order = sorted(map(str, range(6)), key=lambda image_id: (-counts[image_id], image_id))
    pictures, notes = sampled(read_experiment(Storage(experiment.output_dir)))
    assert notes == []
    most, least = (picture.caption.rpartition(": ")[2] for picture in pictures)
    assert most == ", ".join(f"{each} ({counts[each]})" for each in order[:4]) + "."
    assert least == ", ".join(f"{each} ({counts[each]})" for each in order[:3:-1]) + "."


def test_a_run_that_goes_on_is_reported_as_far_as_it_is_recorded(copy: Path) -> None:
    rewrite_records(Storage(str(copy)), lambda rows: rows[:2])
    page = reported(copy)
    check_numbers(page, copy)
    assert page.table("round")["round"] == ["0", "1"]
    rewrite_records(Storage(str(copy)), lambda rows: rows[:1])
    page = reported(copy)
    assert "Nothing was bought" in page.text
    assert not (copy / "report/frame-1.png").exists()  # of the report before
    assert not [finding for finding in verify_experiment(str(copy)).wrong if finding.place.startswith("report/")]


def test_a_report_that_began_before_the_last_record_replaces_no_newer_one(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, before, rows = Storage(str(copy)), tree(copy / "report"), metrics(copy)
    last = f"stages/{round_directory(len(rows) - 1)}/record.json"
    record = storage.read(last)
    rewrite_records(storage, lambda rows: rows[:-1])

    def drawn(*args: Any) -> bytes:
        storage.write(last, record)  # by the run, meanwhile
        return render(*args)

    monkeypatch.setattr(write, "render", drawn)
    with pytest.raises(InputError, match=f"{copy} got a record"):
        report([str(copy)], None, own_functions=False)
    assert tree(copy / "report") == before
    report([str(copy)], None, own_functions=False)
    monkeypatch.undo()
    rewrite_records(storage, lambda rows: rows[:-1])  # one that was taken from a copy
    assert reported(copy).table("round")["round"][-1] == str(len(rows) - 2)


def test_an_experiment_of_an_earlier_version_is_reported_without_what_it_did_not_record(copy: Path) -> None:
    for line in metrics(copy):
        marker = copy / f"stages/rounds/{line['round']:03d}/evaluate.json"
        edited(marker, lambda value: value["result"][0].pop("histograms"))
    unknown = "class_radius", "class_share", "versions"
    rewrite_records(
        Storage(str(copy)),
        lambda rows: [{key: value for key, value in row.items() if key not in unknown} for row in rows],
    )
    page = reported(copy)
    assert "Radii of classes were not recorded" in page.text
    assert "Versions were not recorded" in page.text
    assert not (copy / "report/histograms.png").exists()
    assert (copy / "report/class-iou.png").exists()


def test_where_the_images_are_gone_the_page_says_so(copy: Path, dataset: Path) -> None:
    at = copy / "manifests/pool.parquet"
    table = pq.read_table(at)
    uris = [uri.replace(str(dataset), "/nowhere") for uri in table["image_uri"].to_pylist()]
    storage = Storage(str(copy))
    rewrite_table(storage, "manifests/pool.parquet", table.set_column(1, table.schema.field("image_uri"), [uris]))
    page = reported(copy)
    assert page.text.count("is not shown: ") == 4  # two for each chapter, then no more is tried
    assert "/nowhere/night/images/" in page.text
    assert not (copy / "report/frame-1.png").exists()
    check_numbers(page, copy)
    report([str(copy)], None, own_functions=False, data_root=str(dataset))
    assert (copy / "report/frame-1.png").exists()


def test_where_the_checkpoint_is_damaged_the_page_says_so(copy: Path) -> None:
    weights = copy / "rounds/001/checkpoint/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    page = reported(copy)
    assert "rounds/001/checkpoint" in page.text
    assert not (copy / "report/frame-1.png").exists()
    assert (copy / "report/sampled-most.png").exists()


def test_own_functions_are_imported_only_where_that_is_asked_for(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scores_of_somebody.py").write_text("def twice(maps):\n    return 2 * maps.entropy\n")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite_config(Storage(str(copy)), lambda config: config["acquisition"].update(function="scores_of_somebody.twice"))
    page = reported(copy)
    assert "scores_of_somebody" not in sys.modules
    assert "no acquisition map: scores_of_somebody.twice" in page.text
    three = (copy / "report/frame-1.png").read_bytes()
    report([str(copy)], None, own_functions=True)
    assert "scores_of_somebody" in sys.modules
    four = (copy / "report/frame-1.png").read_bytes()
    assert Image.open(io.BytesIO(four)).size == Image.open(io.BytesIO(three)).size
    assert four != three


def test_names_are_text_whatever_they_hold(copy: Path) -> None:
    odd = "<script>alert(1)</script> $x$ & co"
    storage = Storage(str(copy))
    rewrite_records(storage, lambda rows: json.loads(json.dumps(rows).replace('"road"', json.dumps(odd))))
    reseal(storage, "classes.json", lambda value: value["classes"].__setitem__(value["classes"].index("road"), odd))
    assert storage.read_sealed("classes.json")["classes"][0] == odd
    page = reported(copy)
    assert "script" not in page.tags
    assert f"IoU {odd}" in page.table("round")


def test_credentials_are_not_shown(copy: Path) -> None:
    rewrite_config(Storage(str(copy)), lambda config: config.update(data_root="s3://somebody:hunter2@bucket/data"))
    at = copy / "manifests/pool.parquet"
    table = pq.read_table(at)
    uris = [f"{uri}?secret_key=hunter2" for uri in table["image_uri"].to_pylist()]
    table = table.set_column(1, table.schema.field("image_uri"), [uris])
    rewrite_table(Storage(str(copy)), "manifests/pool.parquet", table)
    text = reported(copy).text
    assert "secret_key=***" in text
    assert "hunter2" not in text


FILES = (
    "config.yaml",
    "classes.json",
    "manifests/pool.parquet",
    "stages/rounds/001/record.json",
    "stages/rounds/001/evaluate.json",
)


@pytest.mark.parametrize("how", ["half", "empty", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(
    name: str, how: str, copy: Path, job: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = (copy / name).read_bytes()
    if how == "gone":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(data[: len(data) // 2] if how == "half" else b"")
    if (name, how) == ("stages/rounds/001/record.json", "gone"):
        assert job("report").main([str(copy), f"--out={tmp_path / 'out'}"]) == 0  # as if it had not got there yet
        return
    assert job("report").main([str(copy), f"--out={tmp_path / 'out'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert name in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_what_is_no_experiment_is_said_and_nothing_is_made(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], experiment: Config
) -> None:
    assert job("report").main([str(tmp_path / "nothing")]) == 2
    assert "holds no experiment: name the output_dir of one" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
    assert job("report").main([experiment.output_dir, experiment.output_dir + "/"]) == 2
    assert "give --out" in capsys.readouterr().err
    (tmp_path / "begun/stages").mkdir(parents=True)
    assert job("report").main([str(tmp_path / "begun")]) == 2
    assert "has not evaluated a model yet" in capsys.readouterr().err


def test_the_job_says_where_the_page_is(
    job: Job, experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job("report").main([experiment.output_dir, f"--out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out == f"Report: {tmp_path / 'out/index.html'}\n"
    check_numbers(Page(tmp_path / "out/index.html"), Path(experiment.output_dir))


def test_a_directory_that_is_not_ours_is_refused(
    job: Job, experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".hidden").touch()
    assert job("report").main([experiment.output_dir, f"--out={out}"]) == 0
    (out / "index.html").unlink()  # as if it had been killed
    assert job("report").main([experiment.output_dir, f"--out={out}"]) == 0
    (out / "files.json").unlink()
    before = tree(out)
    capsys.readouterr()
    assert job("report").main([experiment.output_dir, f"--out={out}"]) == 2
    assert_one_sentence(capsys.readouterr().err.rstrip("\n"), str(out), "name another directory")
    assert tree(out) == before
