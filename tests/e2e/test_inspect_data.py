"""What the first look at new data says, against counts taken from the files themselves."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from halo_ray.config import Config, config_to_yaml
from halo_ray.data.synthetic import CLASSES

Job = Callable[[str], ModuleType]
FOLDERS = {"source": "day", "pool": "night", "validation": "check"}


@pytest.fixture
def config(dataset: Path, configure: Callable[[], Config], tmp_path: Path) -> Config:
    root = tmp_path / "data"
    shutil.copytree(dataset, root)
    return replace(configure(), data_root=str(root))


def inspect(job: Job, config: Config, tmp_path: Path, *options: str) -> int:
    file = tmp_path / "config.yaml"
    file.write_text(config_to_yaml(config))
    return job("inspect_data").main([f"--config={file}", f"--json={tmp_path}/found.json", *options])


def test_counts_sizes_and_class_shares_are_those_of_the_files(
    cluster: None, job: Job, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(config.data_root)
    image = Image.open(root / "night/images/1.jpg")
    image.convert("L").save(root / "night/images/1.jpg")
    assert inspect(job, config, tmp_path) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    said = capsys.readouterr().out
    assert found["bad_records"] == []
    for split, folder in FOLDERS.items():
        labels = np.stack([np.array(Image.open(file)) for file in sorted((root / folder / "labels").iterdir())])
        mine = found["splits"][split]
        assert mine["images"] == 6
        assert mine["sizes"] == {f"{labels.shape[2]}x{labels.shape[1]}": 6}
        counts = {name: int((labels == place).sum()) for place, name in enumerate(CLASSES)} | {"void": 0}
        assert mine["class_pixels"] == counts
        for name, share in mine["class_shares"].items():
            assert share == pytest.approx(counts[name] / labels.size)
            (line,) = re.findall(rf"^{name} .*$", said, re.M)
            assert f"{100 * share:.2f} " in line
    assert found["splits"]["pool"]["changes"] == {"converted from L to RGB": 1}
    assert "1 converted from L to RGB" in said
    longest = max(re.findall("█+", said), key=len)
    assert len(longest) == 16
    for name in ("class_shares", *FOLDERS):
        picture = np.array(Image.open(f"{config.output_dir}/inspection/{name}.png").convert("RGB"))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50  # something is drawn in it
    assert not Path(config.output_dir, "stages").exists()  # the directory is bound to nothing yet


def test_bad_records_are_all_listed_and_end_with_2_unless_they_are_skipped(
    cluster: None, job: Job, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(config.data_root)
    (root / "night/images/0.jpg").write_bytes(b"")
    (root / "day/labels/5.png").unlink()
    (root / "check/images/3.jpg").write_text("no image")
    assert inspect(job, config, tmp_path) == 2
    out, err = capsys.readouterr()
    listed = json.loads((tmp_path / "found.json").read_text())["bad_records"]
    assert [(r["split"], r["image_id"]) for r in listed] == [("source", "5"), ("pool", "0"), ("validation", "3")]
    for record in listed:
        assert f"  {record['split']} {record['image_id']}: {record['problem']}\n" in out
    assert next(line for line in err.splitlines() if line.startswith("error: ")).count("day/labels/5.png") == 1
    assert inspect(job, config, tmp_path, "--data.on_bad_record=skip") == 0
    assert "5 images of 100x72 (5); 1 bad" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--json"], "--json"),
        (["--json", "--seed=1"], "--json"),
        (["--data.known_labels=x/*.png"], "data.known_labels"),
        (["--json=/proc/x/y.json"], "/proc/x/y.json"),
        (["--jsn=x"], "jsn"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    cluster: None,
    job: Job,
    config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list,
    named: str,
) -> None:
    assert inspect(job, config, tmp_path, *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert named in line


@pytest.mark.parametrize("way", ["image", "label", "known label", "link to a label", "picture"])
def test_no_file_of_the_data_is_written_over(
    cluster: None, job: Job, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    root = Path(config.data_root)
    held = root / {"image": "night/images/2.jpg", "known label": "night/known/2.png"}.get(way, "night/labels/2.png")
    named = held
    shutil.copytree(root / "night/labels", root / "night/known")
    if way == "link to a label":
        named = tmp_path / "found.json"
        named.symlink_to(held)
    elif way == "picture":
        named = Path(config.output_dir, "inspection/pool.png")
        named.parent.mkdir(parents=True)
        named.hardlink_to(held)
    before = held.read_bytes()
    options = [
        f"--json={tmp_path / 'own.json' if way == 'picture' else named}",
        "--data.known_labels=night/known/*.png",
    ]
    assert inspect(job, config, tmp_path, *options) == 2
    assert (named.name if way == "picture" else str(named)) in capsys.readouterr().err
    assert held.read_bytes() == before
    assert named.samefile(held)


def test_the_figures_replace_a_file_whole_and_may_go_to_a_device(
    cluster: None, job: Job, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = json.dumps({"class_set": "earlier", "splits": {}, "bad_records": []})
    (tmp_path / "copy").write_text(earlier)
    (tmp_path / "found.json").hardlink_to(tmp_path / "copy")
    assert inspect(job, config, tmp_path) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found) == {"class_set", "splits", "bad_records"}
    assert found["splits"]
    assert (tmp_path / "copy").read_text() == earlier
    assert inspect(job, config, tmp_path, "--json=/dev/null") == 0
    assert Path("/dev/null").is_char_device()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").write_text("theirs")
    assert inspect(job, config, tmp_path, f"--output_dir={tmp_path}/foreign") == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]
