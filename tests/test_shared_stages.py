"""What experiments take from each other is what they would have computed alone; nothing else is ever taken."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import halo_ray.experiment
import halo_ray.inspected
from halo_ray.acquisition.bound import histogram
from halo_ray.acquisition.budget import AcquisitionConfig, RoundPlan, image_limit, plan_budget
from halo_ray.annotations.annotate import annotate
from halo_ray.checkpoint import load_model
from halo_ray.config import Config
from halo_ray.context import Context, open_experiment
from halo_ray.coordinator import Coordinator, Report
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import DataConfig, list_splits
from halo_ray.data.readers import SplitConfig
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.execution import ExecutionConfig
from halo_ray.experiment import prepare_experiment, run_experiment
from halo_ray.features import stored_features
from halo_ray.models.build import ModelConfig
from halo_ray.results import read_metrics
from halo_ray.selection import select_regions
from halo_ray.shared_scores import Above, covers
from halo_ray.shared_stages import SharedStore, inspection_entry, shared_kind, stage_entry, stages_of
from halo_ray.storage import Stages, Storage
from halo_ray.training.config import TrainingConfig
from halo_ray.training.stage import train

pytestmark = pytest.mark.usefixtures("cluster")

FEATURES = "features"
"""Directory of an experiment or an entry that holds them."""

PIXELS = 6 * 72 * 100
"""Of the pool."""

PRETRAINED = "pretrain/checkpoint"

Calls = list[tuple[str, object]]


def small(root: Path, output_dir: Path, **execution: object) -> Config:
    """An experiment of two rounds with a twin, as small as they come."""

    def split(name: str) -> SplitConfig:
        return SplitConfig(reader="folder", images=f"{name}/images/*.jpg", labels=f"{name}/labels/*.png")

    return Config(
        output_dir=str(output_dir),
        data_root=str(root),
        data=DataConfig(
            source=split("day"),
            pool=split("night"),
            validation=split("check"),
            class_set=str(root / "classes.yaml"),
            height=64,
            width=96,
        ),
        model=ModelConfig(embedding=8, decoder_width=16),
        acquisition=AcquisitionConfig(function="random", budget=0.02, rounds=2, exclusion_radius=3),
        training=TrainingConfig(
            pretrain_steps=2, round_steps=2, source_batch=2, target_batch=2, warmup_steps=1, schedule="cosine"
        ),
        execution=ExecutionConfig(num_workers=0, max_actors=1, **execution),  # type: ignore[arg-type]
    )


def changed(config: Config, key: str, value: object) -> Config:
    """``config`` with another value of a dotted key."""
    section, _, rest = key.partition(".")
    return replace(config, **{section: changed(getattr(config, section), rest, value) if rest else value})


def tree(directory: str | Path) -> dict[str, str]:
    """The digests of all files below a directory."""
    root, files = Path(directory), (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def entries(store: str | Path) -> Counter[str]:
    """How many results there are of each stage."""
    return Counter(path.parent.name.rpartition("-")[0] for path in Path(store).glob("*/stage.json"))


def difference(one: Storage, other: Storage, name: str) -> float:
    """The largest between the weights of a checkpoint in two places."""
    first, second = (load_model(storage, name).state_dict() for storage in (one, other))
    return max(float((first[key].double() - second[key].double()).abs().max()) for key in first)


@contextmanager
def computed() -> Iterator[Calls]:
    """What is computed meanwhile: names of the stages' functions, and what each call says that it is for."""
    calls: Calls = []

    def counted(name: str, work: Callable[..., Any], *args: Any, **how: Any) -> Any:
        calls.append((name, args[1] if name in ("train", "score_pool", "evaluate") else None))
        return work(*args, **how)

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (halo_ray.experiment, "train"),
            (halo_ray.experiment, "score_pool"),
            (halo_ray.experiment, "evaluate"),
            (halo_ray.experiment, "compute_features"),
            (halo_ray.inspected, "inspect_splits"),
        ):
            patch.setattr(module, name, partial(counted, name, getattr(module, name)))
        yield calls


@dataclass(frozen=True)
class Shared:
    """A leader with twice the budget, which was only prepared, and a follower and a loner, which are the same."""

    store: Path
    leader: Config
    follower: Config
    alone: Config
    prepared: Calls
    """What the leader computed."""
    ran: Calls
    """What the follower computed."""
    entries: Counter[str]
    """Of the store when both had ended."""


