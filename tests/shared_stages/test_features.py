"""Stored features, which nobody copies."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rewritten import begin_stages
from small_experiments import (
    FEATURES,
    PRETRAINED,
    changed,
    computed,
    difference,
    entries,
    small,
)

from halo_ray.checkpoint import CHECKPOINT_FILES
from halo_ray.config import Config
from halo_ray.context import Context, open_experiment
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.experiment import prepare_experiment
from halo_ray.features import stored_features
from halo_ray.shared_stages import stages_of
from halo_ray.stages import Stages
from halo_ray.storage import Storage
from halo_ray.training.stage import train

pytestmark = pytest.mark.usefixtures("cluster")


def on_features(config: Config, store: Path | None) -> Config:
    """With stored features of a frozen backbone, and no rounds to speak of."""
    still = AugmentationConfig(color_jitter=0)
    training = replace(config.training, cache_features=True, augment=still, pretrain_steps=1, control=False)
    config = replace(config, model=replace(config.model, frozen_backbone=True), training=training)
    return changed(config, "execution.shared_stages", None if store is None else str(store))


def maps(directory: str | Path) -> dict[str, bytes]:
    """The content of all stored features, without their digests, which hold whose they are."""
    root = Path(directory, FEATURES)
    return {str(path.relative_to(root)): path.read_bytes()[:-32] for path in root.rglob("*") if path.is_file()}


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
    expected = maps(alone.output_dir)
    assert len(expected) == 2 * 3 * 6
    second = changed(replace(first, output_dir=str(tmp_path / "second")), "model.curvature", 0.5)
    with computed() as calls:
        prepare_experiment(second, only_features=True)
    assert calls == []
    assert entries(store) == Counter(["inspection", "features"])
    (entry,) = store.glob("features-*")
    assert maps(entry) == expected
    for config in (first, second):
        assert not Path(config.output_dir, FEATURES).exists()
        with open_experiment(config) as context:
            found = stored_features(context)
        assert found is not None
        assert maps(found.experiment) == expected


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
        assert maps(found.experiment) == maps(featured[2].output_dir)


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
    assert maps(found.experiment) == maps(featured[2].output_dir)


def test_a_model_trained_on_features_of_another_result_is_nobodys_else(context: Context, tmp_path: Path) -> None:
    store = tmp_path / "store"
    config = on_features(context.config, store)
    for name, shared in (("same", ["cpu", "cpu"]), ("mixed", ["cuda", "cpu"])):
        storage = begin_stages(Storage(str(tmp_path / name)))
        for file in CHECKPOINT_FILES:
            storage.write(f"{PRETRAINED}/{file}", b"{}")
        for stage, device in zip(("features", "pretrain"), shared, strict=True):
            on = replace(context, config=changed(config, "execution.device", device), storage=storage)
            stages_of(on).run(stage, lambda: {"checkpoint": PRETRAINED, "shared": None})
        assert entries(store) == Counter({"pretrain": 1} if name == "same" else {})
        shutil.rmtree(store, ignore_errors=True)
