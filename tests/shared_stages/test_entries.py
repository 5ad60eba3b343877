"""What names a result: all that it depends on, and nothing else."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_experiments import (
    changed,
)

from halo_ray.annotations.ledger import LEDGER, Ledger
from halo_ray.context import Context
from halo_ray.data.manifest import list_splits
from halo_ray.shared_keys import inspection_entry, stage_entry
from halo_ray.shared_stages import shared_kind
from halo_ray.storage import Storage

pytestmark = pytest.mark.usefixtures("cluster")


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


def test_what_the_files_hold_counts(context: Context, tmp_path: Path) -> None:
    """Of weights, of a mask where nothing is picked, of labels that were known before: not their names alone."""

    def differing(one: Context, other: Context) -> set[str]:
        return {name for name in STAGES if stage_entry(other, name) != stage_entry(one, name)}

    weights, models = tmp_path / "weights", []
    for text in ("one", "one", "two"):  # of the same size, written later
        weights.mkdir(exist_ok=True)
        (weights / "model.safetensors").write_text(text)
        os.utime(weights / "model.safetensors", ns=(len(models), len(models)))
        model = replace(context.model, pretrained=str(weights))
        with_weights = replace(context, config=replace(context.config, model=model), model=model)
        models.append({name: stage_entry(with_weights, name) for name in STAGES})
    assert models[0] == models[1]
    assert all(models[0][name] != models[2][name] for name in STAGES)

    masks = [np.zeros((72, 100), np.bool_), np.zeros((72, 100), np.bool_), np.eye(72, 100, dtype=np.bool_)]
    never = [replace(context, never=mask) for mask in masks]
    assert differing(never[0], never[1]) == set()
    assert differing(never[0], never[2]) == SCORE

    config = changed(context.config, "data.known_labels", "known/*.png")
    known = []
    for label in (1, 2):
        storage, buffer = Storage(str(tmp_path / str(label))), io.BytesIO()
        pq.write_table(pa.Table.from_pylist([{"round": 0, "label": label}], schema=LEDGER), buffer)
        Ledger(storage).commit(0, buffer.getvalue())
        known.append(replace(context, config=config, storage=storage))
    assert differing(*known) == MODEL


def test_devices_compute_other_last_digits(context: Context) -> None:
    names = [
        {stage_entry(replace(context, config=changed(context.config, "execution.device", device)), name)
         for name in STAGES} for device in ("cpu", "cuda")
    ]  # fmt: skip
    assert not names[0] & names[1]


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
