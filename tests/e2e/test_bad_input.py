"""What a user can get wrong: one sentence that names it, exit code 2, no traceback, and nothing left in the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from halo_ray.config import Config, config_to_yaml
from halo_ray.context import open_experiment

ROOT = Path(__file__).parents[2]
Job = Callable[[str], ModuleType]


def change(path: Path, value: int | None = None, shape: tuple[int, int] | None = None) -> None:
    """Replaces one class id somewhere in a label, or its size."""
    label = np.array(Image.open(path))
    if value is not None:
        label[3, 4] = value
    if shape is not None:
        label = np.zeros(shape, np.uint8)
    Image.fromarray(label).save(path)


def empty(root: Path) -> None:
    for image in (root / "night/images").iterdir():
        image.unlink()


def truncate(path: Path, share: float) -> None:
    """Keeps the first part of a file: a twentieth does not hold the whole header, four fifths most of the image."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def list_missing(root: Path) -> None:
    (root / "list.txt").write_text("0\n1\n77\n")


# What breaks the data, options of the job, and words that the sentence must hold.
MISTAKES: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {
    "no images": (empty, [], ["data.pool", "no images"]),
    "no directory": (shutil.rmtree, [], ["data.source", "data_root"]),
    "list names a missing file": (list_missing, ["--data.pool.list_file=list.txt"], ["list.txt", "'77'"]),
    "label missing": (
        lambda root: (root / "day/labels/2.png").unlink(), [], ["day/labels/2.png", "data.on_bad_record"]
    ),
    "label of another size": (
        lambda root: change(root / "night/labels/3.png", shape=(10, 10)), [], ["night/labels/3.png", "10x10", "100x72"]
    ),
    "class id outside the set": (
        lambda root: change(root / "check/labels/5.png", value=77), [], ["check/labels/5.png", "77", "streets"]
    ),
    "image without a whole header": (
        lambda root: truncate(root / "night/images/1.jpg", 0.05), [], ["night/images/1.jpg"]
    ),
    "training image cut off": (lambda root: truncate(root / "day/images/1.jpg", 0.8), [], ["day/images/1.jpg"]),
    "more processes than CPUs": (
        lambda root: None,
        ["--execution.num_workers=2", "--execution.cpus_per_worker=1"],
        ["execution.num_workers", "execution.cpus_per_worker", "CPUs"],
    ),
    "budget of nothing": (lambda root: None, ["--acquisition.budget=0"], ["acquisition.budget"]),
    "budget above all": (lambda root: None, ["--acquisition.budget=1.5"], ["acquisition.budget"]),
    "no such module for scores": (
        lambda root: None, ["--acquisition.function=no_such_module.score"], ["acquisition.function", "no_such_module"]
    ),
    "no such function to compare": (
        lambda root: None, ["--execution.compare_functions=[entropie]"], ["execution.compare_functions", "'entropy'"]
    ),
    "image of no sequence": (
        lambda root: None, ["--acquisition.sequence=^([a-z]+)"], ["acquisition.sequence", "image id '0'"]
    ),
    "mask of another size": (
        lambda root: Image.new("L", (7, 5)).save(root / "mask.png"),
        ["--acquisition.never=mask.png"],
        ["acquisition.never", "7x5", "100x72"],
    ),
    "mask that is not there": (lambda root: None, ["--acquisition.never=mask.png"], ["mask.png"]),
    "less than a region a round": (lambda root: None, ["--acquisition.budget=1e-5"], ["acquisition.budget", "rounds"]),
    "output not writable": (lambda root: None, ["--output_dir=/proc/halo"], ["output_dir", "/proc/halo"]),
    "output below a file": (lambda root: None, ["--output_dir=/etc/hostname/run"], ["output_dir", "/etc/hostname/run"]),
    "unknown class set": (lambda root: None, ["--data.class_set=camvid"], ["data.class_set", "camvid11"]),
    "no backbone": (lambda root: None, ["--model.backbone=./nowhere"], ["model.backbone", "./nowhere"]),
    "misspelt backbone": (lambda root: None, ["--model.backbone=resnet50"], ["model.backbone", "'resnet-50'"]),
    "no pretrained weights": (
        lambda root: None, ["--model.pretrained=weights.pth"], ["model.pretrained", "weights.pth"]
    ),
    "flat curvature": (lambda root: None, ["--model.curvature=0"], ["model.curvature", "0"]),
    "curvature that is no number": (lambda root: None, ["--model.curvature=.nan"], ["model.curvature", "nan"]),
    "embedding on a line": (lambda root: None, ["--model.embedding=1"], ["model.embedding is 1", "2.."]),
    "image smaller than the output stride": (
        lambda root: None, ["--data.height=16"], ["data.height is 16", "32.."]
    ),
    "backbone without a dilated form": (
        lambda root: None, ["--model.backbone=mit-b0", "--model.output_stride=8"], ["model.output_stride", "segformer"]
    ),
    "unknown reader": (lambda root: None, ["--data.pool.reader=foldr"], ["data.pool.reader", "'folder'"]),
    "batch that workers cannot share": (
        lambda root: None,
        ["--execution.num_workers=5", "--execution.cpus_per_worker=0.1"],
        ["training.source_batch", "5 training workers", "2 images of a step"],
    ),
    "gpu that is not there": (lambda root: None, ["--execution.device=cuda"], ["execution.device", "GPU"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(
    cluster: None,
    mistake: str,
    dataset: Path,
    configure: Callable[[], Config],
    job: Job,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    breaks, options, words = MISTAKES[mistake]
    root = tmp_path / "data"
    shutil.copytree(dataset, root)
    config = configure()
    file = tmp_path / "config.yaml"
    text = config_to_yaml(replace(config, data_root=str(root)))
    file.write_text(text)
    breaks(root)
    code = job("run_al").main([f"--config={file}", *options])
    said = capsys.readouterr().err
    assert code == 2
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1
    assert not [line for line in said.splitlines() if line.startswith(("Failed to", "To change"))]  # of Ray Data
    assert "Traceback" not in said
    for word in words:
        assert word in sentences[0]
    # The corrected rerun begins as if nothing had been.
    with open_experiment(config) as context:
        assert context.splits.pool.num_rows == 6


def run(output_dir: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The job as a process of its own."""
    command = [sys.executable, "jobs/run_al.py", "--preset=tiny", f"--output_dir={output_dir}", *options]
    everything = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=200, check=False)


def test_ray_that_cannot_be_reached(tmp_path: Path) -> None:
    ended = run(tmp_path, RAY_ADDRESS="127.0.0.1:1")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "error: no Ray cluster at 127.0.0.1:1" in ended.stderr
    assert "execution.ray_address" in ended.stderr


def test_a_failure_in_the_middle_of_training_ends_the_process_in_order(tmp_path: Path) -> None:
    """Threads of an abandoned data stream must not outlive Ray, which would end the process with its own exit code."""
    ended = run(tmp_path, "--training.optimizer=sgd", "--training.learning_rate=1e30", "--training.pretrain_steps=400")
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "error: the training loss became" in ended.stderr
    assert "training.learning_rate" in ended.stderr
