"""Whole experiments on data as people have it: bad records, labels made before, no source, other sizes, a bucket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from halo_ray.annotations.ledger import Ledger
from halo_ray.config import Config, config_to_yaml
from halo_ray.data.classes import IGNORE
from halo_ray.data.sampling import SourceSampling
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.experiment import run_experiment
from halo_ray.storage import Storage

ROOT = Path(__file__).parents[2]
Configure = Callable[[], Config]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def quick(config: Config, root: Path, name: str, **changes: object) -> Config:
    """One round without the twin, in a directory of its own."""
    config = replace(config, data_root=str(root), output_dir=f"{config.output_dir}-{name}")
    return replace(
        config,
        acquisition=replace(config.acquisition, rounds=1),
        training=replace(config.training, control=False),
        **changes,
    )


@pytest.fixture
def root(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "data"))


def ledger_of(config: Config) -> Ledger:
    return Ledger(Storage(config.output_dir))


def test_skipped_records_are_listed_and_change_nothing_else(cluster: None, root: Path, configure: Configure) -> None:
    """With bad files the same is bought, byte for byte, as where these records do not exist."""
    bad = {"pool": "night", "source": "day", "validation": "check"}
    cut(root / "night/images/2.jpg")
    (root / "day/images/4.jpg").write_bytes(b"")
    Image.new("L", (7, 7)).save(root / "check/labels/0.png")
    config = quick(configure(), root, "bad")
    with pytest.raises(InputError, match=r"day/images/4\.jpg.*data\.on_bad_record to skip \(2 more"):
        run_experiment(config)
    config = replace(config, data=replace(config.data, on_bad_record="skip"))
    metrics = run_experiment(config)
    listed = json.loads(Storage(config.output_dir).read("manifests/bad_records.json"))
    assert {(record["split"], record["image_id"]) for record in listed} == {
        ("pool", "2"), ("source", "4"), ("validation", "0"),
    }  # fmt: skip
    for record in listed:
        assert f"{bad[record['split']]}/" in record["problem"]
    for folder, name in (("night", "2"), ("day", "4"), ("check", "0")):
        (root / folder / f"images/{name}.jpg").unlink()
    without = quick(configure(), root, "without")
    assert [row | {"seconds": 0} for row in run_experiment(without)] == [row | {"seconds": 0} for row in metrics]
    files = [Storage(each.output_dir).read(Ledger.file(1)) for each in (config, without)]
    assert files[0] == files[1]
    # The same command again finds the same images, bad ones gone or not.
    assert run_experiment(config) == metrics


def test_a_split_of_bad_records_alone_is_an_error_in_either_mode(
    cluster: None, root: Path, configure: Configure
) -> None:
    config = quick(configure(), root, "x")
    for split, folder in (("validation", "check"), ("source", "day")):
        for file in (root / folder / "images").iterdir():
            cut(file)
        for mode in ("skip", "fail"):
            with pytest.raises(InputError, match=rf"data\.{split} has no usable record.*{folder}/images/0\.jpg"):
                run_experiment(replace(config, data=replace(config.data, on_bad_record=mode)))


def test_labels_that_are_void_all_over_are_an_error(cluster: None, root: Path, configure: Configure) -> None:
    for file in (root / "day/labels").iterdir():
        Image.new("L", (96, 64), IGNORE).save(file)
    with pytest.raises(InputError, match=r"data\.source: every pixel of every label is void.*data\.class_set"):
        run_experiment(quick(configure(), root, "void"))


@pytest.mark.parametrize("mode", ["skip", "fail"])
def test_an_image_that_goes_bad_later_is_recorded_or_ends_the_run(
    cluster: None, root: Path, configure: Configure, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick(configure(), root, mode)
    config = replace(config, data=replace(config.data, on_bad_record=mode))
    from halo_ray import experiment

    def spoil(*args: object) -> dict:
        cut(root / "night/images/3.jpg")
        return score_pool(*args)

    score_pool = experiment.score_pool
    monkeypatch.setattr(experiment, "score_pool", spoil)
    if mode == "fail":
        with pytest.raises(Exception, match=r"night/images/3\.jpg"):
            run_experiment(config)
        return
    run_experiment(config)
    selection = Storage(config.output_dir).read_json("rounds/001/selection.json")
    assert [(each["image_id"], each["scored"]) for each in selection["problems"]] == [("3", False)]
    assert "night/images/3.jpg" in selection["problems"][0]["problem"]
    assert "3" not in ledger_of(config).read(2, ["image_id"])["image_id"].to_pylist()


def known(root: Path) -> dict[str, np.ndarray]:
    """Labels that somebody made before, of parts of two images; the rest is void."""
    (root / "night/made before").mkdir()
    labels = {}
    for name, rows in (("1", slice(0, 20)), ("4", slice(40, 43))):
        label = np.array(Image.open(root / f"night/labels/{name}.png"))
        label[[row for row in range(len(label)) if row not in range(*rows.indices(999))]] = IGNORE
        Image.fromarray(label).save(root / f"night/made before/{name}.png")
        labels[name] = label
    return labels


def test_labels_made_before_are_round_0_and_never_bought_again(cluster: None, root: Path, configure: Configure) -> None:
    labels = known(root)
    config = quick(configure(), root, "known")
    config = replace(config, data=replace(config.data, known_labels="night/made before/*.png"))
    metrics = run_experiment(config)
    ledger, size = ledger_of(config), (72, 100)
    for name, label in labels.items():
        np.testing.assert_array_equal(ledger.dense_label(1, name, size), label)
    shutil.rmtree(root / "night/made before")  # what was imported is in the ledger
    assert run_experiment(config) == metrics
    shutil.rmtree(f"{config.output_dir}/stages")
    with pytest.raises(InputError, match=r"stages/begin\.json is gone"):
        run_experiment(config)
    rows = ledger.read(2)
    assert set(rows["round"].to_pylist()) == {0, 1}
    places = list(zip(*(rows[key].to_pylist() for key in ("image_id", "y", "x")), strict=True))
    assert len(places) == len(set(places))
    bought = ledger.read(2, first=1)
    assert metrics[1]["pixels"] == bought.num_rows > 0
    for row in bought.select(["image_id", "region_y", "region_x"]).to_pylist():
        if row["image_id"] in labels:  # no region is centred within the exclusion radius of a known pixel
            y, x, e = row["region_y"], row["region_x"], config.acquisition.exclusion_radius
            near = labels[row["image_id"]][max(y - e, 0) : y + e + 1, max(x - e, 0) : x + e + 1]
            assert (near == IGNORE).all()


@pytest.mark.parametrize("with_known", [False, True])
def test_a_cold_start_without_any_source(cluster: None, root: Path, configure: Configure, with_known: bool) -> None:
    config = quick(configure(), root, "cold")
    source = replace(config.data.source, reader="none")
    known(root)
    config = replace(
        config,
        data=replace(config.data, source=source, known_labels="night/made before/*.png" if with_known else None),
    )
    metrics = run_experiment(config)
    assert metrics[1]["pixels"] > 0
    storage = Storage(config.output_dir)
    weights = [storage.read(f"{at}/checkpoint/model.safetensors") for at in ("pretrain", "rounds/001")]
    assert weights[0] != weights[1]
    with pytest.raises(InputError, match=r"training\.control.*data\.source\.reader is none"):
        replace(config, training=replace(config.training, control=True))


@pytest.mark.parametrize(("method", "workers"), [("class_balanced", 0), ("rare_class", 2)])
def test_sizes_of_their_own_windows_and_sampling_by_class(
    cluster: None, root: Path, configure: Configure, workers: int, method: str
) -> None:
    config = quick(configure(), root, f"{method}-{workers}")
    sampling = SourceSampling(method=method, min_pixels=20)
    augment = AugmentationConfig(random_scale=(0.5, 2.0), saturation_jitter=0.3, hue_jitter=0.1)
    config = replace(
        config,
        data=replace(config.data, source_height=72, source_width=80),
        training=replace(config.training, source_sampling=sampling, augment=augment),
        execution=replace(config.execution, num_workers=workers, cpus_per_worker=0.25),
    )
    assert run_experiment(config)[1]["pixels"] > 0
    classes = pq.read_table(f"{config.output_dir}/manifests/source_classes.parquet")
    for number, counts in enumerate(classes["class_pixels"].to_pylist()):
        label = np.asarray(Image.open(root / f"day/labels/{number}.png"))
        assert counts == np.bincount(label.ravel(), minlength=len(counts))[: len(counts)].tolist()


def run(job: str, config: Path, *options: str) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, f"jobs/{job}.py", f"--config={config}", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)


def test_an_experiment_in_a_bucket_is_killed_and_resumed_on_another_cluster(
    dataset: Path, configure: Configure, tmp_path: Path, s3
) -> None:
    """Images, class set and experiment all lie in the bucket; a local run of the same data buys the same pixels."""
    s3.upload(dataset, "my data/köln")
    at = "runs/dusk ö"
    config = replace(configure(), output_dir=s3.uri(at), data_root=s3.uri("my data/köln"))
    config = replace(config, data=replace(config.data, class_set=s3.uri("my data/köln/classes.yaml")))
    config = replace(config, training=replace(config.training, control=False, round_steps=20))
    file = tmp_path / "config.yaml"
    file.write_text(config_to_yaml(config))
    first = run("run_al", file)
    try:
        for _ in range(1200):  # until the first round's labels are bought and it trains on them
            if any("stages/rounds/001/annotate" in key for key in s3.keys(at)):
                break
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.1)
        bought = s3.client().get_object(Bucket=s3.bucket, Key=f"{at}/{Ledger.file(1)}")["Body"].read()
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    second = run("run_al", file)
    said = second.communicate(timeout=600)[0]
    assert second.returncode == 0, said
    assert s3.client().get_object(Bucket=s3.bucket, Key=f"{at}/{Ledger.file(1)}")["Body"].read() == bought
    assert {f"{at}/metrics.jsonl", f"{at}/report/index.html", f"{at}/{Ledger.file(2)}"} <= set(s3.keys(at))
