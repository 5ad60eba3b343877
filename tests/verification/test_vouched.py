"""What predict and report show, and what a resume takes from the user's own files, is what a marker vouches for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from bad_input import refused
from damage import flip
from PIL import Image

from halo_ray.annotations.ledger import Ledger
from halo_ray.checkpoint import scoring_checkpoint
from halo_ray.config import Config
from halo_ray.context import open_experiment
from halo_ray.data.synthetic import CLASSES
from halo_ray.models.build import build_model
from halo_ray.predict_images import find_checkpoint
from halo_ray.report.frames import examples
from halo_ray.report.reported import read_experiment
from halo_ray.results import best_checkpoint
from halo_ray.stages import Stages
from halo_ray.storage import Storage


@pytest.mark.parametrize("state", [True, False])
def test_a_checkpoint_of_another_round_predicts_nothing(copy: Storage, state: bool) -> None:
    """Each is whole: only the marker tells which one it is; without training.json nothing beside it does."""
    best = best_checkpoint(copy)
    assert find_checkpoint(copy.uri)[1] == best
    other = next(name for number in (1, 2, 3) if (name := scoring_checkpoint(number)) != best)
    shutil.rmtree(copy.path(best))
    shutil.copytree(copy.path(other), copy.path(best))
    if not state:
        copy.delete(f"{best}/training.json")
    refused(lambda: find_checkpoint(copy.uri), best, "restore it from a copy")


def test_a_report_draws_no_maps_of_another_rounds_model(copy: Storage) -> None:
    told, chose = read_experiment(copy), scoring_checkpoint(2)
    assert [picture.name for picture in examples(told, own_functions=False)[0]] == ["frame-1", "frame-2", "frame-3"]
    shutil.rmtree(copy.path(chose))
    shutil.copytree(copy.path(scoring_checkpoint(1)), copy.path(chose))
    pictures, notes = examples(told, own_functions=False)
    assert pictures == []
    assert f"{chose}/" in notes[-1]


def test_a_report_counts_no_labels_that_were_changed_with_their_checksum(copy: Storage) -> None:
    name = Ledger.file(1)
    table = copy.read_table(name)
    labels = pa.array(np.zeros(table.num_rows), table["label"].type)
    copy.write_table(name, table.set_column(table.schema.get_field_index("label"), "label", labels))
    copy.write_checksum(name, copy.read(name))
    refused(lambda: read_experiment(copy), name, "restore it from a copy")


def test_training_begins_with_no_damaged_checkpoint(copy: Storage) -> None:
    model = read_experiment(copy).stored.config.model
    config = replace(model, pretrained=copy.path(scoring_checkpoint(1)))
    assert build_model(config, len(CLASSES))
    flip(copy, f"{scoring_checkpoint(1)}/model.safetensors")
    refused(lambda: build_model(config, len(CLASSES)), "pretrain/checkpoint/model.safetensors", "is damaged")


def committed(config: Config, stage: str, result: object) -> None:
    """Begins an experiment, as far as to that stage."""
    with open_experiment(config) as context:
        Stages(context.storage).commit(stage, Stages(context.storage).experiment, result, [], 0)


def reopen(config: Config) -> None:
    with open_experiment(config):
        pass


def test_the_mask_must_stay_what_it_was(configure: Callable[[], Config], tmp_path: Path) -> None:
    pixels = np.zeros((72, 100), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "never.png")
    config = configure()
    config = replace(config, acquisition=replace(config.acquisition, never=str(tmp_path / "never.png")))
    committed(config, "pretrain", {"checkpoint": "pretrain/checkpoint", "bad_steps": []})
    reopen(config)
    pixels[:36] = 255
    Image.fromarray(pixels).save(tmp_path / "never.png")
    refused(lambda: reopen(config), "acquisition.never", "restore it from a copy")


def test_the_weights_must_stay_what_they_were_until_the_network_is_pretrained(
    experiment: Config, configure: Callable[[], Config], tmp_path: Path
) -> None:
    weights, config = tmp_path / "weights", configure()
    shutil.copytree(Path(experiment.output_dir) / scoring_checkpoint(1), weights)
    config = replace(
        config,
        model=replace(config.model, pretrained=str(weights), frozen_backbone=True),
        training=replace(
            config.training, cache_features=True, augment=replace(config.training.augment, color_jitter=0)
        ),
    )
    committed(config, "features", {"shared": "elsewhere", "key": ""})
    reopen(config)
    shutil.rmtree(weights)
    shutil.copytree(Path(experiment.output_dir) / scoring_checkpoint(2), weights)
    refused(lambda: reopen(config), "model.pretrained", "restore it from a copy")
    Stages(Storage(config.output_dir)).commit("pretrain", Stages(Storage(config.output_dir)).experiment, {}, [], 0)
    reopen(config)
