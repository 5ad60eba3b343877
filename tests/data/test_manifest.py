"""The three splits together: what identifies them, what they must not share, and that they survive storage."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS, DataConfig, Splits, list_splits, load_splits, save_splits, sizes
from halo_ray.data.readers import SplitConfig
from halo_ray.errors import InputError
from halo_ray.storage import Storage


def folders(root: Path) -> DataConfig:
    """Two labelled images in each of three folders."""
    for split in SPLITS:
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
            for name in ("a", "b"):
                (root / split / kind / f"{name}.png").touch()
    return DataConfig(
        **{s: SplitConfig(reader="folder", images=f"{s}/images/*", labels=f"{s}/labels/*") for s in SPLITS}
    )


def table(*rows: tuple[str, int, int]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"image_id": name, "image_uri": f"/{name}", "label_uri": f"/{name}", "height": h, "width": w}
            for name, h, w in rows
        ],
        schema=MANIFEST,
    )


BASE = Splits(table(("s", 4, 6)), table(("p", 3, 5), ("q", 2, 7)), table(("v", 1, 9)))


def test_each_split_comes_from_its_own_folder(tmp_path: Path) -> None:
    splits = list_splits(folders(tmp_path), str(tmp_path), 0)
    for split in SPLITS:
        uris = [str(tmp_path / f"{split}/images/{name}.png") for name in "ab"]
        assert getattr(splits, split)["image_uri"].to_pylist() == uris


def test_pool_pixels_counts_the_pool_alone() -> None:
    assert sizes(BASE.pool) == [(3, 5), (2, 7)]
    assert BASE.pool_pixels == 3 * 5 + 2 * 7


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_without_labels_is_named(tmp_path: Path, split: str) -> None:
    config = folders(tmp_path)
    config = replace(config, **{split: replace(getattr(config, split), labels=None)})
    with pytest.raises(InputError, match=rf"data\.{split}\.labels"):
        list_splits(config, str(tmp_path), 0)


def test_an_image_in_both_pool_and_validation_is_named(tmp_path: Path) -> None:
    config = folders(tmp_path)
    (tmp_path / "one.txt").write_text("b\n")
    config = replace(config, validation=replace(config.pool, list_file="one.txt"))
    with pytest.raises(InputError, match=r"pool/images/b\.png"):
        list_splits(config, str(tmp_path), 0)


def test_synthetic_pool_and_validation_must_not_overlap() -> None:
    config = DataConfig(
        pool=SplitConfig(split="target", scenes=8), validation=SplitConfig(split="target", scenes=2, first=7)
    )
    with pytest.raises(InputError, match=r"synthetic://target/3/7\?"):
        list_splits(config, "", 3)
    list_splits(replace(config, validation=replace(config.validation, first=8)), "", 3)


def test_source_may_be_the_pool(tmp_path: Path) -> None:
    config = folders(tmp_path)
    splits = list_splits(replace(config, source=config.pool), str(tmp_path), 0)
    assert splits.source == splits.pool


def test_an_error_of_a_reader_names_the_split(tmp_path: Path) -> None:
    config = folders(tmp_path)
    with pytest.raises(InputError, match=r"data\.validation"):
        list_splits(replace(config, validation=replace(config.validation, images="none/*")), str(tmp_path), 0)


@pytest.mark.parametrize("key", ["height", "width"])
def test_a_network_input_below_32_pixels_is_named(key: str) -> None:
    assert getattr(DataConfig(**{key: 32}), key) == 32
    with pytest.raises(InputError, match=rf"data\.{key} is 31"):
        DataConfig(**{key: 31})


def test_splits_come_back_from_storage_as_they_went(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "run"))
    without_sizes = list_splits(folders(tmp_path), str(tmp_path), 0)
    for splits in (BASE, without_sizes):
        save_splits(splits, storage)
        loaded = load_splits(storage)
        assert [getattr(loaded, s).schema for s in SPLITS] == [MANIFEST] * 3
        assert loaded == splits
