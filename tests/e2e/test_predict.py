"""Class maps of images through jobs/predict.py, against the same computed plainly."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from halo_ray.benchmarks.object_store import ObjectStore
from halo_ray.checkpoint import load_model
from halo_ray.config import Config
from halo_ray.data.classes import class_set
from halo_ray.predict_images import find_images
from halo_ray.storage import Storage

ROOT = Path(__file__).parents[2]

Job = Callable[[str], ModuleType]

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def images(dataset: Path, tmp_path: Path) -> Path:
    """Images of two sizes and formats, one in a folder below."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    shutil.copy(dataset / "day/images/0.jpg", folder / "day.jpg")
    shutil.copy(dataset / "night/images/0.jpg", folder / "below/a night.JPG")
    Image.open(dataset / "night/images/1.jpg").crop((0, 0, 71, 53)).save(folder / "small.png")
    (folder / "notes.txt").write_text("no image")
    return folder


NAMES = {"day": "day.jpg", "below/a night": "below/a night.JPG", "small": "small.png"}


def plainly(experiment: Config, checkpoint: str, image: Path, flip: bool = True) -> np.ndarray:
    model = load_model(Storage(experiment.output_dir), checkpoint)
    seen = Image.open(image)
    shown = torch.from_numpy(np.array(seen.resize((96, 64), Image.Resampling.BILINEAR)))[None]
    with torch.inference_mode():
        p = [
            F.interpolate(model(each).logits, (seen.height, seen.width), mode="bilinear", align_corners=True).softmax(1)
            for each in (shown, shown.flip(2))
        ]
    return (p[0] + p[1].flip(3) if flip else p[0]).argmax(1)[0].numpy()


def predict(job: Job, *arguments: object) -> int:
    return job("predict").main(list(map(str, arguments)))


def test_class_maps_are_those_of_the_best_model(experiment: Config, images: Path, job: Job, tmp_path: Path) -> None:
    assert predict(job, experiment.output_dir, images, tmp_path / "out", "--overlay") == 0
    best = json.loads(Path(experiment.output_dir, "checkpoints.json").read_text())["best"]
    rows = [json.loads(line) for line in Path(experiment.output_dir, "metrics.jsonl").read_text().splitlines()]
    assert best["miou"] == max(row["miou"] for row in rows)
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert written == {f"{name}{end}" for name in NAMES for end in (".png", ".overlay.png")}
    for name, file in NAMES.items():
        found, seen = Image.open(tmp_path / "out" / f"{name}.png"), Image.open(images / file)
        assert found.mode == "P"
        expected = plainly(experiment, best["checkpoint"], images / file)
        # Averaged in tiles here: where two classes are equally likely, rounding may decide.
        assert (np.asarray(found) == expected).mean() > 0.999
        colors = class_set(experiment.data.class_set).palette()[np.asarray(found)]
        np.testing.assert_array_equal(np.asarray(found.convert("RGB")), colors)
        overlay = np.asarray(Image.open(tmp_path / "out" / f"{name}.overlay.png")).astype(int)
        half = (np.asarray(seen.convert("RGB")).astype(float) + colors) / 2
        assert np.abs(overlay - half).max() <= 1


def test_a_checkpoint_a_single_image_and_no_mirror_image(
    experiment: Config, images: Path, job: Job, tmp_path: Path
) -> None:
    checkpoint = Path(experiment.output_dir, "pretrain/checkpoint")
    assert predict(job, checkpoint, images / "small.png", tmp_path / "out", "--no-flip") == 0
    (written,) = (tmp_path / "out").iterdir()
    expected = plainly(experiment, "pretrain/checkpoint", images / "small.png", flip=False)
    assert (np.asarray(Image.open(written)) == expected).mean() > 0.999