def leading(config: Config) -> Config:
    """The same for twice the budget and another function."""
    config = changed(config, "acquisition", replace(config.acquisition, function="halo", budget=0.04))
    return changed(config, "execution.compare_functions", ("random",))


@pytest.fixture(scope="module")
def shared(cluster: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    root = tmp_path_factory.mktemp("shared")
    leader, follower = (small(dataset, root / name, shared_stages=str(root / "store")) for name in ("leader", "own"))
    leader, alone = leading(leader), small(dataset, root / "alone")
    with computed() as prepared:
        prepare_experiment(leader)
    with computed() as ran:
        run_experiment(follower)
    found = entries(root / "store")
    run_experiment(alone)
    return Shared(root / "store", leader, follower, alone, prepared, ran, found)


@pytest.fixture(scope="module")
def context(cluster: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """An opened experiment that has done nothing yet."""
    with open_experiment(small(dataset, tmp_path_factory.mktemp("opened") / "experiment")) as context:
        yield context


# What a follower takes, and what comes of it.


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
    shutil.copytree(Path(pretrained.output_dir, PRETRAINED), Path(config.output_dir, PRETRAINED))
    with computed() as calls, open_experiment(config) as context:
        scored = stages_of(context).run("rounds/001/score", halo_ray.experiment.score_pool, context, 1, PRETRAINED)
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
        [row for path in sorted(at.iterdir()) for row in pq.read_table(path, partitioning=None).to_pylist()]
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
    fresh = replace(small(dataset, tmp_path / "fresh"), acquisition=three)
    with open_experiment(fresh) as context:
        context.storage.take(Storage(shared.leader.output_dir), PRETRAINED)
        train(context, name, start=PRETRAINED, number=1, labels="none")
        expected, found = context.storage, SharedStore(Storage(str(store))).find(stage_entry(context, name))
    assert difference(expected, Storage(shared.leader.output_dir), name) > 0
    assert found is None or difference(expected, found.storage, name) == 0


# What names a result.

STAGES = ("features", "pretrain", "rounds/000/evaluate", "rounds/001/score", "rounds/001/control")
MODEL = {"pretrain", "rounds/000/evaluate", "rounds/001/score", "rounds/001/control"}
SCORE, CONTROL, EVALUATE = {"rounds/001/score"}, {"rounds/001/control"}, {"rounds/000/evaluate"}

DEPENDS: list[tuple[str, object, set[str]]] = [
    ("seed", 1, {*STAGES}),  # of which a backbone without weights is made too
    ("model.curvature", 0.5, MODEL),
    ("model.geometry", "euclidean", MODEL),
    ("model.embedding", 16, MODEL),
    ("model.decoder_width", 32, MODEL),
    ("model.hfr", "official", MODEL),
    ("model.backbone", "mobilenet-v2", {*STAGES}),
    ("model.pretrained", "weights.pth", {*STAGES}),
    ("model.frozen_backbone", True, {*STAGES}),
    ("model.frozen_batch_norm", True, {*STAGES}),
    ("model.output_stride", 16, {*STAGES}),
    ("model.pixel_mean", (0.5, 0.5, 0.5), {*STAGES}),
    ("data.height", 96, {*STAGES}),
    ("data.source_width", 128, {*STAGES}),
    ("data.known_labels", "known/*.png", {*STAGES}),
    ("training.pretrain_steps", 3, MODEL),
    ("training.learning_rate", 0.1, MODEL),
    ("training.source_batch", 4, MODEL),
    ("training.augment.color_jitter", 0.1, MODEL),
    ("training.losses.negative", 0.5, MODEL),
    ("training.source_sampling.method", "rare_class", MODEL),
    ("training.round_steps", 3, CONTROL),
    ("training.round_learning_rate", 0.1, CONTROL),
    ("training.between_rounds", "restart", CONTROL),
    ("evaluation.flip", False, EVALUATE),
    ("acquisition.function", "halo", set()),
    ("acquisition.budget", 0.5, set()),
    ("acquisition.rounds", 3, CONTROL),
    ("acquisition.beta", 2.0, SCORE),
    ("acquisition.scope", "image", SCORE),
    ("acquisition.budget_unit", "regions", set()),
    ("acquisition.region_radius", 2, SCORE),
    ("acquisition.exclusion_radius", 4, SCORE),
    ("acquisition.image_cap", 2.0, SCORE),
    ("acquisition.sequence", "^(.)", SCORE),
    ("acquisition.sequence_cap", 3.0, SCORE),
    ("acquisition.never", "mask.png", SCORE),
    ("acquisition.uncertainty", "pixel", SCORE),
    ("execution.max_actors", 3, set()),
    ("execution.num_workers", 2, set()),
    ("execution.compare_functions", ("entropy",), set()),
    ("data.on_bad_record", "skip", set()),
    ("data.pool.root", "elsewhere", set()),
    ("output_dir", "elsewhere", set()),
    ("data_root", "elsewhere", {*STAGES}),
]


@pytest.mark.parametrize(("key", "value", "depend"), DEPENDS, ids=[key for key, *_ in DEPENDS])
def test_a_result_has_another_name_where_it_is_another(
    context: Context, key: str, value: object, depend: set[str]
) -> None:
    config = context.config
    if key == "acquisition.budget_unit":
        config = changed(config, "acquisition", replace(config.acquisition, budget=1.0, rounds=1))
    other = replace(context, config=changed(config, key, value))
    context = replace(context, config=config)
    assert {name for name in STAGES if stage_entry(other, name) != stage_entry(context, name)} == depend


def test_stages_that_none_can_share_have_no_kind(context: Context) -> None:
    own = ("rounds/001/train", "rounds/001/select", "rounds/001/annotate", "rounds/002/score", "rounds/001/evaluate")
    assert {shared_kind(context, name) for name in (*own, "report-2", "rounds/000/record")} == {None}
    assert [shared_kind(context, name) for name in STAGES] == ["features", "pretrain", "evaluate", "score", "control"]
    assert shared_kind(context, "rounds/012/control") == "control"
    maps = replace(context, config=changed(context.config, "execution.save_maps", "picked"))
    assert shared_kind(maps, "rounds/001/score") is None  # which nobody keeps for others


def test_every_stage_has_a_name_of_its_own(context: Context) -> None:
    names = [*STAGES, "rounds/002/control", "rounds/012/control"]
    assert len({stage_entry(context, name).rpartition("-")[2] for name in names}) == len(names)
    assert stage_entry(context, "rounds/002/control").startswith("rounds-002-control-")


def test_the_seed_is_nothing_to_the_features_of_given_weights(context: Context) -> None:
    for key, value in (("model.pretrained", "weights.pth"), ("model.backbone", "some/folder")):
        config = changed(context.config, key, value)
        names = [stage_entry(replace(context, config=changed(config, "seed", seed)), "features") for seed in (0, 1)]
        assert names[0] == names[1]


def test_other_images_and_classes_give_other_names(context: Context) -> None:
    fewer = [replace(context, splits=replace(context.splits, **{split: getattr(context.splits, split)[:5]}))
             for split in ("source", "pool", "validation")]  # fmt: skip
    renamed = ("way", *context.classes.classes[1:])
    all_of = [context, *fewer, replace(context, classes=replace(context.classes, classes=renamed))]
    for name in STAGES:
        assert len({stage_entry(each, name) for each in all_of}) == len(all_of)


def test_images_of_the_same_names_elsewhere_may_be_others(context: Context) -> None:
    def with_uris(uris: list[str]) -> Context:
        pool = context.splits.pool
        table = pool.set_column(pool.column_names.index("image_uri"), "image_uri", pa.array(uris, pa.string()))
        return replace(context, splits=replace(context.splits, pool=table))

    names = {stage_entry(with_uris([f"{place}/{i}" for i in range(6)]), "pretrain") for place in ("/a", "/b")}
    rooted = replace(context, config=replace(context.config, data_root="/elsewhere"))
    assert len(names | {stage_entry(context, "pretrain"), stage_entry(rooted, "pretrain")}) == 4


@pytest.mark.parametrize(
    ("key", "value", "differs"),
    [
        ("data.pool.images", "day/images/*.jpg", True),
        ("data.height", 96, True),
        ("training.source_sampling.method", "rare_class", True),
        ("seed", 1, False),
        ("model.curvature", 2.0, False),
        ("training.pretrain_steps", 9, False),
        ("acquisition.scope", "image", False),
    ],
)
def test_an_inspection_is_of_the_data_alone(context: Context, key: str, value: object, differs: bool) -> None:
    config = context.config
    listed = list_splits(config.data, config.data_root, config.seed)
    other = changed(config, key, value)
    names = [inspection_entry(each, listed, context.classes) for each in (config, other)]
    assert (names[0] != names[1]) == differs


# Which scores serve a smaller budget.


def result(*functions: str, problems: int = 0, images: int = 6) -> dict[str, Any]:
    found = [{"image_id": str(number), "problem": "", "scored": False} for number in range(problems)]
    audit = {name: {"images": images, "bound": None} for name in functions}
    return {"candidates": {name: f"candidates/{name}" for name in functions}, "audit": audit, "problems": found}


NOWHERE = Storage("/nowhere")
"""Where the candidates lie that need not be counted."""


def of_budget(context: Context, budget: float, **acquisition: object) -> Context:
    config = changed(context.config, "acquisition", replace(context.config.acquisition, budget=budget, **acquisition))
    return replace(context, config=config, plan=plan_budget(config.acquisition, [(72, 100)] * 6))


@pytest.mark.parametrize("scope", ["pool", "image"])
def test_scores_serve_every_smaller_budget_and_no_larger_one(context: Context, scope: str) -> None:
    budgets = (0.005, 0.01, 0.02, 0.04)
    opened = {budget: of_budget(context, budget, scope=scope) for budget in budgets}
    for theirs in budgets:
        plan = asdict(opened[theirs].plan[0])
        served = [budget for budget in budgets if covers(opened[budget], NOWHERE, result("random"), plan)]
        assert served == [budget for budget in budgets if budget <= theirs]


def test_more_rounds_leave_less_for_the_first(context: Context) -> None:
    one, two = (of_budget(context, 0.02, rounds=rounds) for rounds in (1, 2))
    assert covers(two, NOWHERE, result("random"), asdict(one.plan[0]))
    assert not covers(one, NOWHERE, result("random"), asdict(two.plan[0]))


def test_scores_serve_whoever_finds_all_its_functions_there_and_no_problem(context: Context) -> None:
    plan = asdict(context.plan[0])
    assert covers(context, NOWHERE, result("halo", "random"), plan)
    assert not covers(context, NOWHERE, result("halo"), plan)
    both = replace(context, config=changed(context.config, "execution.compare_functions", ("entropy",)))
    assert not covers(both, NOWHERE, result("halo", "random"), plan)
    assert covers(both, NOWHERE, result("entropy", "random"), plan)
    assert not covers(context, NOWHERE, result("random", problems=1), plan)
    assert not covers(context, NOWHERE, result("random"), None)


def best(scores: list[np.ndarray], regions: int, limits: list[int]) -> list[tuple[float, int]]:
    """The regions of the highest scores, of each image no more than its limit; one by one."""
    falling = sorted(((float(score), -row) for row, own in enumerate(scores) for score in own), reverse=True)
    left, chosen = list(limits), []
    for score, row in falling:
        if left[-row] and len(chosen) < regions:
            left[-row] -= 1
            chosen.append((score, -row))
    return chosen


def found_with(scores: list[np.ndarray], regions: int, limits: list[int]) -> tuple[list[np.ndarray], float]:
    """What a pass leaves of each image: its best, less those under what the coordinator had said before it came.

    And what it said last.
    """
    coordinator, kept = Coordinator(len(scores), regions, functions=("random",)), []
    for row, own in enumerate(scores):
        falling = -np.sort(-own)[: limits[row]]
        left = falling[falling >= coordinator.bounds()["random"]]
        kept.append(left)
        coordinator.add({row: {"random": Report(histogram(left), 0)}})
    return kept, coordinator.bounds()["random"]


def as_table(scores: list[np.ndarray]) -> pa.Table:
    """Candidates of images, the best first."""
    return pa.table(
        {
            "row": np.repeat(np.arange(len(scores)), [len(own) for own in scores]),
            "rank": np.concatenate([np.arange(len(own)) for own in scores]),
            "score": np.concatenate(scores).astype(np.float32),
        }
    )


def pool_of(images: int) -> pa.Table:
    columns = {"image_id": [f"{row:03d}" for row in range(images)], "height": [40] * images, "width": [50] * images}
    return pa.table([columns.get(name, [None] * images) for name in MANIFEST.names], schema=MANIFEST)


@pytest.mark.parametrize("share_of_good", [1.0, 0.1], ids=["good regions everywhere", "in few images"])
def test_what_is_found_for_a_larger_budget_holds_the_choice_of_a_smaller_one(
    context: Context, share_of_good: float
) -> None:
    """Brute force over budgets and images: wherever scores are said to serve, the same regions are chosen."""
    random, served = np.random.default_rng(0), 0
    for images in (3, 10, 25):
        context = replace(context, splits=replace(context.splits, pool=pool_of(images)))
        pixels = images * 40 * 50
        for _ in range(100):
            cap = float(random.choice([1.0, 2.0, 8.0]))
            few, more = sorted(random.integers(1, 2 * images, 2).tolist())
            config = replace(context.config.acquisition, image_cap=cap)
            plans = [RoundPlan(regions, "1") for regions in (few, more)]
            own = replace(context, config=changed(context.config, "acquisition", config), plan=plans[:1])
            limits = [[image_limit(config, (40, 50), plan, pixels)] * images for plan in plans]
            good = np.arange(images) < max(1, share_of_good * images)
            scores = [random.random(30).astype(np.float32) + 1 * is_good for is_good in good]
            left, bound = found_with(scores, more, limits[1])
            above = Above(np.array(limits[0]), None)
            serves = above.total([above.count(as_table(left), bound)]) >= few or bound == -np.inf
            if not serves or not covers(own, NOWHERE, result("random", images=images), asdict(plans[1])):
                continue
            served += 1
            assert best(left, few, limits[0]) == best(scores, few, limits[0]), (images, cap, few, more)
    assert served > 100


# The store.


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path))
    return Storage(request.getfixturevalue("s3").uri(f"shared/{tmp_path.name}"))


