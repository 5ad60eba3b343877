"""The picks of a pool are the same whatever computes them and whoever dies; the budget is spent as far as it goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image
from ray.util.state import list_actors

from halo_ray.acquisition.budget import region_pixels
from halo_ray.annotations.annotate import annotate
from halo_ray.config import Config
from halo_ray.context import open_experiment
from halo_ray.errors import InputError
from halo_ray.execution import ExecutionConfig
from halo_ray.runtime import NAMESPACE
from halo_ray.scoring import score_pool
from halo_ray.selection import select_regions
from halo_ray.shared_stages import stages_of

PRETRAINED = "pretrain/checkpoint"


def pick(config: Config, number: int, checkpoint: str) -> tuple[bytes, bytes, dict]:
    """Selection and ledger of a round as they lie on the disk, and what the stage of selection returns."""
    with open_experiment(config) as context:
        scored = score_pool(context, number, checkpoint)
        chosen = select_regions(context, number, **scored)
        annotate(context, number, chosen["selection"], chosen["candidates"], checkpoint)
    at = Path(config.output_dir, f"rounds/{number:03d}")
    return (at / "selection.json").read_bytes(), (at / "annotations/ledger.parquet").read_bytes(), chosen


def with_pretrained(experiment: Config, config: Config) -> Config:
    """``config``, begun, with the pretrained model of a finished experiment in its directory."""
    with open_experiment(config):
        pass
    shutil.copytree(Path(experiment.output_dir, PRETRAINED), Path(config.output_dir, PRETRAINED))
    return config


def actors(number: int, blocks: int, batches: int) -> ExecutionConfig:
    return ExecutionConfig(
        num_workers=0,
        min_actors=max(number, 1),
        max_actors=number,
        images_per_actor=1,
        cpus_per_actor=0.2,
        block_images=blocks,
        batch_images=batches,
    )


@pytest.mark.parametrize(
    "execution",
    [actors(0, 3, 8), actors(0, 1, 1), actors(1, 3, 8), actors(1, 16, 1), actors(2, 1, 1), actors(4, 1, 8)],
    ids=lambda e: f"{e.max_actors} actors, blocks of {e.block_images}, batches of {e.batch_images}",
)
def test_picks_do_not_depend_on_actors_blocks_or_batches(
    experiment: Config, execution: ExecutionConfig, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(experiment.output_dir, copy)
    config = replace(experiment, output_dir=str(copy), execution=execution)
    selection, ledger, _ = pick(config, 2, "rounds/001/checkpoint")
    at = Path(experiment.output_dir, "rounds/002")
    assert selection == (at / "selection.json").read_bytes()
    assert ledger == (at / "annotations/ledger.parquet").read_bytes()


def kill_when_scored(class_name: str, images: int, killed: list[int]) -> None:
    """Kills the process of an actor of that class with SIGKILL, once so many images have been scored."""
    deadline, pid = time.monotonic() + 120, None
    while time.monotonic() < deadline:
        time.sleep(0.1)
        names = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True)]
        found = [name for name in names if name.startswith("coordinator/")]
        if found and pid is None:  # beforehand, since a list of actors takes seconds on a busy machine
            every = list_actors(address=ray.get_runtime_context().gcs_address)
            alive = [actor for actor in every if class_name in actor.class_name and actor.state == "ALIVE"]
            pid = alive[-1].pid if alive else None
        elif found and ray.get(ray.get_actor(found[-1], NAMESPACE).images.remote()) >= images:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return


@pytest.fixture(scope="module")
def undisturbed(experiment: Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Config]:
    """Configurations of an experiment with a slow function of the user's own, each in a fresh directory."""

    def configure() -> Config:
        acquisition = replace(experiment.acquisition, function="own_scores.slow_halo")
        directory = str(tmp_path_factory.mktemp("slow") / "experiment")
        config = replace(experiment, output_dir=directory, acquisition=acquisition, execution=actors(1, 1, 1))
        return with_pretrained(experiment, config)

    return configure


def test_picks_survive_the_death_of_scorer_and_coordinator(
    experiment: Config, undisturbed: Callable[[], Config]
) -> None:
    expected = pick(undisturbed(), 1, PRETRAINED)[:2]
    halo = json.loads(Path(experiment.output_dir, "rounds/001/selection.json").read_text())
    own = json.loads(expected[0])
    assert own.pop("function") == "own_scores.slow_halo"
    del own["sha256"]
    assert own == {key: value for key, value in halo.items() if key not in ("function", "sha256")}
    for victim in ("Scorer", "Coordinator"):
        killed: list[int] = []
        killer = threading.Thread(target=kill_when_scored, args=(victim, 2, killed))
        killer.start()
        found = pick(undisturbed(), 1, PRETRAINED)[:2]
        killer.join()
        assert killed, f"no {victim} was alive"
        assert found == expected


