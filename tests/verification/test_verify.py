"""Experiments in which nothing is wrong: finished, stopped anywhere, running, only prepared; and how the job ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest
from damage import ORDER, candidates, flip, undo
from rewritten import rewrite_config
from small_experiments import PIXELS, tree

from halo_ray.annotations.ledger import Ledger
from halo_ray.benchmarks.object_store import ObjectStore
from halo_ray.config import Config
from halo_ray.experiment import prepare_experiment, run_experiment
from halo_ray.lock import Process
from halo_ray.storage import Storage, sealed
from halo_ray.verification.verify import verify_experiment

ROOT = Path(__file__).parents[2]


def test_a_finished_experiment_is_right_and_stays_as_it_is(experiment: Config) -> None:
    before = tree(experiment.output_dir)
    findings = verify_experiment(experiment.output_dir)
    assert (findings.wrong, findings.notes) == ([], [])
    assert tree(experiment.output_dir) == before
    bought = Ledger(Storage(experiment.output_dir)).read(3, first=1)
    regions = {(row["image_id"], row["region_y"], row["region_x"]) for row in bought.to_pylist()}
    # 2 % of the pool in regions of 9 pixels.
    assert findings.checked["regions"] == len(regions) <= PIXELS * 2 // 100 // 9
    assert findings.checked["pixels"] == bought.num_rows
    assert findings.checked["rounds"] == 2


def test_it_may_have_stopped_anywhere(copy: Storage) -> None:
    for stage in reversed(ORDER):
        copy.delete(f"stages/{stage}.json")
        if stage.endswith("annotate"):  # killed before its checksum was there
            copy.delete(Ledger.checksum_file(int(stage.split("/")[1])))
        findings = verify_experiment(copy.uri)
        assert (stage, findings.wrong) == (stage, []), "killed before its marker"
        undo(copy, stage)
        findings = verify_experiment(copy.uri)
        assert (stage, findings.wrong) == (stage, []), "killed before it began"
    assert "no stage is done" in str(findings.notes)


def test_what_killed_runs_left_is_noted(copy: Storage) -> None:
    left = {
        "pretrain/checkpoint-run": ("pretrain/checkpoint-run/00000002/model.json", "left of a stage that is done"),
        "rounds/001/candidates/deadbeef": (
            "rounds/001/candidates/deadbeef/function=halo/a.parquet",
            "an attempt that was killed",
        ),
        ".halo_ray-0123456789abcdef-0123456789ab.tmp": (
            ".halo_ray-0123456789abcdef-0123456789ab.tmp",
            "was being written",
        ),
        "rounds/007": ("rounds/007/selection.json", "no round of a plan of 2"),
    }
    for name, _ in left.values():
        copy.write(name, b"x")
    copy.write(f"{candidates(copy, 1, 'halo')}.more", b"x")
    findings = verify_experiment(copy.uri)
    assert findings.wrong == []
    for place, (_, what) in left.items():
        assert any(each.place == place and what in each.what for each in findings.notes), place
    assert any("no selection reads it" in each.what for each in findings.notes)


def test_a_run_that_is_under_way_is_named(copy: Storage) -> None:
    held = {"run": "a", "unclean": [], "process": asdict(Process.own()), "seconds": 120, "beat": 3, "released": False}
    copy.write("lock/00009999.json", sealed(held))
    for stage in ORDER[-8:]:
        copy.delete(f"stages/{stage}.json")
    findings = verify_experiment(copy.uri)
    assert findings.wrong == []
    assert "works on it" in str(findings.notes)
    held["process"]["started"] -= 1000  # the number was given to another process since
    copy.write("lock/00009999.json", sealed(held))
    assert "has died" in str(verify_experiment(copy.uri).notes)


def test_an_experiment_may_be_prepared_for_others_and_asked_for_more(configure: Callable[[], Config]) -> None:
    config = configure()
    prepare_experiment(config)
    assert verify_experiment(config.output_dir).wrong == []
    run_experiment(config)
    longer = replace(config, acquisition=replace(config.acquisition, budget=0.03, rounds=3))
    run_experiment(longer)
    findings = verify_experiment(config.output_dir)
    assert findings.wrong == []
    assert findings.checked["rounds"] == 3


def test_it_may_lie_in_a_bucket(copy: Storage, s3: ObjectStore) -> None:
    s3.upload(Path(copy.root), "verified")
    findings = verify_experiment(s3.uri("verified"))
    assert (findings.wrong, findings.notes) == ([], [])
    s3.client().delete_object(Bucket=s3.bucket, Key="verified/rounds/001/selection.json")
    (found,) = verify_experiment(s3.uri("verified")).wrong
    assert str(found).startswith("rounds/001/selection.json: is gone")


def test_the_job_says_what_is_wrong(
    copy: Storage, job: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main = job("verify").main
    assert main([copy.uri]) == 0
    assert capsys.readouterr().out.endswith("nothing wrong, 0 notes\n")
    flip(copy, "rounds/001/selection.json")
    flip(copy, "rounds/002/checkpoint/model.safetensors")
    assert main([copy.uri]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(":")[:2] for line in lines[:-1]) == [
        ["wrong", " rounds/001/selection.json"],
        ["wrong", " rounds/002/checkpoint/model.safetensors"],
    ]
    assert lines[-1].endswith("2 wrong, 0 notes")
    assert main([str(tmp_path / "nothing")]) == 2
    assert "holds no experiment" in capsys.readouterr().err


def test_it_starts_no_ray_and_runs_no_code_of_the_experiment(copy: Storage, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('imported')\n")
    rewrite_config(copy, lambda config: config["acquisition"].update(function="own.score"))
    shutil.copy(ROOT / "jobs/verify.py", tmp_path / "job.py")
    check = "import ray, sys, job; code = job.main(sys.argv[1:]); assert not ray.is_initialized(); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", check, copy.uri], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "no candidates of own.score" in done.stdout