def made(storage: Storage, name: str) -> Storage:
    """An experiment with a checkpoint that says whose it is."""
    own = storage.below(name)
    for file in ("checkpoint/a", "checkpoint/deep/b"):
        own.write(file, f"{name} {file}".encode() * 1000)
    return own


def whole(store: SharedStore, entry: str, names: tuple[str, ...]) -> str:
    """Whose result is published, all of it being that one's."""
    found = store.find(entry)
    assert found is not None
    name = found.result["of"]
    assert name in names
    for file in ("checkpoint/a", "checkpoint/deep/b"):
        assert found.storage.read(file) == f"{name} {file}".encode() * 1000
    return str(name)


def test_there_is_nothing_before_it_is_published(storage: Storage) -> None:
    assert SharedStore(storage.below("store")).find("entry") is None


def test_what_is_published_first_stays(storage: Storage) -> None:
    store = SharedStore(storage.below("store"))
    for name in ("one", "two"):
        store.publish("entry", made(storage, name), ["checkpoint"], {"of": name}, {"regions": 1, "share": "1"})
    assert whole(store, "entry", ("one",)) == "one"
    assert len(storage.directories("store/entry")) == 1
    found = store.find("entry")
    assert found is not None
    assert found.plan == {"regions": 1, "share": "1"}


