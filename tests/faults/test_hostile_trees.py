"""Hostile directory trees under every path option of every job: nothing that was there before is another afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest
from hostile import Seen, hostile_tree, seen, surroundings
from small_experiments import small_config

from halo_ray.annotations.config import AnnotationConfig
from halo_ray.config import Config, config_to_yaml
from halo_ray.errors import AnswersNeededError
from halo_ray.experiment import run_experiment

ROOT = Path(__file__).parents[2]

Job = Callable[[str], ModuleType]

TREES, IN_EVERY_RUN = 50, (12,)
"""How many there are, and those of `make test`: `make faults` has all."""

ENDS = 0, 1, 2
"""Exit codes of a job that did not fall over; 1 is that of verify alone."""


@dataclass(frozen=True)
class Case:
    """A job with a hostile tree in one of its options."""

    job: str
    arguments: tuple[str, ...]
    written: bool = False
    """Whether the option names where the job writes: it may add files to the tree then, and change none."""
    through: str = ""
    """A link that the option names: the job may add files to the directory behind it."""


def cases(tree: Path, config: Path, work: Path, finished: str) -> list[Case]:
    at, base = str(tree), ("--config", str(config))
    images, labels = "images/*.png", "labels/*.png"
    foreign = str(work.parent / "outside" / "images")
    pool = (f"--data.pool.images={images}", f"--data.pool.labels={labels}")
    files, everything = (*base, "--annotation.oracle", "files"), f"{at}/everything"

    runs = count()

    def run(*more: str) -> Case:
        return Case("run_al", (*base, "--output_dir", str(work / f"run-{next(runs)}"), *more))

    return [
        Case("run_al", (*base, "--output_dir", at), written=True),
        Case("run_al", (*files, "--output_dir", at), written=True),
        Case("run_al", (*base, "--output_dir", f"{at}/images"), written=True),
        Case("run_al", (*base, "--output_dir", f"{at}/rounds"), written=True),
        Case("run_al", (*base, "--plan", "--output_dir", at), written=True),
        Case("run_al", (*base, "--execution.shared_stages", at, "--output_dir", str(work / "shares")), written=True),
        run("--data_root", at),
        run("--data.pool.root", at, *pool),
        run("--data.pool.root", at, *pool, "--data.on_bad_record", "skip"),
        run("--data.pool.root", at, "--data.pool.images=*.png", "--data.pool.labels=null", "--data.on_bad_record=skip"),
        run("--data.pool.root", at, "--data.pool.images=*/*/0.png"),
        run("--data.source.root", at, f"--data.source.images={images}", f"--data.source.labels={labels}"),
        run("--data.validation.root", at, f"--data.validation.images={images}", f"--data.validation.labels={labels}"),
        run("--data.pool.list_file", f"{at}/config.yaml"),
        run("--data.class_set", f"{at}/config.yaml"),
        run("--data.class_set", at),
        run("--data.known_labels", f"{at}/*.png"),
        run("--acquisition.never", f"{at}/more.png"),
        run("--model.pretrained", at),
        run("--model.pretrained", f"{at}/model.safetensors"),
        run("--model.backbone", at),
        run("--config", f"{at}/config.yaml"),
        run("--config", at),
        Case("inspect_data", (*base, "--output_dir", at), written=True),
        Case("inspect_data", (*base, "--output_dir", str(work / "seen"), "--json", f"{at}/found.json"), written=True),
        Case("inspect_data", (*base, "--output_dir", str(work / "seen"), "--json", f"{at}/deep/er.json"), written=True),
        Case("inspect_data", (*base, "--output_dir", str(work / "seen"), "--data.pool.root", at, *pool)),
        Case("sweep", (*base, "--output_dir", at, "--acquisition", "random"), written=True),
        Case("sweep", (*base, "--output_dir", str(work / "sweep"), "--study", f"{at}/config.yaml")),
        Case("predict", (at, foreign, str(work / "maps"))),
        Case("predict", (finished, at, str(work / "maps"))),
        Case("predict", (finished, at, at, "--overlay"), written=True),
        Case("predict", (finished, f"{at}/images", at, "--overlay"), written=True),
        Case("predict", (finished, foreign, everything), written=True, through=everything),
        Case("report", (at,), written=True),
        Case("report", (finished, "--out", at), written=True),
        Case("report", (finished, "--out", str(work / "report"), "--data_root", at)),
        Case("verify", (at,)),
        Case("annotate", (at,), written=True),
        Case("benchmark", ("all", "--json", f"{at}/measured.json", "--only=[plan]"), written=True),
        Case("benchmark", ("all", "--json", f"{at}/deep/measured.json", "--only=[plan]"), written=True),
        Case("benchmark", ("plan", "--data_root", at)),
    ]


def smallest(dataset: Path, output_dir: Path) -> Config:
    config = small_config(dataset, output_dir)
    training = replace(config.training, pretrain_steps=1, round_steps=1, control=False)
    return replace(config, acquisition=replace(config.acquisition, rounds=1), training=training)


@pytest.fixture(scope="module")
def asking(cluster: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that waits for people."""
    directory = tmp_path_factory.mktemp("asking") / "run"
    with pytest.raises(AnswersNeededError):
        run_experiment(replace(smallest(dataset, directory), annotation=AnnotationConfig(oracle="files")))
    return directory


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=[] if number in IN_EVERY_RUN else [pytest.mark.faults]) for number in range(TREES)],
)
def test_nothing_that_was_there_changes(
    number: int, cluster: None, experiment: Config, asking: Path, dataset: Path, job: Job, tmp_path: Path
) -> None:
    outside, tree, work = surroundings(tmp_path / "outside"), tmp_path / "tree", tmp_path / "work"
    planted = hostile_tree(tree, outside, number)
    work.mkdir()
    config = work / "base.yaml"
    config.write_text(config_to_yaml(smallest(dataset, work / "run")))
    before_outside, finished = seen(outside), seen(Path(experiment.output_dir))
    wrong = []
    planted_files = seen(tree)
    annotated(asking, tree)
    assert seen(tree) == planted_files
    for case in cases(tree, config, work, experiment.output_dir):
        before = seen(tree)
        end = ended(job(case.job).main, list(case.arguments))
        after, told = seen(tree), f"{case.job} {' '.join(case.arguments)}"
        after_outside = seen(outside)
        # Where a run took the tree for its own, a report of it may be made again.
        if lost := changed(planted_files, after) | changed(before_outside, after_outside):
            wrong.append(f"{told}: changed {sorted(lost)}")
        if not case.written and after != before:
            wrong.append(f"{told}: wrote {sorted(set(after) - set(before))}")
        # predict may be told to write through a link, and adds files to what lies behind it.
        added = {os.fsdecode(path) for path in set(after_outside) - set(before_outside)}
        if added := {path for path in added if not case.through or not is_below(path, case.through)}:
            wrong.append(f"{told}: wrote {sorted(added)}")
        before_outside = after_outside
        if end not in ENDS:
            wrong.append(f"{told}: ended with {end}")
    assert not wrong, (planted, "\n".join(wrong))
    assert seen(Path(experiment.output_dir)) == finished


def changed(before: Seen, after: Seen) -> set[str]:
    return {os.fsdecode(path) for path, what in before.items() if after.get(path) != what}


def is_below(path: str, link: str) -> bool:
    return Path(path).is_relative_to(os.path.realpath(link))


def ended(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """The exit code of a job."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def annotated(asking: Path, tree: Path) -> None:
    """Opens the page for annotators on images that are said to lie in the tree, or is refused."""
    command = [sys.executable, "jobs/annotate.py", str(asking), "--data_root", str(tree)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = iter(process.stdout or ())
        address = next((line.strip() for line in lines if line.startswith("http")), None)
        if address is None:
            assert process.wait() == 2, process.communicate()[1]
            return
        urllib.request.urlopen(address).read()
        process.kill()