def test_images_that_kill_every_actor_end_the_run_in_a_sentence(
    experiment: Config, configure: Callable[[], Config]
) -> None:
    config = configure()
    config = replace(
        config,
        acquisition=replace(config.acquisition, function="own_scores.deadly"),
        execution=replace(actors(1, 3, 8), max_failures=1),
    )
    with_pretrained(experiment, config)
    with (
        open_experiment(config) as context,
        pytest.raises(InputError, match=r"^rounds/001/score was interrupted 2 times \(execution\.max_failures 1\)"),
    ):
        stages_of(context).run("rounds/001/score", score_pool, context, 1, PRETRAINED)


def test_a_function_that_is_only_compared_chooses_what_it_would_choose_alone(
    experiment: Config, configure: Callable[[], Config]
) -> None:
    config = configure()
    config = replace(config, acquisition=replace(config.acquisition, function="entropy"))
    alone, _, _ = pick(with_pretrained(experiment, config), 1, PRETRAINED)
    compared = Path(experiment.output_dir, "rounds/001/compared/entropy.json").read_bytes()
    assert compared == alone


def test_a_budget_beyond_what_can_be_picked_is_spent_as_far_as_it_goes(
    experiment: Config, configure: Callable[[], Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((72, 100), np.uint8)
    mask[:, 30:] = 255
    Image.fromarray(mask).save(tmp_path / "never.png")
    config = configure()
    acquisition = replace(
        config.acquisition, budget=0.9, rounds=1, never=str(tmp_path / "never.png"), beta=float("inf"), image_cap=99
    )
    config = with_pretrained(experiment, replace(config, acquisition=acquisition))
    selection, _, chosen = pick(config, 1, PRETRAINED)
    said = capsys.readouterr().out
    planned = int(0.9 * 6 * 72 * 100 / region_pixels(acquisition))
    assert f"acquisition.budget asks for {planned} regions, but the pool has room for {6 * 18 * 25} at most" in said
    assert f"only {chosen['regions']} of {planned} regions could still be picked: all were bought" in said
    table = pq.read_table(f"{config.output_dir}/{chosen['candidates']}")
    assert table.num_rows == chosen["regions"] == sum(json.loads(selection)["counts"].values())
    assert max(table["x"].to_pylist()) < 30
    # Nothing more fits: every allowed pixel lies in the window of a pick.
    for image_id in set(table["image_id"].to_pylist()):
        free = mask == 0
        for row in table.select(["image_id", "y", "x"]).to_pylist():
            if row["image_id"] == image_id:
                free[max(row["y"] - 3, 0) : row["y"] + 4, max(row["x"] - 3, 0) : row["x"] + 4] = False
        assert not free.any()
    assert chosen["audit"]["stored"] == chosen["regions"]
    assert chosen["audit"]["threshold"] is None
    assert chosen["audit"]["pruned_at_most"] == 0


def test_a_sequence_gets_no_more_than_its_cap(experiment: Config, configure: Callable[[], Config]) -> None:
    config = configure()
    acquisition = replace(config.acquisition, sequence="^.", sequence_cap=1.0, image_cap=8)
    selection, _, _ = pick(with_pretrained(experiment, replace(config, acquisition=acquisition)), 1, PRETRAINED)
    found = json.loads(selection)
    fair = -(-found["planned"]["regions"] // 6)
    assert max(found["counts"].values()) == fair
    assert found["regions"] == found["planned"]["regions"]


def test_bytes_of_the_ledger_do_not_depend_on_blocks(
    experiment: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_ray.annotations.ask.GROUP_ROWS", 100)
    at, files = "rounds/001/annotations/ledger.parquet", []
    chosen = json.loads(Path(experiment.output_dir, "stages/rounds/001/select.json").read_text())["result"]
    for blocks in (1, 4):
        copy = tmp_path / str(blocks)
        shutil.copytree(experiment.output_dir, copy)
        config = replace(experiment, output_dir=str(copy), execution=actors(1, blocks, 8))
        with open_experiment(config) as context:
            for committed in (copy / at).parent.iterdir():  # else nothing would be asked again
                committed.unlink()
            annotate(context, 1, chosen["selection"], chosen["candidates"], PRETRAINED)
        files.append((copy / at).read_bytes())
    assert files[0] == files[1]
    table = pq.read_table(tmp_path / "1" / at)
    assert pq.ParquetFile(tmp_path / "1" / at).num_row_groups == -(-table.num_rows // 100) > 1
    assert table.equals(pq.read_table(f"{experiment.output_dir}/{at}"))