def test_of_two_at_the_same_time_one_stays_and_nothing_of_the_other(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, together = Storage.take, threading.Barrier(2, timeout=60)

    def take_together(self: Storage, other: Storage, name: str) -> None:
        take(self, other, name)
        together.wait()  # both have copied before either says so

    monkeypatch.setattr(Storage, "take", take_together)
    names, failed = ("one", "two"), []
    sources = [made(storage, name) for name in names]

    def publish(source: Storage, name: str) -> None:
        try:
            SharedStore(storage.below("store")).publish("entry", source, ["checkpoint"], {"of": name})
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=publish, args=each) for each in zip(sources, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert not together.broken
    whole(SharedStore(storage.below("store")), "entry", names)
    assert len(storage.directories("store/entry")) == 1


def test_a_copy_that_was_killed_is_no_result(storage: Storage) -> None:
    store, source = SharedStore(storage.below("store")), made(storage, "one")
    storage.below("store/entry/killed").take(source, "checkpoint/deep")
    assert store.find("entry") is None
    store.publish("entry", source, ["checkpoint"], {"of": "one"})
    assert whole(store, "entry", ("one",)) == "one"


# Features, which nobody copies.


def on_features(config: Config, store: Path | None) -> Config:
    """With stored features of a frozen backbone, and no rounds to speak of."""
    still = AugmentationConfig(color_jitter=0)
    training = replace(config.training, cache_features=True, augment=still, pretrain_steps=1, control=False)
    config = replace(config, model=replace(config.model, frozen_backbone=True), training=training)
    return changed(config, "execution.shared_stages", None if store is None else str(store))


def pretrain(config: Config) -> Storage:
    with open_experiment(config) as context:
        Stages(context.storage).run("pretrain", train, context, PRETRAINED, start=None)
        return context.storage


@pytest.fixture(scope="module")
def featured(cluster: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, Config]:
    """A store, an experiment whose features lie there, and the same experiment without a store."""
    root = tmp_path_factory.mktemp("features")
    shared, alone = (
        on_features(small(dataset, root / name), store) for name, store in (("shared", root / "store"), ("alone", None))
    )
    for config in (shared, alone):
        prepare_experiment(config, only_features=True)
    return root / "store", shared, alone


def test_two_experiments_read_the_same_feature_files(featured: tuple[Path, Config, Config], tmp_path: Path) -> None:
    store, first, alone = featured
    expected = tree(Path(alone.output_dir, FEATURES))
    assert len(expected) == 2 * 3 * 6
    second = changed(replace(first, output_dir=str(tmp_path / "second")), "model.curvature", 0.5)
    with computed() as calls:
        prepare_experiment(second, only_features=True)
    assert calls == []
    assert entries(store) == Counter(["inspection", "features"])
    (entry,) = store.glob("features-*")
    assert tree(entry / FEATURES) == expected
    for config in (first, second):
        assert not Path(config.output_dir, FEATURES).exists()
        with open_experiment(config) as context:
            found = stored_features(context)
        assert found is not None
        assert tree(Path(found.experiment, FEATURES)) == expected


def test_training_on_shared_features_gives_the_weights_of_own_ones(
    featured: tuple[Path, Config, Config], tmp_path: Path
) -> None:
    copies = []
    for config, name in zip(featured[1:], ("shared", "alone"), strict=True):
        shutil.copytree(config.output_dir, tmp_path / name)
        copies.append(pretrain(replace(config, output_dir=str(tmp_path / name))))
    assert difference(*copies, PRETRAINED) == 0


def test_whoever_forgets_the_store_is_reminded_of_it(featured: tuple[Path, Config, Config], tmp_path: Path) -> None:
    shutil.copytree(featured[1].output_dir, tmp_path / "copy")
    forgotten = changed(replace(featured[1], output_dir=str(tmp_path / "copy")), "execution.shared_stages", None)
    with pytest.raises(InputError, match=r"execution\.shared_stages") as caught:
        prepare_experiment(forgotten)
    (entry,) = featured[0].glob("features-*")
    assert entry.name in str(caught.value)


def test_own_features_of_an_experiment_that_comes_to_share_mislead_no_other(
    featured: tuple[Path, Config, Config], tmp_path: Path
) -> None:
    """They lie in its directory, where no other looks."""
    store, alone = tmp_path / "store", featured[2]
    shutil.copytree(alone.output_dir, tmp_path / "alone")
    alone, other = (on_features(replace(alone, output_dir=str(tmp_path / name)), store) for name in ("alone", "other"))
    for config in (alone, other):
        prepare_experiment(config, only_features=True)
    for config in (alone, other):
        with open_experiment(config) as context:
            found = stored_features(context)
        assert found is not None
        assert tree(Path(found.experiment, FEATURES)) == tree(Path(featured[2].output_dir, FEATURES))


def test_features_of_another_store_mislead_no_other(featured: tuple[Path, Config, Config], tmp_path: Path) -> None:
    """An experiment whose features lie in one store cannot offer them in the next."""
    shutil.copytree(featured[1].output_dir, tmp_path / "moved")
    moved, other = (
        on_features(replace(featured[1], output_dir=str(tmp_path / name)), tmp_path / "store")
        for name in ("moved", "other")
    )
    with suppress(InputError):  # it may say so
        prepare_experiment(moved, only_features=True)
    prepare_experiment(other, only_features=True)
    with open_experiment(other) as context:
        found = stored_features(context)
    assert found is not None
    assert tree(Path(found.experiment, FEATURES)) == tree(Path(featured[2].output_dir, FEATURES))


# Inspections.


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