def test_from_bucket_to_bucket(experiment: Config, images: Path, job: Job, s3: ObjectStore, tmp_path: Path) -> None:
    s3.upload(images, "predict/images")
    s3.upload(Path(experiment.output_dir, "pretrain/checkpoint"), "predict/model")
    where = [s3.uri(f"predict/{name}") for name in ("model", "images", "out")]
    # In a process of its own: the cluster of these tests may have begun without the credentials.
    done = subprocess.run(
        [sys.executable, "jobs/predict.py", *where], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert predict(job, Path(experiment.output_dir, "pretrain/checkpoint"), images, tmp_path / "out") == 0
    there = Storage(where[2])
    for name in NAMES:
        assert there.read(f"{name}.png") == (tmp_path / "out" / f"{name}.png").read_bytes()
    assert find_images(s3.uri("predict/images/small.png"))["image_id"].to_pylist() == ["small"]


@pytest.mark.parametrize(("mode", "code"), [("skip", 0), ("fail", 2)])
def test_an_unreadable_image_is_named_and_the_others_are_written(
    experiment: Config, images: Path, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, code: int
) -> None:
    data = (images / "day.jpg").read_bytes()
    (images / "day.jpg").write_bytes(data[: len(data) // 2])
    assert predict(job, experiment.output_dir, images, tmp_path / "out", f"--on-bad-record={mode}") == code
    assert "day.jpg cannot be read" in capsys.readouterr().out
    assert {path.stem for path in (tmp_path / "out").rglob("*.png")} == {"small", "a night"}


def test_what_is_wrong_is_one_sentence(
    experiment: Config, images: Path, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, empty, out = Path(experiment.output_dir, "pretrain/checkpoint"), tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    broken = tmp_path / "broken"
    shutil.copytree(good, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    alike = tmp_path / "alike"
    alike.mkdir()
    for suffix in ("jpg", "png"):
        Image.new("RGB", (40, 40)).save(alike / f"one.{suffix}")
    file = tmp_path / "file"
    file.write_text("")
    for arguments, message in (
        ((empty, images, out), r"empty is no checkpoint \(no model\.json\)"),
        ((broken, images, out), r"broken.*(cannot be loaded|is damaged)"),
        ((good, empty, out), r"no image lies below .*empty"),
        ((good, tmp_path / "nowhere", out), r"no directory .*nowhere"),
        ((good, alike, out), r"one\.jpg and .*one\.png .* same image id 'one'"),
        ((good, images, images / "out"), r"out lies within .*images"),
        ((good, images, images), r"images lies within .*images"),
        ((good, images / "day.jpg", images), r"images lies within .*images"),
        ((good, images, file), r"file cannot be written to"),
        ((good, images, out, "--size", 0, 96), r"--size is \[0, 96\]"),
        ((good, images, out, "--size", 8, 8), r"smaller than the backbone's output stride"),
    ):
        assert predict(job, *arguments) == 2, message
        said = capsys.readouterr().err.splitlines()
        errors = [line for line in said if line.startswith("error: ")]
        assert len(errors) == 1, said
        assert re.search(message, errors[0]), errors
    assert not out.exists() or not list(out.rglob("*.png"))


def contents(folder: Path) -> dict[str, bytes | str]:
    """What every name below a folder holds, or where it leads."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_whatever_lies_among_the_images_and_the_results_the_others_are_written_and_nothing_else_changes(
    experiment: Config, images: Path, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, far = tmp_path / "out", tmp_path / "far"
    far.mkdir()
    (out / "taken.png").mkdir(parents=True)
    (out / "behind").symlink_to(far)
    names = ["taken", "mine", "behind/link", "x" * 251, "y" * 230, "small.overlay"]
    for name in names:
        (images / name).parent.mkdir(exist_ok=True)
        shutil.copy(images / "small.png", images / f"{name}.png")
    shutil.copy(images / "small.png", out / "mine.png")
    os.mkfifo(images / "pipe.png")
    (images / "dangling.jpg").symlink_to("nowhere")
    (images / "again").symlink_to(".")
    (images / "other name.png").hardlink_to(images / "small.png")
    (images / "directory.png").mkdir()
    before, there = [contents(images), contents(far)], contents(out)
    assert predict(job, experiment.output_dir, images, out, "--overlay") == 0
    assert [contents(images), contents(far)] == before
    written = contents(out)
    assert there.items() <= written.items()
    kept = {"small": "other name"}  # the first in the alphabet
    good = {f"{kept.get(name, name)}{end}" for name in (*NAMES, "y" * 230) for end in (".png", ".overlay.png")}
    good |= {"small.overlay.png", "small.overlay.overlay.png"}  # small itself has another name
    assert set(written) == {*there, *good}
    said = capsys.readouterr().out
    bad = ["taken", "mine", "behind/link", "x" * 251, "pipe", "directory"]
    for name in ("dangling.jpg", *(f"{each}.png" for each in bad)):
        assert f"image {images}/{name} is " in said, name
    assert f"{images}/small.png" in said
    assert predict(job, experiment.output_dir, images, out, "--overlay", "--on-bad-record=fail") == 2
    assert contents(out) == written
    assert "7 images" in capsys.readouterr().err


def test_images_are_never_written_over(
    experiment: Config, images: Path, job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, before = Path(experiment.output_dir, "pretrain/checkpoint"), contents(images)
    (tmp_path / "alias").symlink_to(images)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/small.png").hardlink_to(images / "small.png")
    for out in (tmp_path / "alias", tmp_path / "alias/below/deeper", tmp_path / "out"):
        assert predict(job, checkpoint, images, out) == 2
        assert str(out) in capsys.readouterr().err
        assert contents(images) == before
    assert contents(tmp_path / "out") == {"small.png": before["small.png"]}


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # whatever imports it fails
import numpy as np, torch
from PIL import Image
from halo_ray.checkpoint import load_model
from halo_ray.prediction import predict, with_mirror_image
from halo_ray.storage import Storage

folder, image, out = sys.argv[1:]
model, seen = load_model(Storage(folder), ""), Image.open(image)
torch.set_num_threads(1)
shown = torch.from_numpy(np.array(seen.resize((96, 64), Image.Resampling.BILINEAR)))[None]
np.save(out, predict(model, with_mirror_image(shown, flip=True), (seen.height, seen.width)))
"""


def test_a_checkpoint_loads_where_there_is_no_ray(experiment: Config, images: Path, job: Job, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    exported.mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(Path(experiment.output_dir, "rounds/002/checkpoint", name), exported)
    command = [sys.executable, "-c", WITHOUT_RAY, str(exported), str(images / "small.png"), str(tmp_path / "own.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert predict(job, exported, images / "small.png", tmp_path / "out") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "own.npy"), np.asarray(Image.open(tmp_path / "out/small.png")))
