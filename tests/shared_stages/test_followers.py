"""What a follower takes from a store, and what comes of it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rewritten import begin_stages
from small_experiments import (
    PIXELS,
    PRETRAINED,
    Calls,
    Shared,
    changed,
    computed,
    difference,
    entries,
    leading,
    small,
    tree,
)

import halo_ray.experiment
import halo_ray.inspected
from halo_ray.acquisition.budget import image_limit, plan_budget
from halo_ray.annotations.annotate import annotate
from halo_ray.checkpoint import CHECKPOINT_FILES
from halo_ray.config import Config
from halo_ray.context import Context, open_experiment
from halo_ray.errors import InputError
from halo_ray.experiment import prepare_experiment
from halo_ray.results import read_metrics
from halo_ray.selection import select_regions
from halo_ray.shared_keys import stage_entry
from halo_ray.shared_stages import SharedStore, stages_of
from halo_ray.stages import Stages
from halo_ray.storage import Storage
from halo_ray.training.stage import train

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_follower_computes_only_what_is_its_own(shared: Shared) -> None:
    assert Counter(shared.prepared) == Counter(
        [
            ("inspect_splits", None),
            ("train", PRETRAINED),
            ("evaluate", "round 0"),
            ("score_pool", 1),
            ("train", "rounds/001/control"),
            ("train", "rounds/002/control"),
        ]
    )
    assert Counter(shared.ran) == Counter(
        [
            ("train", "rounds/001/checkpoint"),
            ("evaluate", "round 1"),
            ("score_pool", 2),
            ("train", "rounds/002/checkpoint"),
            ("evaluate", "round 2"),
        ]
    )
    assert shared.entries == Counter(
        ["inspection", "pretrain", "rounds-000-evaluate", "rounds-001-score", "rounds-001-control"]
        + ["rounds-002-control"]
    )


def test_it_ends_as_if_it_had_been_alone(shared: Shared) -> None:
    follower, alone = (Path(config.output_dir) for config in (shared.follower, shared.alone))
    for number in range(1, shared.alone.rounds + 1):
        for file in ("selection.json", "annotations/ledger.parquet"):
            name = f"rounds/{number:03d}/{file}"
            assert (follower / name).read_bytes() == (alone / name).read_bytes()
        assert pq.read_table(alone / name).num_rows
    metrics = [read_metrics(Storage(str(directory))) for directory in (follower, alone)]
    assert len(metrics[0]) == shared.alone.rounds + 1
    assert [dict(row, seconds=0) for row in metrics[0]] == [dict(row, seconds=0) for row in metrics[1]]


def pick(config: Config, pretrained: Config) -> tuple[bytes, bytes, Calls]:
    """Selection and ledger of the first round with the pretrained model of another, and what had to be scored."""

    def copied() -> dict[str, str]:
        shutil.copytree(Path(pretrained.output_dir, PRETRAINED), Path(config.output_dir, PRETRAINED))
        return {"checkpoint": PRETRAINED}

    with computed() as calls, open_experiment(config) as context:
        stages = stages_of(context)
        stages.run("pretrain", copied)
        scored = stages.run("rounds/001/score", halo_ray.experiment.score_pool, context, 1, PRETRAINED)
        chosen = select_regions(context, 1, **scored)
        annotate(context, 1, chosen["selection"], chosen["candidates"], PRETRAINED)
    at = Path(config.output_dir, "rounds/001")
    return (at / "selection.json").read_bytes(), (at / "annotations/ledger.parquet").read_bytes(), calls


@pytest.mark.parametrize("acquisition", [{"scope": "image"}, {"function": "entropy", "image_cap": 1.5, "beta": 2.0}])
def test_other_ways_to_choose_are_served_too(
    shared: Shared, dataset: Path, tmp_path: Path, acquisition: dict[str, object]
) -> None:
    alone = small(dataset, tmp_path / "alone")
    alone = changed(alone, "acquisition", replace(alone.acquisition, **acquisition))
    follower = changed(alone, "execution.shared_stages", str(tmp_path / "store"))
    leader = replace(leading(follower), output_dir=str(tmp_path / "leader"))
    leader = changed(leader, "execution.compare_functions", ("random", "entropy"))
    pick(leader, shared.leader)
    *found, calls = pick(replace(follower, output_dir=str(tmp_path / "own")), shared.leader)
    assert calls == []
    *expected, calls = pick(alone, shared.leader)
    assert ("score_pool", 1) in calls
    assert found == expected


def test_checkpoints_are_copied_byte_by_byte(shared: Shared) -> None:
    for name in (PRETRAINED, "rounds/001/control", "rounds/002/control"):
        theirs = tree(Path(shared.leader.output_dir, name))
        assert "model.safetensors" in theirs
        assert tree(Path(shared.follower.output_dir, name)) == theirs
        (published,) = shared.store.glob(f"{name.removesuffix('/checkpoint').replace('/', '-')}-*/*/{name}")
        assert tree(published) == theirs
        assert tree(Path(shared.alone.output_dir, name))["model.safetensors"] == theirs["model.safetensors"]


def test_candidates_are_those_that_its_own_budget_allows(shared: Shared) -> None:
    (there,) = shared.store.glob("rounds-001-score-*/*/rounds/001/candidates/*/function=random")
    (here,) = Path(shared.follower.output_dir, "rounds/001/candidates").glob("*/*")
    assert here.name == there.name
    theirs, own = (
        [row for path in sorted(at.glob("*.parquet")) for row in pq.read_table(path, partitioning=None).to_pylist()]
        for at in (there, here)
    )
    config = shared.alone.acquisition
    limit = image_limit(config, (72, 100), plan_budget(config, [(72, 100)] * 6)[0], PIXELS)
    assert own == [row for row in theirs if row["rank"] < limit]
    assert own


def test_what_was_done_but_not_published_is_published_at_the_next_start(shared: Shared, tmp_path: Path) -> None:
    shutil.copytree(shared.leader.output_dir, tmp_path / "copy")
    leader = replace(shared.leader, output_dir=str(tmp_path / "copy"))
    with computed() as calls:
        prepare_experiment(changed(leader, "execution.shared_stages", str(tmp_path / "store")))
    assert calls == []
    # An inspection is published by whoever made it, when it begins.
    assert entries(tmp_path / "store") == shared.entries - Counter(["inspection"])
    for there in (path.parent for path in (tmp_path / "store").glob("*/stage.json")):
        here = shared.store / there.name
        again, before = (json.loads((entry / "stage.json").read_text()) for entry in (there, here))
        assert (again["result"], again["plan"]) == (before["result"], before["plan"])
        assert tree(there / again["attempt"]) == tree(here / before["attempt"])


def test_twins_of_an_experiment_that_had_fewer_rounds_are_not_those_of_one_with_more(
    shared: Shared, dataset: Path, tmp_path: Path
) -> None:
    """The schedule of the twins runs over all rounds, those that an experiment was begun with."""
    shutil.copytree(shared.follower.output_dir, tmp_path / "extended")
    three = replace(shared.follower.acquisition, rounds=3, budget=0.03)
    extended = replace(shared.follower, output_dir=str(tmp_path / "extended"), acquisition=three)
    store, name = tmp_path / "store", "rounds/001/control"
    prepare_experiment(changed(extended, "execution.shared_stages", str(store)))
    assert not any(entry.startswith("rounds-") and "control" in entry for entry in entries(store))
    fresh = replace(small(dataset, tmp_path / "fresh"), acquisition=three)
    with open_experiment(fresh) as context:
        context.storage.take(Storage(shared.leader.output_dir), PRETRAINED)
        train(context, name, start=PRETRAINED, number=1, labels="none")
        expected, found = context.storage, SharedStore(Storage(str(store))).find(stage_entry(context, name))
    assert difference(expected, Storage(shared.leader.output_dir), name) > 0
    assert found is None or difference(expected, found.storage, name) == 0


def test_twins_of_an_experiment_that_had_fewer_rounds_go_on_from_its_own(
    shared: Shared, dataset: Path, tmp_path: Path
) -> None:
    shutil.copytree(shared.follower.output_dir, tmp_path / "extended")
    three = replace(shared.follower.acquisition, rounds=3, budget=0.03)
    calls = {}
    for name in ("fresh", "late", "extended"):
        config = small(dataset, tmp_path / name, shared_stages=str(tmp_path / "store"))
        with computed() as calls[name]:
            prepare_experiment(replace(config, acquisition=three))
    assert calls["late"] == []
    assert calls["extended"] == [("train", "rounds/003/control")]
    assert difference(Storage(str(tmp_path / "late")), Storage(str(tmp_path / "fresh")), "rounds/003/control") == 0


def test_an_inspection_that_skipped_records_is_told_to_everyone(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(dataset, root)
    (root / "night/images/3.jpg").write_bytes(b"no image")
    for name in ("one", "two"):
        config = small(root, tmp_path / name, shared_stages=str(tmp_path / "store"))
        with computed() as calls, open_experiment(changed(config, "data.on_bad_record", "skip")) as context:
            assert context.splits.pool["image_id"].to_pylist() == list("01245")
        assert calls == [("inspect_splits", None)]
        assert "data.pool: 3 is skipped" in capsys.readouterr().out
        assert entries(tmp_path / "store") == Counter()
    with pytest.raises(InputError, match=r"night/images/3\.jpg"), open_experiment(config):
        pass


def test_an_inspection_that_was_taken_is_the_same(shared: Shared) -> None:
    leader, follower, alone = (
        tree(Path(config.output_dir, "manifests")) for config in (shared.leader, shared.follower, shared.alone)
    )
    assert leader == follower == alone
    assert len(leader) >= 4


def test_what_was_begun_as_another_result_is_nobodys_else(context: Context, tmp_path: Path) -> None:
    """A stage that is killed on one device and ends on another is neither device's, nor is what goes on from it."""
    store = tmp_path / "store"

    def on(device: str) -> Stages:
        config = changed(context.config, "execution.shared_stages", str(store))
        config = changed(config, "execution.device", device)
        return stages_of(replace(context, config=config, storage=Storage(str(tmp_path / "experiment"))))

    def killed() -> None:
        raise KeyboardInterrupt

    result = {"checkpoint": PRETRAINED}
    storage = begin_stages(Storage(str(tmp_path / "experiment")))
    for file in CHECKPOINT_FILES:
        storage.write(f"{PRETRAINED}/{file}", b"{}")
    with pytest.raises(KeyboardInterrupt):
        on("cuda").run("pretrain", killed)
    assert on("cpu").run("pretrain", lambda: result) == result
    for device in ("cpu", "cuda", "cpu"):
        assert on(device).run("pretrain", killed) == result
        assert on(device).run("rounds/000/evaluate", lambda: []) == []
    assert entries(store) == Counter()
